"""Access below the public interface of an interpreter, for tests that break or measure its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from daytona_kernel_interp import KernelInterpreter
    from daytona_kernel_interp.interpreter.session_access import SessionAccess
    from daytona_kernel_interp.session.kernel_session import KernelSession


def access_of(interpreter: KernelInterpreter) -> SessionAccess:
    """Return the part of an interpreter that has its session."""
    return interpreter._access


def session_of(interpreter: KernelInterpreter) -> KernelSession:
    """Return the running session of an interpreter."""
    session = access_of(interpreter).session
    assert session is not None
    return session
