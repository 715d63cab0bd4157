"""What differs between the DSPy versions that we run on. Read from the wheels 3.1.3, 3.2.1, 3.3.1 and 3.4.1."""

from __future__ import annotations

from typing import Any

from dspy.primitives import code_interpreter
from dspy.primitives.code_interpreter import CodeInterpreterError
from dspy.utils import callback

# DSPy before 3.3 has no class of its own for errors that the model can mend.
CodeExecutionError: type[CodeInterpreterError] = getattr(code_interpreter, "CodeExecutionError", CodeInterpreterError)

# DSPy before 3.3 shuts an interpreter down after every call of ProgramOfThought and CodeAct and then uses it again;
# from 3.3 its protocol says that a session which was shut down must not come back.
REOPENS = not hasattr(code_interpreter, "CodeExecutionError")


def with_callbacks(method: Any) -> Any:
    """Report ``method`` to DSPy's callbacks, where DSPy (from 3.3.1) has hooks for interpreters.

    Before, its decorator would report interpreters as modules.
    """
    if hasattr(callback.BaseCallback, "on_interpreter_execute_start"):
        return callback.with_callbacks(method)
    return method
