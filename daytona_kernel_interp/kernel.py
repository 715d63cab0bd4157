"""``Kernel``: one live kernel, driven through jupyter_client. Lives on the I/O loop."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import zmq
import zmq.asyncio
from jupyter_client.asynchronous.client import AsyncKernelClient

from .cell import Cell, Event, Output, OutputArrived, Submitted, ToolCalled
from .errors import KernelDied, KernelError, SandboxFailed, TunnelLost
from .settings import (
    AFTER_SUBMIT_S,
    ASYNC_EXCEPTION_S,
    INTERRUPT_S,
    LAST_INTERRUPT_S,
    MAX_PENDING_CALLS,
    REPLY_GRACE_S,
    START_S,
)
from .tools import Reply, ToolAborted, ToolRunner, failure
from .wire import values
from .wire.calls import PREAMBLE_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .tunnel import Tunnel

log = logging.getLogger(__name__)

_PROBE_S = 0.05  # between kernel_info requests until iopub is subscribed
_MESSAGE_SLACK_BYTES = 16 << 20  # above the largest value: JSON parts, the code, a figure
_MAX_LATE_CHARS = 200_000

Message = dict[str, Any]


@dataclass(frozen=True)
class CellResult:
    """A cell that ended with its kernel alive."""

    cell: Cell
    late: str  # what earlier cells' threads printed since they ended
    interrupted: str | None = None  # which rung of the ladder ended it: "interrupt" or "exception"
    timed_out: bool = False


class Kernel:
    """One kernel of a sandbox."""

    def __init__(self, tunnel: Tunnel, max_message_bytes: int) -> None:
        self._tunnel, self._max_message_bytes = tunnel, max_message_bytes
        self._client: AsyncKernelClient | None = None
        self._readers: list[asyncio.Task[None]] = []
        self._calls: set[asyncio.Task[None]] = set()
        self._run: _Run | None = None
        self._late: list[str] = []
        self._late_chars = 0
        self._barriers: dict[str, asyncio.Event] = {}
        self._dead: asyncio.Future[KernelError] = asyncio.get_running_loop().create_future()
        self.id = ""
        self.connection_file = Path()

    @classmethod
    async def start(cls, tunnel: Tunnel, *, max_value_bytes: int | None) -> Kernel:
        """Start a kernel behind ``tunnel`` and wait until it answers on every channel that a cell needs.

        Raises:
            SandboxFailed: If it did not start or answer in time.
            TunnelLost: If the relay went away meanwhile.
        """
        limit = -1 if max_value_bytes is None else max_value_bytes + _MESSAGE_SLACK_BYTES
        kernel = cls(tunnel, limit)
        try:
            await asyncio.wait_for(kernel._connect(), START_S)
        except BaseException as error:
            await kernel.aclose()
            if isinstance(error, asyncio.TimeoutError):
                raise SandboxFailed(f"the kernel did not answer within {START_S:g} s") from error
            raise
        return kernel

    async def _connect(self) -> None:
        self.id, self.connection_file = await self._tunnel.start_kernel(self._exited, self._lost)
        context = _shared_context()
        context.setsockopt(zmq.MAXMSGSIZE, self._max_message_bytes)
        client = self._client = AsyncKernelClient(context=context)
        client.load_connection_file(str(self.connection_file))
        client.start_channels(stdin=False, hb=False)
        for channel, take in (
            (client.shell_channel, self._take_reply),
            (client.iopub_channel, self._take_iopub),
            (client.control_channel, _ignore),
        ):
            self._readers.append(asyncio.create_task(self._read(channel, take)))
        await self._until_subscribed()

    async def _until_subscribed(self) -> None:
        # PUB sends nothing to a subscription that has not arrived; the first idle that does proves it has.
        while not await self._barrier(_PROBE_S):
            if self._dead.done():
                raise self._dead.result()

    # --- cells --------------------------------------------------------------------------------------

    async def run(
        self,
        code: str,
        preamble: list[values.Buffer],
        tools: ToolRunner,
        *,
        timeout_s: float | None,
        max_output_chars: int | None,
        on_output: Callable[[Output], None] | None = None,
    ) -> CellResult:
        """Run one cell to its end and return what it did.

        Sent once; whatever happens to the link, it is never sent again. ``preamble`` is an encoded
        :class:`~.wire.calls.Preamble`.

        Raises:
            KernelDied, TunnelLost: If kernel or link were gone before.
            DiedInCell: If the kernel ended, by itself or because nothing else stopped the cell, or the link was lost.
            ToolAborted: If a host tool raised what is no Exception. The cell was interrupted.
        """
        if self._dead.done():
            raise self._dead.result()
        assert self._client is not None
        content = {
            **{"code": code, "silent": False, "store_history": True, "user_expressions": {}},
            **{"allow_stdin": False, "stop_on_error": False},
        }
        session = self._client.session
        message = session.msg("execute_request", content, metadata={PREAMBLE_KEY: True})
        cell = Cell(message["header"]["msg_id"], max_output_chars=max_output_chars)
        run = self._run = _Run(cell, tools, on_output)
        try:
            session.send(self._client.shell_channel.socket, message, buffers=preamble)
            return await self._finish(run, timeout_s)
        except asyncio.CancelledError:
            await self._climb(run, may_kill=False)
            raise
        finally:
            self._run = None
            tools.end_cell()

    async def interrupt(self) -> None:
        """Interrupt the running cell, if there is one; its variables stay."""
        if self._run is not None:
            self._run.interrupt_wanted.set()

    async def _finish(self, run: _Run, timeout_s: float | None) -> CellResult:
        """Wait for the end of the cell, whatever brings it."""
        loop = asyncio.get_running_loop()
        deadline = None if timeout_s is None else loop.time() + timeout_s
        rung, timed_out = None, False
        while not (run.over.done() or self._dead.done() or timed_out):
            run.interrupt_wanted.clear()
            wanted = asyncio.ensure_future(run.interrupt_wanted.wait())
            try:
                left_s = None if deadline is None else max(0.0, deadline - loop.time())
                await _first_of(run.over, self._dead, wanted, timeout_s=left_s)
                timed_out = not (run.over.done() or self._dead.done() or wanted.done())
            finally:
                wanted.cancel()
            # An interrupt that did not get through leaves the cell running, and us waiting for it.
            rung = await self._climb(run, may_kill=timed_out or run.must_end) if timed_out or wanted.done() else rung
        if run.fatal is not None:
            raise run.fatal
        if not run.over.done():
            await self._raise_death(run)
        return CellResult(run.cell, self._take_late(), rung, timed_out)

    async def _climb(self, run: _Run, *, may_kill: bool) -> str | None:
        """Interrupt the cell, more forcefully each time; return the rung that ended it."""
        for rung, patience_s in (
            ("interrupt", INTERRUPT_S),
            ("exception", ASYNC_EXCEPTION_S),
            ("interrupt", LAST_INTERRUPT_S),
        ):
            if self._dead.done() or run.over.done():
                break
            run.interrupted = True
            self._check_over(run)  # its idle may have come before
            try:
                if rung == "interrupt":
                    await self._tunnel.signal(self.id, "interrupt")
                else:
                    self._send_control({"op": "raise", "cell": run.cell.msg_id})
            except KernelError:
                break
            await _first_of(run.over, self._dead, timeout_s=patience_s)
            if run.over.done():
                return rung
        if may_kill and not run.over.done() and not self._dead.done():
            run.killed = "the cell had to end" if run.must_end else "execution_timeout passed"
            await self._tunnel.signal(self.id, "kill")
            await asyncio.wait({self._dead}, timeout=LAST_INTERRUPT_S)
        return None

    async def _raise_death(self, run: _Run) -> NoReturn:
        if not self._dead.done():
            raise TunnelLost("the relay did not tell that the kernel was killed; whether the cell ended is unknown")
        await self._drain_iopub(run)
        error = self._dead.result()
        raise DiedInCell(error, run.cell) from error

    async def _drain_iopub(self, run: _Run) -> None:
        """Take in what the kernel sent before it died: wait while messages keep coming."""
        seen = -1
        while seen != run.messages:
            seen = run.messages
            await asyncio.sleep(0.1)

    # --- messages -----------------------------------------------------------------------------------

    async def _read(self, channel: Any, take: Callable[[Message], None]) -> None:
        session = channel.session
        while True:
            frames = await channel.socket.recv_multipart()
            try:
                _, parts = session.feed_identities(frames)
                message = session.deserialize(parts)
            except Exception as error:  # a bad signature, or whatever a hostile kernel makes json.loads raise
                log.warning("dropped a message that is no Jupyter message: %s", error)
                continue
            try:
                take(message)
            except Exception:
                log.warning("dropped a malformed message of type %r", message.get("msg_type"), exc_info=True)

    def _take_reply(self, message: Message) -> None:
        run = self._run
        if run is None or _parent_id(message) != run.cell.msg_id or message["msg_type"] != "execute_reply":
            return
        run.cell.receive_reply(message)
        self._check_over(run)

    def _take_iopub(self, message: Message) -> None:
        parent, run = _parent_id(message), self._run
        if parent in self._barriers:
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                self._barriers[parent].set()
            return
        if run is None or parent != run.cell.msg_id:
            self._take_foreign(message)
            return
        run.messages += 1
        for event in run.cell.receive_iopub(message):
            self._handle(run, event)
        self._check_over(run)

    def _take_foreign(self, message: Message) -> None:
        """Take a message of a cell that has ended, or of another client's."""
        data = message["content"].get("data")
        ours = self._client is not None and message["parent_header"].get("session") == self._client.session.session
        if message["msg_type"] == "stream" and ours and self._late_chars < _MAX_LATE_CHARS:
            text = str(message["content"].get("text", ""))[:_MAX_LATE_CHARS]
            self._late.append(text)
            self._late_chars += len(text)
        elif message["msg_type"] == "comm_msg" and isinstance(data, dict) and data.get("op") == "call":
            error = RuntimeError("the cell that made this call has ended")
            self._reply(data.get("id"), Reply("error", values.dumps(failure(error).to_value())))

    def _handle(self, run: _Run, event: Event) -> None:
        match event:
            case OutputArrived(output):
                if run.on_output is not None:
                    run.on_output(output)
            case ToolCalled():
                if len(self._calls) >= MAX_PENDING_CALLS:
                    error = RuntimeError(f"more than {MAX_PENDING_CALLS} tool calls at once")
                    self._reply(event.call_id, Reply("error", values.dumps(failure(error).to_value())))
                    return
                task = asyncio.create_task(self._answer(run, event))
                self._calls.add(task)
                task.add_done_callback(self._calls.discard)
            case Submitted():
                loop = asyncio.get_running_loop()
                run.after_submit = loop.call_later(AFTER_SUBMIT_S, self._demand_end, run)

    def _demand_end(self, run: _Run) -> None:
        run.must_end = True
        run.interrupt_wanted.set()

    async def _answer(self, run: _Run, call: ToolCalled) -> None:
        try:
            reply = await run.tools.run(call.name, call.buffers)
        except ToolAborted as aborted:
            run.fatal = aborted
            self._demand_end(run)
            return
        self._reply(call.call_id, reply)

    def _reply(self, call_id: Any, reply: Reply) -> None:
        self._send_control({"op": reply.op, "id": call_id}, reply.buffers)

    def _send_control(self, data: dict[str, Any], buffers: list[values.Buffer] | None = None) -> None:
        if self._client is None or self._client.control_channel.socket is None:
            return
        session = self._client.session
        message = session.msg("comm_msg", {"comm_id": "", "data": data})
        session.send(self._client.control_channel.socket, message, buffers=buffers or [])

    # --- when a cell is over ---------------------------------------------------------------------------

    def _check_over(self, run: _Run) -> None:
        if run.cell.over:
            run.end()
        elif (run.cell.replied or (run.cell.idle and run.interrupted)) and run.settling is None:
            run.settling = asyncio.create_task(self._settle(run))

    async def _settle(self, run: _Run) -> None:
        """Decide about a cell of which only one of reply and idle came.

        Idle without reply: an interrupt can hit between the code's end and the reply, which then never comes.
        Reply without idle: iopub is ordered, so once a later idle came this cell's is not on its way any more.
        """
        await asyncio.wait({run.over}, timeout=REPLY_GRACE_S)
        while not run.over.done() and not self._dead.done():
            if run.cell.idle:
                run.end()
            elif await self._barrier(REPLY_GRACE_S):
                log.warning("the idle status of cell %s was lost", run.cell.msg_id)
                run.end()

    async def _barrier(self, timeout_s: float) -> bool:
        """Return whether everything that the kernel published before now has arrived, within ``timeout_s``."""
        assert self._client is not None
        session = self._client.session
        message = session.msg("kernel_info_request", {})
        msg_id = message["header"]["msg_id"]
        passed = self._barriers[msg_id] = asyncio.Event()
        session.send(self._client.control_channel.socket, message)
        try:
            await asyncio.wait_for(passed.wait(), timeout_s)
        except asyncio.TimeoutError:
            return False
        finally:
            del self._barriers[msg_id]
        return True

    def _take_late(self) -> str:
        late, self._late, self._late_chars = "".join(self._late), [], 0
        return late

    # --- the end ------------------------------------------------------------------------------------------

    def _exited(self, event: Mapping[str, Any]) -> None:
        code = event.get("code")
        how = f"signal {-code}" if isinstance(code, int) and code < 0 else f"exit code {code}"
        what = f"the kernel's process ended ({how})"
        if self._run is not None and self._run.killed:
            what = f"{self._run.killed} and nothing stopped the code, so the kernel was killed"
        self._lost(
            KernelDied(
                f"{what}; all variables are lost",
                exit_code=code if isinstance(code, int) else None,
                stderr=str(event.get("stderr", "")),
            )
        )

    def _lost(self, error: KernelError) -> None:
        if not self._dead.done():
            self._dead.set_result(error)

    async def aclose(self) -> None:
        """Close the channels. A running cell ends in an error. Calling it again does nothing."""
        self._lost(TunnelLost("the interpreter was shut down"))
        self._tunnel.close_kernel(self.id)
        tasks = [*self._readers, *self._calls]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._client is not None:
            for channel in ("shell", "iopub", "control"):
                socket = getattr(self._client, f"{channel}_channel").socket
                if socket is not None:
                    socket.close(linger=0)
            self._client.stop_channels()
            self._client = None


