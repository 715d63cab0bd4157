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


class Introspection:
    """Reads variables and running code of an interpreter's session; allowed in any thread, also while a cell runs."""

    def __init__(self, access: SessionAccess) -> None:
        self._access = access

    def inspect(self, name: str | None, *, private: bool) -> Inspection:
        """Return the session's variables and running code, or one variable."""
        session = self._access.current("inspect")
        if name is not None and not isinstance(name, str):
            raise InvalidCall(f"inspect() takes the name of one variable or no name, not {name!r}.")
        try:
            answer = io_loop().run(session.kernel.inspect(name))
        except KernelError as error:
            raise to_dspy_error(error, f"inspect(): {type(error).__name__}: {error}") from error
        if answer.get("missing") is True:
            raise VariableNotFound(f"inspect(): NameError: name {name!r} is not defined")
        return parse_inspection(answer, session.id, name, private=private)

    def view(self) -> SessionView:
        """Return a widget that follows the session; it does not keep the interpreter alive."""
        session, access = self._access.current("view"), weakref.ref(self._access)
        from ..monitor.widget import make_view  # needs the extra `jupyter`

        monitor_server = session.monitor_server

        def follow(since: int) -> dict[str, Any]:
            own = access()
            if own is None or own.session is not session:
                raise SessionNotFound("the interpreter was shut down")
            del own  # a request may take long, and the interpreter may be dropped meanwhile
            return io_loop().run(monitor_server.follow(since))

        return make_view(follow, session.id)
