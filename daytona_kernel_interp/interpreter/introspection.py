"""``InspectMixin``: the interpreter's methods that show variables and running code, without a trace in the session."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any

from dspy.primitives.code_interpreter import CodeInterpreterError

from ..errors import KernelError, SessionNotFound
from ..monitor.inspection import Inspection, parse_inspection
from ..runtime.event_loop import io_loop
from .dspy_compat import CodeExecutionError

if TYPE_CHECKING:
    from ..monitor.widget import SessionView
    from ..session.kernel_session import KernelSession


class InspectMixin:
    """Base class of the interpreter, whose private attributes it reads."""

    if TYPE_CHECKING:
        _session: KernelSession | None
        _pid: int

    def inspect(self, name: str | None = None, *, private: bool = False) -> Inspection:
        """Return the session's variables and what it runs now; any thread may ask, also while a cell runs.

        The session does not notice: no cell, no count, no output. No code of a value is run for it; only one variable,
        asked for by ``name`` while no cell runs, is shown by its own ``repr``, for a second at most.
        Variables whose names begin with an underscore are counted, and shown if ``private``.

        Where native code lets nothing else run in the kernel, its relay answers, a quarter of a second later: with
        the variables as they were last seen, and the use of processor and memory.

        Raises:
            CodeExecutionError: If there is no variable ``name``.
            CodeInterpreterError: If there is no session, or it is beyond reach.
        """
        session = self._session_to_inspect("inspect")
        if name is not None and not isinstance(name, str):
            raise CodeInterpreterError(f"inspect() takes the name of one variable, or nothing; not {name!r}.")
        try:
            answer = io_loop().run(session.kernel.inspect(name))
        except KernelError as error:
            raise CodeInterpreterError(f"inspect(): {type(error).__name__}: {error}") from error
        if answer.get("missing") is True:
            raise CodeExecutionError(f"inspect(): NameError: name {name!r} is not defined")
        return parse_inspection(answer, session.id, name, private=private)

    def view(self) -> SessionView:
        """Return a widget that follows the session in JupyterLab (extra ``jupyter``), by asking twice a second.

        It shows steps as they come, what runs and at which line, calls of tools under way, the end of the output, and
        variables. It does not keep the interpreter alive, and ends with the session.

        Raises:
            CodeInterpreterError: If there is no session.
            ImportError: If anywidget is missing.
        """
        from ..monitor.widget import make_view

        session, weak = self._session_to_inspect("view"), weakref.ref(self)
        monitor_server = session.monitor_server

        def follow(since: int) -> dict[str, Any]:
            me = weak()
            if me is None or me._session is not session:
                raise SessionNotFound("the interpreter was shut down")
            del me
            found: dict[str, Any] = io_loop().run(monitor_server.follow(since))
            return found

        return make_view(follow, session.id)

    def _session_to_inspect(self, what: str) -> Any:
        if self._session is None or self._pid != os.getpid():
            raise CodeInterpreterError(f"{what}(): there is no session to look into: call start() first.")
        return self._session
