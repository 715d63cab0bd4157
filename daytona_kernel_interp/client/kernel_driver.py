"""Drive one live kernel through jupyter_client. Lives on the I/O loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..config import (
    AFTER_SUBMIT_S,
    CANCEL_S,
    INTERRUPT_LADDER,
    LAST_INTERRUPT_S,
    MAX_RECOVERIES,
    REPLY_GRACE_S,
    START_S,
)
from ..errors import CellNotRun, KernelDied, KernelError, SandboxFailed, TunnelLost
from ..tunnel.tunnel import KernelObserver
from .cell_history import CellHistory
from .channels import Channels, Message, parent_id
from .execution import (
    BackgroundOutput,
    Execution,
    ExecutionAborted,
    ExecutionResult,
    kernel_died,
    run_unless,
    wait_all,
    wait_first,
)
from .inspect_request import InspectClient
from .messages import max_message_bytes
from .output_collector import CellEvent, OutputArrived, OutputCollector, PendingCalls, Submitted, ToolCalled
from .outputs import Output, StreamText
from .recovery import LOST_OUTPUT, RecoveredJournal, read_records
from .tool_calls import ToolCalls

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..codec import values
    from ..tools.binding import ToolRunner
    from ..tunnel.tunnel import Tunnel

log = logging.getLogger(__name__)


class KernelDriver(KernelObserver):
    """The driver of one kernel: cells, interrupts, tool calls and recovery."""

    def __init__(self, tunnel: Tunnel, max_value_bytes: int | None) -> None:
        self._tunnel, self.max_value_bytes = tunnel, max_value_bytes
        self._channels: Channels | None = None
        self._calls, self._background_output = ToolCalls(self._send_control), BackgroundOutput()
        self.execution: Execution | None = None
        self._own_session_ids: set[str] = set()  # Jupyter sessions whose cells this host or its predecessor sent
        self._last_iopub_id: str | None = None  # msg_id of the last iopub message received
        self._dead: asyncio.Future[KernelError] = asyncio.get_running_loop().create_future()
        self._recovering: asyncio.Task[None] | None = None
        self._streams_broken: asyncio.Future[None] = (
            self._dead.get_loop().create_future()
        )  # resolved when streams break after the last recovery began
        self._started, self.cell_history = False, CellHistory()
        self._inspect_client = InspectClient()
        self.id, self.key, self.connection_file = "", "", Path()

    @classmethod
    async def start(cls, tunnel: Tunnel, *, max_value_bytes: int | None) -> KernelDriver:
        """Start a kernel behind ``tunnel`` and wait until it answers on every channel that a cell needs.

        Raises:
            SandboxFailed: If it did not start or answer in time.
            TunnelLost: If the relay went away meanwhile.
        """
        kernel = cls(tunnel, max_value_bytes)
        kernel.id, kernel.connection_file = await tunnel.start_kernel(kernel)
        kernel.key = tunnel.key_of(kernel.id)
        await kernel._wait_ready(tunnel.kernel_started(kernel.id))
        return kernel

    @classmethod
    async def attach(cls, tunnel: Tunnel, kernel_id: str, key: str, *, max_value_bytes: int | None) -> KernelDriver:
        """Attach to a kernel that another host started.

        Raises:
            KernelDied: If the kernel is gone.
            SandboxFailed, TunnelLost: As for :meth:`start`.
        """
        kernel = cls(tunnel, max_value_bytes)
        kernel.id, kernel.key = kernel_id, key
        status = (await tunnel.kernels()).get(kernel_id)
        if not status or not status.get("alive"):
            raise kernel_died(status or {}, "")
        kernel.connection_file = tunnel.open_kernel(kernel_id, key, kernel)
        await kernel._wait_ready()
        return kernel

    async def _wait_ready(self, started: Any = None) -> None:
        try:
            self._open_channels()
            assert self._channels is not None
            steps: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._channels.wait_subscribed())]
            if started is not None:
                steps.append(asyncio.ensure_future(started))
            with self._tunnel.in_flight():
                await wait_all(steps, self._dead, START_S)
            self._started = True
        except BaseException:
            await self.aclose()
            raise

    def _open_channels(self) -> Channels:
        self._tunnel.limit_messages(self.id, max_message_bytes(self.max_value_bytes))
        self._channels = Channels(self.connection_file, self.max_value_bytes, self._receive_reply, self._receive_iopub)
        self._own_session_ids.add(self._channels.session.session)
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
        on_sent: Callable[[OutputCollector], None] | None = None,
    ) -> ExecutionResult:
        """Run one cell to its end and return its result.

        The request is sent once and never again, also after a link failure. ``preamble`` is an encoded
        :class:`~.wire.comm.Preamble`; ``on_sent`` receives the collector of the cell's outputs before it runs.

        Raises:
            KernelDied, TunnelLost: If the kernel or the link was gone before.
            CellNotRun: If the link was lost before the cell reached the kernel, which lives.
            ExecutionAborted: If the kernel died, was killed because no interrupt stopped the cell, or the link was
                lost.
            ToolAborted: If a host tool raised a BaseException that is no Exception. The cell was interrupted.
        """
        if self._recovering is not None:
            await asyncio.shield(self._recovering)
        if self._dead.done():
            raise self._dead.result()
        assert self._channels is not None
        message = self._channels.execute_request(code)
        cell = OutputCollector(message["header"]["msg_id"], max_output_chars=max_output_chars)
        self.cell_history.begin(cell, code, asyncio.get_running_loop().time())
        if on_sent is not None:
            on_sent(cell)
        return await self._execute(Execution(cell, tools, on_output), timeout_s, (message, preamble))

    async def find_last_cell(
        self, tools: ToolRunner, *, max_output_chars: int | None, on_output: Callable[[Output], None] | None = None
    ) -> Execution | None:
        """Return the last cell that the kernel started for an earlier host, or None. It can be resumed or interrupted.

        Its pending tool calls are not repeated: they raise ``HostLost`` in the cell.

        Raises:
            KernelError: If the journal cannot be read.
        """
        assert self._channels is not None
        self._channels.hold_iopub()
        recovered = await self._read_journal()
        if recovered.cell is None:
            self._channels.release_iopub(set())
            self._calls.abandon_foreign_calls(all_read=False)
            return None
        execution = self.execution = Execution(
            OutputCollector(recovered.cell, max_output_chars=max_output_chars), tools, on_output
        )
        execution.sent_here, execution.reply_lost = False, True
        self._own_session_ids.add(recovered.cell.partition("_")[0])
        self._calls.begin_foreign_cell()
        self._apply_recovered(recovered)
        self._channels.release_iopub(recovered.ids)
        self._calls.abandon_foreign_calls(all_read=not recovered.gap)
        return execution

    async def resume(self, execution: Execution, timeout_s: float | None) -> ExecutionResult:
        """Wait for the end of a cell from :meth:`find_last_cell`; raise as :meth:`run` does."""
        return await self._execute(execution, timeout_s, None)

    async def interrupt(self) -> None:
        """Interrupt the running cell, if any; variables survive."""
        if self.execution is not None:
            self.execution.interrupt_requested.set()

    async def inspect(self, name: str | None = None) -> dict[str, Any]:
        """Return the kernel's variables and its running cell, or one variable; see ``wire.inspect_messages``.

        Works while a cell runs.

        Raises:
            KernelError: If the kernel is dead, or neither kernel nor relay answers.
        """
        if self._dead.done():
            raise self._dead.result()
        return await self._inspect_client.inspect(self._channels, self._tunnel, self.id, name, self._running_cell)

    def _running_cell(self) -> dict[str, object] | None:
        running = self.cell_history.running_cell(asyncio.get_running_loop().time())
        return None if running is None else {**running, "calls": self._calls.pending_calls()}

    async def _execute(
        self, execution: Execution, timeout_s: float | None, request: tuple[Message, list[values.Buffer]] | None
    ) -> ExecutionResult:
        self.execution = execution
        try:
            with self._tunnel.in_flight():
                if request is not None and self._channels is not None:
                    self._channels.send(*request)
                return await self._wait_finished(execution, timeout_s)
        except asyncio.CancelledError:
            await self._cancel(execution)
            raise
        finally:
            self.execution = None
            self.cell_history.end(execution.cell, asyncio.get_running_loop().time())
            self._calls.end_cell()
            execution.tools.end_cell()

    async def _cancel(self, execution: Execution) -> None:
        """Interrupt a cell whose caller was cancelled. If the link is down, make sure that it cannot run later."""
        with self._tunnel.in_flight(), contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._escalate_interrupt(execution, may_kill=False), CANCEL_S)
        if not (execution.done.done() or self._tunnel.connected):
            await self._destroy(TunnelLost("the call was cancelled while the link was down; the outcome is unknown"))

    async def _wait_finished(self, execution: Execution, timeout_s: float | None) -> ExecutionResult:
        """Wait until the cell has ended, the kernel has died or the time is up, and return the result."""
        loop = asyncio.get_running_loop()
        deadline = None if timeout_s is None else loop.time() + timeout_s
        rung, timed_out = None, False
        self._check_finished(execution)
        while not (execution.done.done() or self._dead.done() or timed_out):
            execution.interrupt_requested.clear()
            interrupt = asyncio.ensure_future(execution.interrupt_requested.wait())
            try:
                left_s = None if deadline is None else max(0.0, deadline - loop.time())
                await wait_first(execution.done, self._dead, interrupt, timeout_s=left_s)
                timed_out = not (execution.done.done() or self._dead.done() or interrupt.done())
            finally:
                interrupt.cancel()
            # If the interrupt did not reach the kernel, the cell goes on and so does this wait.
            rung = (
                await self._escalate_interrupt(execution, may_kill=timed_out or execution.must_end)
                if timed_out or interrupt.done()
                else rung
            )
        if execution.tool_abort is not None:
            raise execution.tool_abort
        if execution.not_run:
            reason = "the cell was interrupted" if execution.interrupted else "the link was lost"
            raise CellNotRun(f"{reason} before it reached the kernel: it did not run, and variables are kept")
        if not execution.done.done():
            await self._raise_death(execution)
        return ExecutionResult(execution.cell, self._background_output.take(), rung, timed_out)

    async def _escalate_interrupt(self, execution: Execution, *, may_kill: bool) -> str | None:
        """Climb the interrupt ladder; return the rung that ended the cell.

        The wait at each rung begins when the relay has sent the signal, so a slow link does not shorten it.
        """
        for rung, patience_s in INTERRUPT_LADDER:
            if self._dead.done() or execution.done.done():
                break
            execution.interrupted = True
            self._check_finished(execution)  # its idle status may have arrived already
            try:
                if rung == "interrupt":
                    await run_unless(self._tunnel.signal(self.id, "interrupt"), self._dead)
                op = "raise" if rung == "exception" or not execution.started else "withhold"  # see guest.kernel
                self._send_control({"op": op, "cell": execution.cell.msg_id})
            except KernelError:
                break
            await wait_first(execution.done, self._dead, timeout_s=patience_s)
            if not (execution.started or execution.done.done() or self._dead.done()) and self._tunnel.has_unacked_bytes(
                self.id, "shell"
            ):
                await self._drop_request(execution)
            if execution.done.done():
                return rung
        if may_kill and not execution.done.done() and not self._dead.done():
            execution.kill_reason = "the cell had to end" if execution.must_end else "execution_timeout passed"
            with contextlib.suppress(KernelError):
                await run_unless(self._tunnel.signal(self.id, "kill"), self._dead)
            await asyncio.wait({self._dead}, timeout=LAST_INTERRUPT_S)
        return None

    async def _drop_request(self, execution: Execution) -> None:
        """Drop a request that is still in transit, such as one with large variables on a slow link.

        Its connection is closed, which discards an incomplete request in the kernel. The recovery then finds out
        whether the request was complete.
        """
        if self._recovering is None:
            self.streams_broken()
        await wait_first(execution.done, self._dead, timeout_s=None)

    async def _raise_death(self, execution: Execution) -> NoReturn:
        if not self._dead.done():
            raise TunnelLost("the relay did not confirm that the kernel was killed; the outcome of the cell is unknown")
        error = self._dead.result()
        if isinstance(error, KernelDied):
            if self._channels is not None:
                self._channels.hold_iopub()  # not released: messages in transit are in the journal, too
            try:
                self._apply_recovered(await self._read_journal(self._last_iopub_id, execution.cell.msg_id))
            except KernelError as failed:
                log.warning("the kernel's last output cannot be read from its journal: %s", failed)
        else:
            await self._close_channels()
        raise ExecutionAborted(error, execution.cell) from error

    # --- messages -----------------------------------------------------------------------------------

    def _receive_reply(self, message: Message) -> None:
        execution = self.execution
        if execution is None or parent_id(message) != execution.cell.msg_id or message["msg_type"] != "execute_reply":
            return
        execution.cell.receive_reply(message)
        self._check_finished(execution)

    def _receive_iopub(self, message: Message) -> None:
        parent, execution = parent_id(message), self.execution
        if message["msg_type"] == "iopub_welcome":
            return  # sent to a new subscriber; not in the journal
        self._last_iopub_id = message["header"]["msg_id"]
        if execution is None or parent != execution.cell.msg_id:
            self._receive_foreign(message)
            return
        execution.started = True
        for event in execution.cell.receive_iopub(message):
            self._handle_event(execution, event)
        self._check_finished(execution)

    def _receive_foreign(self, message: Message) -> None:
        """Handle a message of a cell that has ended, or of another client."""
        data = message["content"].get("data")
        own_cell = message["parent_header"].get("session") in self._own_session_ids
        if message["msg_type"] == "stream" and own_cell:
            self._background_output.add(str(message["content"].get("text", "")))
        elif message["msg_type"] == "comm_msg" and isinstance(data, dict) and data.get("op") == "call":
            reason = (
                "the cell that made this call has ended"
                if own_cell
                else "tools can be called from cells of the session's host only"
            )
            self._calls.refuse_call(data.get("id"), reason)

    def _handle_event(self, execution: Execution, event: CellEvent) -> None:
        match event:
            case OutputArrived(output):
                if execution.on_output is not None:
                    execution.on_output(output)
            case ToolCalled():
                self._calls.start_call(event, execution.tools, execution.abort)
            case PendingCalls(ids):
                self._calls.resend_replies(ids)
            case Submitted():
                loop = asyncio.get_running_loop()
                execution.submit_timer = loop.call_later(AFTER_SUBMIT_S, execution.require_end)

    def _send_control(self, data: dict[str, Any], buffers: Any = ()) -> None:
        if self._channels is not None:
            self._channels.send_control(data, buffers)

    # --- when a cell is over ---------------------------------------------------------------------------

    def _check_finished(self, execution: Execution) -> None:
        if execution.cell.finished:
            execution.end()
        elif (
            execution.cell.replied or (execution.cell.idle and (execution.interrupted or execution.reply_lost))
        ) and execution.resolving is None:
            execution.resolving = asyncio.create_task(self._resolve_partial_end(execution))

    async def _resolve_partial_end(self, execution: Execution) -> None:
        """Resolve a cell of which only the reply or only the idle status arrived.

        Idle without reply: an interrupt can hit between the end of the code and the reply; and a kernel replies on the
        connection of the request, which may be gone.
        Reply without idle: iopub is ordered, so after a later idle status this cell's cannot arrive any more.
        A timeout alone never decides: the kernel's journal says what was sent.
        """
        if not execution.reply_lost:
            await asyncio.wait({execution.done}, timeout=REPLY_GRACE_S)
        while not execution.done.done() and not self._dead.done():
            if self._recovering is not None or self._channels is None:
                await asyncio.sleep(REPLY_GRACE_S)
                continue
            try:
                await asyncio.wait_for(self._channels.barrier(), REPLY_GRACE_S)
                await self._recover_messages(execution, self._channels)
            except asyncio.TimeoutError:
                continue  # a slow or lost link decides nothing
            except KernelError:
                return
            if not execution.done.done():
                log.warning("cell %s ended without its reply or its idle status", execution.cell.msg_id)
                execution.end()

    async def _recover_messages(self, execution: Execution, channels: Channels) -> None:
        """Apply the journal's messages that did not arrive, with iopub held meanwhile."""
        channels.hold_iopub()
        recovered, apply_messages = RecoveredJournal(), not execution.cell.idle
        try:
            recovered = await self._read_journal(self._last_iopub_id if apply_messages else None, execution.cell.msg_id)
            self._apply_recovered(recovered, messages=apply_messages)
        finally:
            if channels is self._channels:  # otherwise a recovery reads the held messages from the journal
                channels.release_iopub(recovered.ids if apply_messages else set())

    # --- recovery --------------------------------------------------------------------------------------------

    def streams_broken(self) -> None:
        """Start a recovery: open new streams and read what the old ones lost from the journal."""
        if not self._started:
            self.relay_lost(SandboxFailed("a channel to the kernel closed before the kernel answered"))
            return
        if not self._streams_broken.done():
            self._streams_broken.set_result(None)
        if self._recovering is None and not self._dead.done():
            self._recovering = asyncio.create_task(self._recover())

    async def _recover(self) -> None:
        try:
            for _ in range(MAX_RECOVERIES):
                self._streams_broken = asyncio.get_running_loop().create_future()
                await self._close_channels()  # before anything is dialled: their queued messages must not be sent later
                with self._tunnel.in_flight():
                    await run_unless(self._reopen(), self._streams_broken)
                if not self._streams_broken.done():
                    return
            raise TunnelLost(f"the link was lost {MAX_RECOVERIES} times while it was recovered; the outcome is unknown")
        except KernelError as error:
            await self._destroy(error)
        except Exception as error:
            log.exception("recovery of the kernel failed")
            await self._destroy(TunnelLost(f"the link was lost and could not be recovered: {error}"))
        finally:
            self._recovering = None

    async def _reopen(self) -> None:
        status = (await self._tunnel.kernels()).get(self.id) or {}
        if not status.get("alive"):
            self.kernel_exited({**status, "kernel": self.id})
            return
        if self.execution is not None:
            self.execution.reply_lost = True
        self._tunnel.reopen_kernel(self.id)
        channels = self._open_channels()
        channels.hold_iopub()
        # Without a limit: native code may block the kernel.
        await wait_all([asyncio.ensure_future(channels.wait_subscribed())], self._dead, math.inf)
        cell = None if self.execution is None else self.execution.cell.msg_id
        recovered = await self._read_journal(self._last_iopub_id, cell)
        self._apply_recovered(recovered)
        channels.release_iopub(recovered.ids)
        execution = self.execution
        if execution is None:
            return
        self._send_control({"op": "pending"})
        if not execution.started and execution.sent_here:
            await self._check_started(execution, channels, certain=not recovered.gap)

    async def _check_started(self, execution: Execution, channels: Channels, *, certain: bool) -> None:
        """Find out whether a cell without any message reached the kernel."""
        await wait_all([asyncio.ensure_future(channels.shell_barrier())], self._dead, self._tunnel.lifetime_s)
        recovered = await self._read_journal(None, execution.cell.msg_id)
        if recovered.cell == execution.cell.msg_id or execution.started:
            execution.started = True
            return
        if not certain:
            raise TunnelLost("the link was lost together with the running cell's messages: its outcome is unknown")
        execution.not_run = True
        execution.end()

    async def _read_journal(self, after: str | None = None, cell: str | None = None) -> RecoveredJournal:
        return await read_records(self._tunnel, self.id, self.key, after, cell)

    def _apply_recovered(self, recovered: RecoveredJournal, *, messages: bool = True) -> None:
        """Apply the journal's records of the running cell: its reply and, unless excluded, its iopub messages."""
        execution = self.execution
        if execution is not None and messages and recovered.gap and execution.started:
            execution.cell.add(StreamText("stderr", LOST_OUTPUT))
        for message in recovered.messages if messages else ():
            try:
                # After a gap, messages of cells that ended long ago follow.
                if not recovered.gap or (execution is not None and parent_id(message) == execution.cell.msg_id):
                    self._receive_iopub(message)
            except Exception:  # the journal is evidence, not proof
                log.warning("dropped a malformed journal message", exc_info=True)
        if execution is None:
            return
        for text in recovered.unpublished:
            if text.cell == execution.cell.msg_id:
                execution.cell.add(StreamText(text.name, text.text))
        if (reply := recovered.replies.get(execution.cell.msg_id)) is not None and not execution.cell.replied:
            execution.cell.receive_reply(reply)
            execution.started = True
        self._check_finished(execution)

    # --- the end ------------------------------------------------------------------------------------------

    def kernel_exited(self, event: Mapping[str, Any]) -> None:
        """Handle the exit of the kernel's process; its last output is in the journal."""
        self.relay_lost(kernel_died(event, self.execution.kill_reason if self.execution is not None else ""))

    def relay_lost(self, error: KernelError) -> None:
        """Handle the loss of the relay: no further cell runs, and queued messages are dropped."""
        if not self._dead.done():
            self._dead.set_result(error)
            self._tunnel.suspend_kernel(self.id)

    async def _destroy(self, error: KernelError) -> None:
        """Mark the kernel as dead, close the channels and drop queued messages."""
        self.relay_lost(error)
        await self._close_channels()

    async def _close_channels(self) -> None:
        self._tunnel.suspend_kernel(self.id)
        channels, self._channels = self._channels, None
        if channels is not None:
            await channels.aclose()

    async def aclose(self) -> None:
        """Close the channels. A running cell ends in an error. A second call does nothing."""
        self.relay_lost(TunnelLost("the interpreter was shut down"))
        if self._recovering is not None:
            self._recovering.cancel()
            await asyncio.gather(self._recovering, return_exceptions=True)
        await self._calls.aclose()
        await self._close_channels()
        self._tunnel.close_kernel(self.id)
