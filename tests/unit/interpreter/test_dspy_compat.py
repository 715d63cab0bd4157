"""Names of DSPy that the package uses beyond its documented API: each must exist in the installed version."""

from __future__ import annotations

import importlib
import importlib.metadata

import pytest

pytest.importorskip("dspy")

pytestmark = pytest.mark.dspy

VERSION = tuple(map(int, importlib.metadata.version("dspy").split(".")[:3]))
ALWAYS = (0, 0, 0)

# Module, name, the first version that has it.
NAMES = [
    ("dspy.primitives.code_interpreter", "CodeInterpreterError", ALWAYS),
    ("dspy.primitives.code_interpreter", "CodeExecutionError", (3, 3, 0)),
    ("dspy.primitives.code_interpreter", "FinalOutput", ALWAYS),
    ("dspy.utils.callback", "with_callbacks", ALWAYS),
    ("dspy.utils.callback", "BaseCallback", ALWAYS),
    ("dspy.utils.callback", "BaseCallback.on_interpreter_execute_start", (3, 3, 1)),
    ("dspy.utils.callback", "ACTIVE_CALL_ID", ALWAYS),
    ("dspy.dsp.utils.settings", "settings", ALWAYS),
    ("dspy", "RLM", ALWAYS),
    ("dspy", "CodeInterpreter", ALWAYS),
]


@pytest.mark.parametrize(("module", "name", "since"), NAMES, ids=[f"{module}.{name}" for module, name, _ in NAMES])
def test_the_name_exists(module: str, name: str, since: tuple[int, ...]) -> None:
    """An upgrade that removes a name fails here, with the name."""
    if since > VERSION:
        pytest.skip(f"DSPy has it from {'.'.join(map(str, since))} on")
    found: object = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    assert found is not None, f"DSPy {'.'.join(map(str, VERSION))} has no {module}.{name}"


def test_the_versions_differ_as_expected() -> None:
    """From DSPy 3.3 on there are two error classes, and a session that was shut down does not come back."""
    from daytona_kernel_interp.interpreter import dspy_compat

    assert issubclass(dspy_compat.CodeExecutionError, dspy_compat.CodeInterpreterError)
    two_classes = dspy_compat.CodeExecutionError is not dspy_compat.CodeInterpreterError
    assert two_classes == (VERSION >= (3, 3, 0))
    assert (VERSION < (3, 3, 0)) == dspy_compat.REOPENS
