"""``Kernel``: one live kernel, driven through jupyter_client. Lives on the I/O loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..config import AFTER_SUBMIT_S, CANCEL_S, LADDER, LAST_INTERRUPT_S, MAX_RECOVERIES, REPLY_GRACE_S, START_S
from ..errors import CellNotRun, KernelDied, KernelError, SandboxFailed, TunnelLost
from ..tunnel.tunnel import Watcher
from .cell_history import Steps
from .channels import Channels, Message, parent_id
from .execution import CellResult, DiedInCell, LateText, Run, all_of, death, first_of, race
from .inspect_request import look
from .messages import limit_of
from .output_collector import Cell, Event, OutputArrived, PendingCalls, Submitted, ToolCalled
from .outputs import Output, StreamText
from .recovery import LOST_OUTPUT, Recovered, read_records
from .tool_calls import Calls

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..codec import values
    from ..tools.binding import ToolRunner
    from ..tunnel.tunnel import Tunnel

log = logging.getLogger(__name__)


class Kernel(Watcher):
    """One kernel of a sandbox."""

    def __init__(self, tunnel: Tunnel, max_value_bytes: int | None) -> None:
        self._tunnel, self.max_value_bytes = tunnel, max_value_bytes
        self._channels: Channels | None = None
        self._calls, self._late = Calls(self._send_control), LateText()
        self._run: Run | None = None
        self._sessions: set[str] = set()  # Jupyter sessions whose cells are ours
        self._last_iopub: str | None = None  # msg_id of the last message that came from the kernel
        self._dead: asyncio.Future[KernelError] = asyncio.get_running_loop().create_future()
        self._recovering: asyncio.Task[None] | None = None
        self._broken: asyncio.Future[None] = self._dead.get_loop().create_future()  # since the last recovery began
        self._begun, self.steps = False, Steps()
        self.id, self.key, self.connection_file = "", "", Path()

    @classmethod
    async def start(cls, tunnel: Tunnel, *, max_value_bytes: int | None) -> Kernel:
        """Start a kernel behind ``tunnel`` and wait until it answers on every channel that a cell needs.

        Raises:
            SandboxFailed: If it did not start or answer in time.
            TunnelLost: If the relay went away meanwhile.
        """
        kernel = cls(tunnel, max_value_bytes)
        kernel.id, kernel.connection_file = await tunnel.start_kernel(kernel)
        kernel.key = tunnel.key_of(kernel.id)
        await kernel._begin(tunnel.kernel_started(kernel.id))
        return kernel

    @classmethod
    async def attach(cls, tunnel: Tunnel, kernel_id: str, key: str, *, max_value_bytes: int | None) -> Kernel:
        """Take up a kernel that another host started.

        Raises:
            KernelDied: If it is gone.
            SandboxFailed, TunnelLost: As for :meth:`start`.
        """
        kernel = cls(tunnel, max_value_bytes)
        kernel.id, kernel.key = kernel_id, key
        facts = (await tunnel.kernels()).get(kernel_id)
        if not facts or not facts.get("alive"):
            raise death(facts or {}, "")
        kernel.connection_file = tunnel.open_kernel(kernel_id, key, kernel)
        await kernel._begin()
        return kernel

    async def _begin(self, started: Any = None) -> None:
        try:
            self._open_channels()
            assert self._channels is not None
            steps: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._channels.until_subscribed())]
            if started is not None:
                steps.append(asyncio.ensure_future(started))
            with self._tunnel.in_flight():
                await all_of(steps, self._dead, START_S)
            self._begun = True
        except BaseException:
            await self.aclose()
            raise

    def _open_channels(self) -> Channels:
        self._tunnel.limit_messages(self.id, limit_of(self.max_value_bytes))
        self._channels = Channels(self.connection_file, self.max_value_bytes, self._take_reply, self._take_iopub)
        self._sessions.add(self._channels.session.session)
        return self._channels

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
        on_sent: Callable[[Cell], None] | None = None,
    ) -> CellResult:
        """Run one cell to its end and return what it did.

        Sent once; whatever happens to the link, it is never sent again. ``preamble`` is an encoded
        :class:`~.wire.calls.Preamble`; ``on_sent`` is given the cell, to look at while it runs.

        Raises:
            KernelDied, TunnelLost: If kernel or link were gone before.
            CellNotRun: If the link was lost before the cell reached the kernel, which lives.
            DiedInCell: If the kernel ended, by itself or because nothing else stopped the cell, or the link was lost.
            ToolAborted: If a host tool raised what is no Exception. The cell was interrupted.
        """
        if self._recovering is not None:
            await asyncio.shield(self._recovering)
        if self._dead.done():
            raise self._dead.result()
        assert self._channels is not None
        message = self._channels.execute_request(code)
        cell = Cell(message["header"]["msg_id"], max_output_chars=max_output_chars)
        self.steps.begin(cell, code, asyncio.get_running_loop().time())
        if on_sent is not None:
            on_sent(cell)
        return await self._conduct(Run(cell, tools, on_output), timeout_s, (message, preamble))

    async def find_last(
        self, tools: ToolRunner, *, max_output_chars: int | None, on_output: Callable[[Output], None] | None = None
    ) -> Run | None:
        """Return the last cell that the kernel took up for an earlier host, or None; to :meth:`resume`, or interrupt.

        Tool calls that it waits for are not made again: they raise ``HostLost`` in the cell.

        Raises:
            KernelError: If the journal cannot be read.
        """
        assert self._channels is not None
        self._channels.hold()
        recovered = await self._read_journal()
        if recovered.cell is None:
            self._channels.release(set())
            self._calls.abandon(all_read=False)
            return None
        run = self._run = Run(Cell(recovered.cell, max_output_chars=max_output_chars), tools, on_output)
        run.ours, run.reply_lost = False, True
        self._sessions.add(recovered.cell.partition("_")[0])
        self._calls.not_ours()
        self._apply(recovered)
        self._channels.release(recovered.ids)
        self._calls.abandon(all_read=not recovered.gap)
        return run

    async def resume(self, run: Run, timeout_s: float | None) -> CellResult:
        """Wait for the end of a cell from :meth:`find_last`; raises as :meth:`run` does."""
        return await self._conduct(run, timeout_s, None)

    async def interrupt(self) -> None:
        """Interrupt the running cell, if there is one; its variables stay."""
        if self._run is not None:
            self._run.interrupt_wanted.set()

    async def look(self, name: str | None = None) -> dict[str, Any]:
        """Return what is in the kernel and what it runs, or one variable; also while a cell runs. See ``wire.looks``.

        Raises:
            KernelError: If it is dead, or neither kernel nor relay answers.
        """
        if self._dead.done():
            raise self._dead.result()
        return await look(self._channels, self._tunnel, self.id, name, self._calls.under_way)

    async def _conduct(
        self, run: Run, timeout_s: float | None, request: tuple[Message, list[values.Buffer]] | None
    ) -> CellResult:
        self._run = run
        try:
            with self._tunnel.in_flight():
                if request is not None and self._channels is not None:
                    self._channels.send(*request)
                return await self._finish(run, timeout_s)
        except asyncio.CancelledError:
            await self._withdraw(run)
            raise
        finally:
            self._run = None
            self.steps.end(run.cell, asyncio.get_running_loop().time())
            self._calls.end_cell()
            run.tools.end_cell()

    async def _withdraw(self, run: Run) -> None:
        """Interrupt a cell whose caller has gone. Where the link does not let us, it must not run later either."""
        with self._tunnel.in_flight(), contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._climb(run, may_kill=False), CANCEL_S)
        if not (run.over.done() or self._tunnel.connected):
            await self._destroy(TunnelLost("the call was cancelled while the link was down; the outcome is unknown"))

    async def _finish(self, run: Run, timeout_s: float | None) -> CellResult:
        """Wait for the end of the cell, whatever brings it."""
        loop = asyncio.get_running_loop()
        deadline = None if timeout_s is None else loop.time() + timeout_s
        rung, timed_out = None, False
        self._check_over(run)
        while not (run.over.done() or self._dead.done() or timed_out):
            run.interrupt_wanted.clear()
            wanted = asyncio.ensure_future(run.interrupt_wanted.wait())
            try:
                left_s = None if deadline is None else max(0.0, deadline - loop.time())
                await first_of(run.over, self._dead, wanted, timeout_s=left_s)
                timed_out = not (run.over.done() or self._dead.done() or wanted.done())
            finally:
                wanted.cancel()
            # An interrupt that did not get through leaves the cell running, and us waiting for it.
            rung = await self._climb(run, may_kill=timed_out or run.must_end) if timed_out or wanted.done() else rung
        if run.fatal is not None:
            raise run.fatal
        if run.not_run:
            why = "the cell was interrupted" if run.interrupted else "the link was lost"
            raise CellNotRun(f"{why} before it reached the kernel: it did not run; variables kept")
        if not run.over.done():
            await self._raise_death(run)
        return CellResult(run.cell, self._late.take(), rung, timed_out)

    async def _climb(self, run: Run, *, may_kill: bool) -> str | None:
        """Interrupt the cell, more forcefully each time; return the rung that ended it.

        Patience begins when the relay has done its part, however long the link takes.
        """
        for rung, patience_s in LADDER:
            if self._dead.done() or run.over.done():
                break
            run.interrupted = True
            self._check_over(run)  # its idle may have come before
            try:
                if rung == "interrupt":
                    await race(self._tunnel.signal(self.id, "interrupt"), self._dead)
                op = "raise" if rung == "exception" or not run.started else "withhold"  # see guest/kernel.py
                self._send_control({"op": op, "cell": run.cell.msg_id})
            except KernelError:
                break
            await first_of(run.over, self._dead, timeout_s=patience_s)
            if not (run.started or run.over.done() or self._dead.done()) and self._tunnel.on_its_way(self.id, "shell"):
                await self._take_back(run)
            if run.over.done():
                return rung
        if may_kill and not run.over.done() and not self._dead.done():
            run.killed = "the cell had to end" if run.must_end else "execution_timeout passed"
            with contextlib.suppress(KernelError):
                await race(self._tunnel.signal(self.id, "kill"), self._dead)
            await asyncio.wait({self._dead}, timeout=LAST_INTERRUPT_S)
        return None

    async def _take_back(self, run: Run) -> None:
        """Drop a request that is still on its way, such as one with large variables on a slow link.

        With its connection goes what the kernel has of it; whether that was all is then known.
        """
        if self._recovering is None:
            self.broken()
        await first_of(run.over, self._dead, timeout_s=None)

    async def _raise_death(self, run: Run) -> NoReturn:
        if not self._dead.done():
            raise TunnelLost("the relay did not tell that the kernel was killed; whether the cell ended is unknown")
        error = self._dead.result()
        if isinstance(error, KernelDied):
            if self._channels is not None:
                self._channels.hold()  # for good: what is still on its way is in the journal, too
            try:
                self._apply(await self._read_journal(self._last_iopub, run.cell.msg_id))
            except KernelError as failed:
                log.warning("what the kernel said last cannot be read: %s", failed)
        else:
            await self._close_channels()
        raise DiedInCell(error, run.cell) from error

    # --- messages -----------------------------------------------------------------------------------

    def _take_reply(self, message: Message) -> None:
        run = self._run
        if run is None or parent_id(message) != run.cell.msg_id or message["msg_type"] != "execute_reply":
            return
        run.cell.receive_reply(message)
        self._check_over(run)

    def _take_iopub(self, message: Message) -> None:
        parent, run = parent_id(message), self._run
        if message["msg_type"] == "iopub_welcome":
            return  # greets a subscriber; no journal has it
        self._last_iopub = message["header"]["msg_id"]
        if run is None or parent != run.cell.msg_id:
            self._take_foreign(message)
            return
        run.started = True
        for event in run.cell.receive_iopub(message):
            self._handle(run, event)
        self._check_over(run)

    def _take_foreign(self, message: Message) -> None:
        """Take a message of a cell that has ended, or of another client's."""
        data = message["content"].get("data")
        ours = message["parent_header"].get("session") in self._sessions
        if message["msg_type"] == "stream" and ours:
            self._late.add(str(message["content"].get("text", "")))
        elif message["msg_type"] == "comm_msg" and isinstance(data, dict) and data.get("op") == "call":
            why = "the cell that made this call has ended" if ours else "tools are for the cells of the session's host"
            self._calls.refuse(data.get("id"), why)

    def _handle(self, run: Run, event: Event) -> None:
        match event:
            case OutputArrived(output):
                if run.on_output is not None:
                    run.on_output(output)
            case ToolCalled():
                self._calls.take(event, run.tools, run.abort)
            case PendingCalls(ids):
                self._calls.repeat_replies(ids)
            case Submitted():
                loop = asyncio.get_running_loop()
                run.after_submit = loop.call_later(AFTER_SUBMIT_S, run.demand_end)

    def _send_control(self, data: dict[str, Any], buffers: Any = ()) -> None:
        if self._channels is not None:
            self._channels.send_control(data, buffers)

    # --- when a cell is over ---------------------------------------------------------------------------

    def _check_over(self, run: Run) -> None:
        if run.cell.over:
            run.end()
        elif (run.cell.replied or (run.cell.idle and (run.interrupted or run.reply_lost))) and run.settling is None:
            run.settling = asyncio.create_task(self._settle(run))

    async def _settle(self, run: Run) -> None:
        """Decide about a cell of which only one of reply and idle came.

        Idle without reply: an interrupt can hit between the code's end and the reply; and a kernel replies to the
        connection that the request came by, which may be gone.
        Reply without idle: iopub is ordered, so once a later idle came this cell's is not on its way any more.
        No time alone decides: the kernel's journal says what was sent.
        """
        if not run.reply_lost:
            await asyncio.wait({run.over}, timeout=REPLY_GRACE_S)
        while not run.over.done() and not self._dead.done():
            if self._recovering is not None or self._channels is None:
                await asyncio.sleep(REPLY_GRACE_S)
                continue
            try:
                await asyncio.wait_for(self._channels.barrier(), REPLY_GRACE_S)
                await self._make_up(run, self._channels)
            except asyncio.TimeoutError:
                continue  # the link is slow, or down; it decides nothing
            except KernelError:
                return
            if not run.over.done():
                log.warning("cell %s ended without its reply or its idle status", run.cell.msg_id)
                run.end()

    async def _make_up(self, run: Run, channels: Channels) -> None:
        """Take in what the journal has and did not come, while nothing comes."""
        channels.hold()
        recovered, wanted = Recovered(), not run.cell.idle
        try:
            recovered = await self._read_journal(self._last_iopub if wanted else None, run.cell.msg_id)
            self._apply(recovered, messages=wanted)
        finally:
            if channels is self._channels:  # else a recovery makes up for what was held back
                channels.release(recovered.ids if wanted else set())

    # --- recovery --------------------------------------------------------------------------------------------

    def broken(self) -> None:
        """Streams cannot resume: open new ones, and make up from the journal for what they lost."""
        if not self._begun:
            self.lost(SandboxFailed("a channel to the kernel closed before the kernel had answered"))
            return
        if not self._broken.done():
            self._broken.set_result(None)
        if self._recovering is None and not self._dead.done():
            self._recovering = asyncio.create_task(self._recover())

    async def _recover(self) -> None:
        try:
            for _ in range(MAX_RECOVERIES):
                self._broken = asyncio.get_running_loop().create_future()
                await self._close_channels()  # before anything is dialled: what they have queued is not for later
                with self._tunnel.in_flight():
                    await race(self._reopen(), self._broken)
                if not self._broken.done():
                    return
            raise TunnelLost(f"the link was lost {MAX_RECOVERIES} times while it was recovered; the outcome is unknown")
        except KernelError as error:
            await self._destroy(error)
        except Exception as error:
            log.exception("recovering the kernel failed")
            await self._destroy(TunnelLost(f"the link was lost and could not be recovered: {error}"))
        finally:
            self._recovering = None

    async def _reopen(self) -> None:
        facts = (await self._tunnel.kernels()).get(self.id) or {}
        if not facts.get("alive"):
            self.exited({**facts, "kernel": self.id})
            return
        if self._run is not None:
            self._run.reply_lost = True
        self._tunnel.reopen_kernel(self.id)
        channels = self._open_channels()
        channels.hold()
        # However long: native code may hold the kernel up.
        await all_of([asyncio.ensure_future(channels.until_subscribed())], self._dead, math.inf)
        cell = None if self._run is None else self._run.cell.msg_id
        recovered = await self._read_journal(self._last_iopub, cell)
        self._apply(recovered)
        channels.release(recovered.ids)
        run = self._run
        if run is None:
            return
        self._send_control({"op": "pending"})
        if not run.started and run.ours:
            await self._look_for_start(run, channels, certain=not recovered.gap)

    async def _look_for_start(self, run: Run, channels: Channels, *, certain: bool) -> None:
        """Find out whether a cell of which nothing was heard reached the kernel."""
        await all_of([asyncio.ensure_future(channels.shell_barrier())], self._dead, self._tunnel.lifetime_s)
        recovered = await self._read_journal(None, run.cell.msg_id)
        if recovered.cell == run.cell.msg_id or run.started:
            run.started = True
            return
        if not certain:
            raise TunnelLost("the link was lost, and with it what the running cell did: its outcome is unknown")
        run.not_run = True
        run.end()

    async def _read_journal(self, after: str | None = None, cell: str | None = None) -> Recovered:
        return await read_records(self._tunnel, self.id, self.key, after, cell)

    def _apply(self, recovered: Recovered, *, messages: bool = True) -> None:
        """Take in what the journal holds of the running cell: its reply and, unless told otherwise, its messages."""
        run = self._run
        if run is not None and messages and recovered.gap and run.started:
            run.cell.add(StreamText("stderr", LOST_OUTPUT))
        for message in recovered.messages if messages else ():
            try:
                # Behind a gap come messages of cells that ended long ago.
                if not recovered.gap or (run is not None and parent_id(message) == run.cell.msg_id):
                    self._take_iopub(message)
            except Exception:  # the journal is evidence, not proof
                log.warning("dropped a malformed message of the journal", exc_info=True)
        if run is None:
            return
        for text in recovered.unpublished:
            if text.cell == run.cell.msg_id:
                run.cell.add(StreamText(text.name, text.text))
        if (reply := recovered.replies.get(run.cell.msg_id)) is not None and not run.cell.replied:
            run.cell.receive_reply(reply)
            run.started = True
        self._check_over(run)

    # --- the end ------------------------------------------------------------------------------------------

    def exited(self, event: Mapping[str, Any]) -> None:
        """The kernel's process ended; its last words are in the journal."""
        self.lost(death(event, self._run.killed if self._run is not None else ""))

    def lost(self, error: KernelError) -> None:
        """There will be no further cell; nothing that is still queued for the kernel goes out."""
        if not self._dead.done():
            self._dead.set_result(error)
            self._tunnel.suspend_kernel(self.id)

    async def _destroy(self, error: KernelError) -> None:
        """End it all: nothing that is still queued for the kernel goes out."""
        self.lost(error)
        await self._close_channels()

    async def _close_channels(self) -> None:
        self._tunnel.suspend_kernel(self.id)
        channels, self._channels = self._channels, None
        if channels is not None:
            await channels.aclose()

    async def aclose(self) -> None:
        """Close the channels. A running cell ends in an error. Calling it again does nothing."""
        self.lost(TunnelLost("the interpreter was shut down"))
        if self._recovering is not None:
            self._recovering.cancel()
            await asyncio.gather(self._recovering, return_exceptions=True)
        await self._calls.aclose()
        await self._close_channels()
        self._tunnel.close_kernel(self.id)
