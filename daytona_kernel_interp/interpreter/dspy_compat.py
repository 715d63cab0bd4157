"""Names of DSPy that differ between its versions, in one place.

Read from the wheels 3.1.3, 3.2.1, 3.3.1 and 3.4.1. Other modules of ``interpreter`` and ``playback`` import these names
from here. ``tests/unit/interpreter/test_dspy_compat.py`` fails with the name of each one that an upgrade removes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from dspy.primitives import code_interpreter
from dspy.primitives.code_interpreter import CodeInterpreterError, FinalOutput
from dspy.utils import callback

Method = TypeVar("Method", bound=Callable[..., object])

__all__ = ["REOPENS", "CodeExecutionError", "CodeInterpreterError", "FinalOutput", "with_callbacks"]

# DSPy before 3.3 has one class only, for errors that end the session and for errors that the model can correct.
CodeExecutionError: type[CodeInterpreterError] = getattr(code_interpreter, "CodeExecutionError", CodeInterpreterError)

# DSPy before 3.3 shuts an interpreter down after every call of ProgramOfThought and CodeAct and then uses it again.
# From 3.3 on, the protocol says that a session which was shut down must not come back.
REOPENS = not hasattr(code_interpreter, "CodeExecutionError")


def with_callbacks(method: Method) -> Method:
    """Decorate ``method`` so that DSPy's interpreter callbacks (3.3.1 and later) report its calls.

    Earlier versions have no interpreter callbacks: their decorator would report the call as one of a module.
    """
    if hasattr(callback.BaseCallback, "on_interpreter_execute_start"):
        decorated: Method = callback.with_callbacks(method)
        return decorated
    return method
