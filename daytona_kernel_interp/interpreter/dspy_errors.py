"""The errors that ``KernelInterpreter`` raises: each derives from the package's own class and from one of DSPy's.

DSPy decides by class whether a run goes on: a plain ``CodeInterpreterError`` ends it, and a ``CodeExecutionError`` is
shown to the model, which may correct its code. Users decide by the classes of ``errors``: ``except KernelDied`` around
``execute`` catches the class of the same name here. Before DSPy 3.3 both of DSPy's classes are the same one.
"""

from __future__ import annotations

from .. import errors
from .dspy_compat import CodeExecutionError, CodeInterpreterError


def _derive(error: type[errors.KernelError], base: type[CodeInterpreterError]) -> type[CodeInterpreterError]:
    """Return the class of the same name that derives from ``error`` and from DSPy's ``base``."""
    return type(error.__name__, (error, base), {"__module__": __name__, "__doc__": error.__doc__})


KernelError = _derive(errors.KernelError, CodeInterpreterError)
SandboxFailed = _derive(errors.SandboxFailed, CodeInterpreterError)
SandboxGone = _derive(errors.SandboxGone, CodeInterpreterError)
TunnelLost = _derive(errors.TunnelLost, CodeInterpreterError)
CellNotRun = _derive(errors.CellNotRun, CodeExecutionError)  # the kernel is alive: the model may run another cell
WireMismatch = _derive(errors.WireMismatch, CodeInterpreterError)
KernelDied = _derive(errors.KernelDied, CodeInterpreterError)
SessionNotFound = _derive(errors.SessionNotFound, CodeInterpreterError)  # also: no session was started yet
RecordingError = _derive(errors.RecordingError, CodeInterpreterError)
ReplayMismatch = _derive(errors.ReplayMismatch, CodeInterpreterError)


class InvalidCall(CodeInterpreterError, ValueError):
    """A call with an argument or an option that cannot be used. Nothing was sent to the kernel."""


class UnsendableValue(CodeInterpreterError, TypeError):
    """A call with a variable whose value cannot be sent to the kernel. Nothing was sent."""


class VariableNotFound(CodeExecutionError, NameError):  # type: ignore[valid-type,misc]
    """The session has no variable of the requested name."""


class UnreadableValue(CodeExecutionError, TypeError):  # type: ignore[valid-type,misc]
    """The value of a variable cannot leave the sandbox."""


_DERIVED: dict[type[errors.KernelError], type[CodeInterpreterError]] = {
    errors.KernelError: KernelError,
    errors.SandboxFailed: SandboxFailed,
    errors.SandboxGone: SandboxGone,
    errors.TunnelLost: TunnelLost,
    errors.CellNotRun: CellNotRun,
    errors.WireMismatch: WireMismatch,
    errors.KernelDied: KernelDied,
    errors.SessionNotFound: SessionNotFound,
    errors.RecordingError: RecordingError,
    errors.ReplayMismatch: ReplayMismatch,
}


def to_dspy_error(error: errors.KernelError, text: str) -> CodeInterpreterError:
    """Return an error with ``text`` that derives from DSPy's class and from the class of ``error``.

    It has the attributes of ``error``, such as ``exit_code``.
    """
    derived = next(_DERIVED[cls] for cls in type(error).__mro__ if cls in _DERIVED)
    made = derived(text)
    vars(made).update(vars(error))
    return made
