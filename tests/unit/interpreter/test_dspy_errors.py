"""Errors that ``execute`` raises: caught by the package's classes and by DSPy's."""

from __future__ import annotations

import pickle

import pytest

pytest.importorskip("dspy")

from daytona_kernel_interp import errors
from daytona_kernel_interp.client.execution_result import kernel_died
from daytona_kernel_interp.interpreter import dspy_errors
from daytona_kernel_interp.interpreter.dspy_compat import CodeExecutionError, CodeInterpreterError

pytestmark = pytest.mark.dspy

ERRORS = [error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, errors.KernelError)]


@pytest.mark.parametrize("error", ERRORS, ids=[error.__name__ for error in ERRORS])
def test_each_error_has_a_class_for_dspy(error: type[errors.KernelError]) -> None:
    """It derives from the package's class and from DSPy's, and has the given text."""
    made = dspy_errors.to_dspy_error(error("reason"), "text")
    assert isinstance(made, CodeInterpreterError)
    assert isinstance(made, errors.KernelError)
    assert str(made) == "text"
    if hasattr(dspy_errors, error.__name__):
        assert isinstance(made, error)
        assert type(made) is getattr(dspy_errors, error.__name__)


def test_only_a_cell_that_did_not_run_lets_the_model_go_on() -> None:
    """DSPy ends a run at every other error."""
    if CodeExecutionError is CodeInterpreterError:
        pytest.skip("DSPy before 3.3 has one class for both")
    goes_on = {error.__name__ for error in ERRORS if isinstance(_translated(error), CodeExecutionError)}
    assert goes_on == {"CellNotRun"}


def _translated(error: type[errors.KernelError]) -> CodeInterpreterError:
    return dspy_errors.to_dspy_error(error("reason"), "text")


def test_the_facts_of_an_error_are_kept() -> None:
    """``except KernelDied as error: error.exit_code`` works around ``execute``."""
    died = errors.KernelDied("reason", exit_code=-9, out_of_memory=True, stderr="Killed")
    made = dspy_errors.to_dspy_error(died, "KernelDied: reason")
    assert isinstance(made, errors.KernelDied)
    assert (made.exit_code, made.out_of_memory, made.stderr) == (-9, True, "Killed")


def test_an_error_can_be_pickled() -> None:
    """It may be raised in a worker process."""
    made = pickle.loads(pickle.dumps(dspy_errors.to_dspy_error(errors.TunnelLost("reason"), "text")))
    assert type(made) is dspy_errors.TunnelLost
    assert str(made) == "text"


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (dspy_errors.InvalidCall, ValueError),
        (dspy_errors.UnsendableValue, TypeError),
        (dspy_errors.VariableNotFound, NameError),
        (dspy_errors.UnreadableValue, TypeError),
        (errors.HostLost, ConnectionError),
    ],
)
def test_a_mistake_is_also_pythons_own_error(error: type[Exception], builtin: type[Exception]) -> None:
    """The same classes as :func:`live`, which knows no DSPy, raises."""
    assert issubclass(error, builtin)


@pytest.mark.parametrize("hostile", ["\x1b]0;title\x07", "\x9b2J", "\x1bP1;2q\x1b\\", "\u202etxt"])
def test_the_text_of_an_error_cannot_control_a_terminal(hostile: str) -> None:
    """A relay names the signal and sends the end of the kernel's log; other errors quote what it said too."""
    died = kernel_died({"code": -9, "signal": hostile, "stderr": hostile * 1000}, "")
    for text in (str(died), died.stderr, str(dspy_errors.to_dspy_error(died, f"KernelDied: {hostile}"))):
        assert not set(hostile) & set("\x1b\x07\x9b\u202e") & set(text)
        assert "\\" in text
    for error in ERRORS:
        assert str(error(hostile)).isprintable()
