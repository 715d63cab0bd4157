"""``ReattachMixin``: the part of the interpreter that takes up a session whose host died, and lets go of its own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from dspy.primitives.code_interpreter import CodeInterpreterError

from ..runtime.event_loop import io_loop
from ..session.kernel_session import KernelSession
from ..tools.binding import Tool, weak_method
from .request import CellRequest

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable, Mapping

    from typing_extensions import Self


class ReattachMixin:
    """Base class of the interpreter, whose private methods it calls."""

    if TYPE_CHECKING:
        _sole_call: Callable[..., Any]
        _translated: Callable[..., Any]
        _context: Callable[..., Any]
        _use_session: Callable[..., Any]
        _conclude: Callable[..., Any]
        _report: Callable[..., Any]
        _session: KernelSession | None
        _attached: bool
        _ended: str | None
        _pid: int
        _finalizer: Any
        tools: dict[str, Tool]
        invoke_tool: Callable[..., Any]
        execution_timeout: float | None
        max_output_chars: int | None
        max_value_bytes: int | None
        on_output: Any

        def __init__(self, tools: Any, output_fields: Any, **options: Any) -> None: ...

    @classmethod
    def attach(
        cls,
        session_id: str,
        tools: Mapping[str, Tool] | None = None,
        output_fields: list[dict[str, Any]] | None = None,
        **options: Any,
    ) -> Self:
        """Take up a session whose host process died, and return its interpreter; its variables are there.

        The session is this process's from then on: :meth:`shutdown` ends it, :meth:`resume` tells of the cell that was
        running. Tool calls that the dead host did not answer are not made again: they raise ``HostLost`` in the cell;
        those that the cell makes from now on go to ``tools``. An :meth:`execute` waits until that cell is over.

        Args:
            session_id: The dead host's ``interpreter.session_id``; ``daytona-kernel ls`` lists them.
            tools: As for the constructor, like everything that follows.
            output_fields: As for the constructor.
            options: The constructor's keyword arguments, but ``sandbox``.

        Raises:
            CodeInterpreterError: If there is no such session, its host lives, its kernel is gone, or its relay cannot
                be reached.
        """
        interpreter = cls(tools, output_fields, **options)
        with interpreter._sole_call("attach"), interpreter._translated():
            io_loop().run(interpreter._attach_session(session_id, interpreter._context()))
        return interpreter

    def resume(self) -> Any:
        """Wait for the cell that was running when the host died, and return or raise what its execute would have.

        If it has ended meanwhile, its outcome and output are read from the session's journal; if the host had heard
        of them before it died, they are told again. None if the session ran no cell. The interpreter must come from
        :meth:`attach`, and this must be its first call.

        Raises:
            CodeExecutionError: As for :meth:`execute`.
            CodeInterpreterError: As for :meth:`execute`; and if there is no attached session, or a cell was run since.
        """
        with self._sole_call("resume"), self._translated():
            if not self._attached or self._session is None:
                raise CodeInterpreterError("resume() is for an interpreter from attach(), before its first execute().")
            self._attached = False
            result = io_loop().run(self._session.last_cell())
            return None if result is None else self._conclude(result, CellRequest("", [], raw_only=False))

    async def _attach_session(self, session_id: str, context: contextvars.Context) -> None:
        invoke = weak_method(self.invoke_tool)
        session = await KernelSession.adopt(session_id, invoke, self.max_value_bytes)
        try:
            session.tools.begin_cell(self.tools, context, None)
            await session.adopt_last_cell(
                timeout_s=self.execution_timeout,
                max_output_chars=self.max_output_chars,
                on_output=self._report if self.on_output is not None else None,
            )
            self._use_session(session)
        except BaseException:
            await session.release()
            raise
        self._attached = True

    def detach(self) -> None:
        """Leave the session without ending it: it waits for an :meth:`attach`, in any process, and then ends.

        How long it waits is the sandbox's ``resume_lifetime``. This interpreter is over. Without a session nothing
        happens.
        """
        self._ended = self._ended or "its session was let go"
        session, self._session = self._session, None
        if session is not None and self._pid == os.getpid():
            io_loop().run(session.release())
        if self._finalizer is not None:
            self._finalizer.detach()