class DiedInCell(Exception):
    """A cell whose kernel died or whose link was lost: the error, and what the cell had shown."""

    def __init__(self, error: KernelError, cell: Cell) -> None:
        super().__init__(str(error))
        self.error, self.cell = error, cell


class _Run:
    """A cell under way, and who waits for what of it."""

    def __init__(self, cell: Cell, tools: ToolRunner, on_output: Callable[[Output], None] | None) -> None:
        self.cell, self.tools, self.on_output = cell, tools, on_output
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.interrupt_wanted = asyncio.Event()
        self.interrupted = False
        self.must_end = False
        self.killed = ""  # why, if it was
        self.fatal: ToolAborted | None = None
        self.messages = 0
        self.settling: asyncio.Task[None] | None = None
        self.after_submit: asyncio.TimerHandle | None = None

    def end(self) -> None:
        """The cell is over."""
        if self.after_submit is not None:
            self.after_submit.cancel()
        if not self.over.done():
            self.over.set_result(None)


async def _first_of(*futures: asyncio.Future[Any], timeout_s: float | None) -> None:
    await asyncio.wait(futures, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)


def _parent_id(message: Message) -> Any:
    return message["parent_header"].get("msg_id")


def _ignore(message: Message) -> None:
    """Control replies carry nothing that is waited for."""


_context: zmq.asyncio.Context | None = None


def _forget_after_fork() -> None:
    global _context
    _context = None


os.register_at_fork(after_in_child=_forget_after_fork)


def _shared_context() -> zmq.asyncio.Context:
    """Return the process's ZMQ context; each further one would cost an I/O thread.

    Receiving keeps libzmq's high-water mark of 1000 messages. At the mark libzmq stops reading, the tunnel's window
    closes and the kernel has to wait: nothing is lost (the kernel's iopub has no mark, see ``guest/kernel_app.py``),
    and a sandbox that floods us fills its own memory and not ours.
    """
    global _context
    if _context is None or _context.closed:
        _context = zmq.asyncio.Context()
        _context.setsockopt(zmq.SNDHWM, 0)
        _context.setsockopt(zmq.LINGER, 0)
        _context.setsockopt(zmq.RECONNECT_IVL, 5)
        _context.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    return _context
