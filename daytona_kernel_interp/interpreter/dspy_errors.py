"""The errors that ``KernelInterpreter`` raises: each derives from the package's own class and from one of DSPy's.

DSPy decides by class whether a run goes on: a plain ``CodeInterpreterError`` ends it, and a ``CodeExecutionError`` is
shown to the model, which may correct its code. Users decide by the classes of ``errors``: ``except KernelDied`` around
``execute`` catches the class of the same name here. Before DSPy 3.3 both of DSPy's classes are the same one.
"""

from __future__ import annotations

from .. import errors
from .dspy_compat import CodeExecutionError, CodeInterpreterError

_DERIVED: dict[type[errors.KernelError], type[CodeInterpreterError]] = {}


def _derive(
    error: type[errors.KernelError], base: type[CodeInterpreterError] = CodeInterpreterError
) -> type[CodeInterpreterError]:
    """Return the class of the same name that derives from ``error`` and from DSPy's ``base``."""
    _DERIVED[error] = type(error.__name__, (error, base), {"__module__": __name__, "__doc__": error.__doc__})
    return _DERIVED[error]


KernelError = _derive(errors.KernelError)
SandboxFailed = _derive(errors.SandboxFailed)
SandboxGone = _derive(errors.SandboxGone)
TunnelLost = _derive(errors.TunnelLost)
CellNotRun = _derive(errors.CellNotRun, CodeExecutionError)  # the kernel is alive: the model may run another cell
WireMismatch = _derive(errors.WireMismatch)
KernelDied = _derive(errors.KernelDied)
SessionNotFound = _derive(errors.SessionNotFound)  # also: no session was started yet
RecordingError = _derive(errors.RecordingError)
ReplayMismatch = _derive(errors.ReplayMismatch)


class InvalidCall(CodeInterpreterError, ValueError):
    """A call with an argument or an option that cannot be used. Nothing was sent to the kernel."""


class UnsendableValue(CodeInterpreterError, TypeError):
    """A call with a variable whose value cannot be sent to the kernel. Nothing was sent."""


class VariableNotFound(CodeExecutionError, NameError):  # type: ignore[valid-type,misc]
    """The session has no variable of the requested name."""


class UnreadableValue(CodeExecutionError, TypeError):  # type: ignore[valid-type,misc]
    """The value of a variable cannot leave the sandbox."""


def to_dspy_error(error: errors.KernelError, text: str) -> CodeInterpreterError:
    """Return an error with ``text`` that derives from DSPy's class and from the class of ``error``.

    It has the attributes of ``error``, such as ``exit_code``.
    """
    derived = next(_DERIVED[cls] for cls in type(error).__mro__ if cls in _DERIVED)
    made = derived(text)
    vars(made).update(vars(error))
    return made
