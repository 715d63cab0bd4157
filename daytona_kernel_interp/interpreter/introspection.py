"""A session inspected from its own interpreter, without a trace in it: ``inspect`` and ``view``."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from ..errors import KernelError, SessionNotFound
from ..monitor.inspection import Inspection, parse_inspection
from ..runtime.event_loop import io_loop
from .dspy_errors import InvalidCall, VariableNotFound, to_dspy_error

if TYPE_CHECKING:
    from typing import Any

    from ..monitor.widget import SessionView
    from .session_access import SessionAccess


def inspect(access: SessionAccess, name: str | None, *, private: bool) -> Inspection:
    """Return the session's variables and running code, or one variable; allowed in any thread."""
    session = access.current("inspect(): there is no session")
    if name is not None and not isinstance(name, str):
        raise InvalidCall(f"inspect() takes the name of one variable or no name, not {name!r}.")
    try:
        answer = io_loop().run(session.kernel.inspect(name))
    except KernelError as error:
        raise to_dspy_error(error, f"inspect(): {type(error).__name__}: {error}") from error
    if answer.get("missing") is True:
        raise VariableNotFound(f"inspect(): NameError: name {name!r} is not defined")
    return parse_inspection(answer, session.id, name, private=private)


def view(access: SessionAccess) -> SessionView:
    """Return a widget that follows the session; it does not keep the interpreter alive."""
    session, weak_access = access.current("view(): there is no session"), weakref.ref(access)
    from ..monitor.widget import SessionView  # needs the extra `jupyter`

    monitor_server = session.monitor_server

    def follow(since: int) -> dict[str, Any]:
        own = weak_access()
        if own is None or own.session is not session:
            raise SessionNotFound("the interpreter was shut down")
        del own  # a request may take long, and the interpreter may be dropped meanwhile
        return io_loop().run(monitor_server.follow(since))

    return SessionView(follow, session.id)
