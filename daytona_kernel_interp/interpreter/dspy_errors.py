"""The errors that ``KernelInterpreter`` raises: each derives from one of ours and from the class that DSPy expects.

DSPy decides by class whether a run goes on: a plain ``CodeInterpreterError`` ends it, and a ``CodeExecutionError`` is
shown to the model, which may correct its code. Users decide by our classes: ``except errors.KernelDied`` around
``execute`` catches :class:`KernelDied` of this module. Before DSPy 3.3 both of DSPy's classes are the same one.
"""

from __future__ import annotations

from .. import errors
from .dspy_compat import CodeExecutionError, CodeInterpreterError


class KernelError(errors.KernelError, CodeInterpreterError):
    """See :class:`errors.KernelError`."""


class SandboxFailed(errors.SandboxFailed, CodeInterpreterError):
    """See :class:`errors.SandboxFailed`."""


class SandboxGone(errors.SandboxGone, CodeInterpreterError):
    """See :class:`errors.SandboxGone`."""


class TunnelLost(errors.TunnelLost, CodeInterpreterError):
    """See :class:`errors.TunnelLost`."""


class CellNotRun(errors.CellNotRun, CodeExecutionError):  # type: ignore[valid-type,misc]  # depends on DSPy's version
    """See :class:`errors.CellNotRun`. The kernel is alive, so the model may run another cell."""


class WireMismatch(errors.WireMismatch, CodeInterpreterError):
    """See :class:`errors.WireMismatch`."""


class KernelDied(errors.KernelDied, CodeInterpreterError):
    """See :class:`errors.KernelDied`."""


class SessionNotFound(errors.SessionNotFound, CodeInterpreterError):
    """See :class:`errors.SessionNotFound`; also raised by calls that need a session before one was started."""


class RecordingError(errors.RecordingError, CodeInterpreterError):
    """See :class:`errors.RecordingError`."""


class ReplayMismatch(errors.ReplayMismatch, CodeInterpreterError):
    """See :class:`errors.ReplayMismatch`."""


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


def error_name(error: BaseException) -> str:
    """Return the class of an error as recordings name it: DSPy's own class where the error derives from one."""
    classes = type(error).__mro__
    return next((cls.__name__ for cls in classes if cls.__module__.startswith("dspy.")), classes[0].__name__)
