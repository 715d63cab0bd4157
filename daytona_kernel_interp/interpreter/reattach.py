"""Sessions that outlive their host: adopted by ``attach``, continued by ``resume``, left behind by ``detach``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..runtime.event_loop import io_loop
from ..session.kernel_session import KernelSession
from .dspy_compat import CodeInterpreterError
from .session_access import guarded

if TYPE_CHECKING:
    import contextvars

    from .options import CallSettings
    from .session_access import SessionAccess


class Reattachment:
    """Passes a session from one host to the next, for one call of an interpreter.

    Args:
        access: The interpreter's session.
        settings: The settings of the call.
    """

    def __init__(self, access: SessionAccess, settings: CallSettings) -> None:
        self._access, self._settings = access, settings

    def attach(self, session_id: str) -> None:
        """Become the host of a session whose own host is gone, and wait for its last cell in the background."""
        with self._access.exclusive("attach", starts=True):
            try:
                io_loop().run(self._adopt(session_id, self._access.cell_context()))
            except BaseException as error:  # re-raised, as the class that DSPy expects
                self._access.raise_for_dspy(error)

    async def _adopt(self, session_id: str, context: contextvars.Context) -> None:
        settings = self._settings
        session = await KernelSession.adopt(session_id, self._access.invoke, settings.max_value_bytes)
        try:
            session.tools.begin_cell(settings.tools, context, None)
            await session.adopt_last_cell(
                timeout_s=settings.execution_timeout,
                max_output_chars=settings.max_output_chars,
                on_output=guarded(settings.on_output),
            )
            self._access.use_session(session, settings)
        except BaseException:  # re-raised: the session waits for another host
            await session.release()
            raise
        self._access.attached = True

    def resume(self) -> object:
        """Wait for the last cell of an attached session; return what ``execute`` would have, or raise its error."""
        with self._access.exclusive("resume"):
            if not self._access.attached or self._access.session is None:
                raise CodeInterpreterError("resume() is for an interpreter from attach(), before its first execute().")
            self._access.attached = False
            try:
                result = io_loop().run(self._access.session.last_cell())
            except BaseException as error:  # re-raised, as the class that DSPy expects
                self._access.raise_for_dspy(error)
            return None if result is None else self._access.conclude(result, self._settings)

    def detach(self) -> None:
        """Leave the session without ending it."""
        session = self._access.end("its session was detached")
        if session is not None:
            io_loop().run(session.release())
        self._access.keep_open()
