"""Drive one live kernel through jupyter_client. Lives on the I/O loop.

Theory of operation
-------------------

``execution`` decides, this module acts. A :class:`KernelDriver` holds one :class:`.execution.Execution`, an immutable
value, and replaces it in :meth:`KernelDriver._feed` only: an event goes in, actions come out, and each action is
performed by :meth:`KernelDriver._perform`. Events come from four places:

* the caller: ``run``, ``interrupt``, a cancelled task;
* the kernel's messages, live from ``channels`` or recovered from the journal; ``cell_messages`` applies both;
* the tunnel, which observes streams, relay and process (:class:`..tunnel.tunnel.KernelObserver`);
* the timer, which is set to the execution's next deadline.

What takes time runs in one of two tasks. The *step* repairs the link: it opens channels, waits for a barrier or reads
the journal. The *signal* waits until the relay has sent one. An action that starts one of them cancels its predecessor,
so that at most one reader of the journal exists, and no result of an older task is reported. A task ends in exactly one
event; an exception that nothing expects becomes :class:`.execution_events.LinkLost`, so that no call waits for a task
that has failed. The reader tasks of the channels report their exceptions in the same way.

While the journal is read, iopub messages are held in ``channels``. The records are applied, the messages that the
journal had are dropped from the held ones, and the rest is released, all within one callback of the loop: a task that
was cancelled has applied nothing. ``CellMessages.last_iopub_id`` is the position up to which messages were applied, so
reading again after a failure neither repeats nor skips any.

A call of :meth:`KernelDriver.run` waits for the future of its :class:`CellRun`, which the action ``EndCall``
resolves. The execution then holds the outcome, which becomes a result or an exception.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import sys
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import START_S
from ..errors import CellNotRun, KernelError, SandboxFailed, TunnelLost
from ..tunnel.tunnel import KernelObserver
from . import execution_events as events
from .cell_history import CellHistory
from .cell_messages import CellMessages, CellRun
from .channels import Channels, execute_request
from .execution import advance
from .execution_result import ExecutionAborted, ExecutionResult, kernel_died
from .execution_state import CellState, Execution, LinkState
from .inspect_request import InspectClient
from .messages import max_message_bytes
from .outputs import Output, StreamText
from .recovery import LOST_OUTPUT, RecoveredJournal, read_records

if sys.version_info >= (3, 11):
    from typing import assert_never
else:
    from typing_extensions import assert_never  # comes with IPython

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from ..codec import values
    from ..tools.binding import ToolRunner
    from ..tunnel.tunnel import Tunnel
    from .output_collector import OutputCollector

log = logging.getLogger(__name__)


class KernelDriver(KernelObserver):
    """The driver of one kernel: cells, interrupts, tool calls and recovery."""

    def __init__(self, tunnel: Tunnel, max_value_bytes: int | None) -> None:
        self._tunnel, self.max_value_bytes = tunnel, max_value_bytes
        self._loop = asyncio.get_running_loop()
        self._execution = Execution(tunnel.lifetime_s)
        self._events: deque[events.Event] = deque()  # that arrived while another one was handled
        self._feeding = False
        self._timer: asyncio.TimerHandle | None = None
        self._step: asyncio.Task[None] | None = None
        self._signal: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._over: asyncio.Future[KernelError] = self._loop.create_future()  # why there will be no further cell
        self._channels: Channels | None = None
        self._messages = CellMessages(self._feed, self._send_control)
        self.cell_history, self._inspect_client = CellHistory(), InspectClient()
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
        kernel._release()
        return kernel

    @classmethod
    async def attach(cls, tunnel: Tunnel, kernel_id: str, key: str, *, max_value_bytes: int | None) -> KernelDriver:
        """Attach to a kernel that another host started. Call :meth:`find_last_cell` next.

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

    async def _wait_ready(self, *started: Coroutine[Any, Any, None]) -> None:
        steps = [asyncio.ensure_future(step) for step in (self._subscribe(self._open_channels()), *started)]
        ready: asyncio.Future[Any] = asyncio.gather(*steps)
        try:
            with self._tunnel.in_flight():
                await asyncio.wait({ready, self._over}, timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
            if not ready.done() and self._over.done():
                raise self._over.result()
            if not ready.done():
                raise SandboxFailed(f"the kernel did not answer within {START_S:g} s")
            ready.result()
            self._feed(events.KernelReady())
        except BaseException:
            for step in steps:
                step.cancel()
            await asyncio.gather(ready, *steps, return_exceptions=True)
            await self.aclose()
            raise

    def _open_channels(self) -> Channels:
        self._tunnel.limit_messages(self.id, max_message_bytes(self.max_value_bytes))
        channels = self._channels = Channels(
            self.connection_file,
            self.max_value_bytes,
            self._messages.receive_reply,
            self._messages.receive_iopub,
            self.relay_lost,
        )
        return channels

    async def _subscribe(self, channels: Channels) -> None:
        position = await channels.wait_subscribed()
        if self._messages.last_iopub_id is None:  # no message was applied yet, and the journal has all from there on
            self._messages.last_iopub_id = position

    # --- calls --------------------------------------------------------------------------------------

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
            CellNotRun: If the link was lost or the cell was interrupted before it reached the kernel, which lives.
            ExecutionAborted: If the kernel died, was killed because no interrupt stopped the cell, or the link was
                lost.
            ToolAborted: If a host tool raised a BaseException that is no Exception. The cell was interrupted.
        """
        if self.running is not None:  # its caller was cancelled, and it is being interrupted
            await self.running.ended.wait()
        if self._execution.error is not None:
            raise self._execution.error
        cell = CellRun(tools, max_output_chars, on_output, (execute_request(self._messages.session, code), preamble))
        self.cell_history.begin(cell.outputs, code, self._loop.time())
        if on_sent is not None:
            on_sent(cell.outputs)
        self._begin(cell, events.CellBegun(self._limit_at(timeout_s)))
        return await self.wait_ended(cell)

    async def find_last_cell(
        self,
        tools: ToolRunner,
        *,
        timeout_s: float | None,
        max_output_chars: int | None,
        on_output: Callable[[Output], None] | None = None,
    ) -> CellRun | None:
        """Return the last cell that the kernel started for an earlier host, or None; pass it to :meth:`wait_ended`.

        Its pending tool calls are not repeated: they raise ``HostLost`` in the cell.

        Raises:
            KernelError: If the journal cannot be read.
        """
        cell = CellRun(tools, max_output_chars, on_output)
        self._messages.calls.begin_foreign_cell()
        self._begin(cell, events.AdoptionBegun(self._limit_at(timeout_s)))
        with self._tunnel.in_flight():
            await cell.looked_up.wait()
        if cell.outputs.msg_id:
            return cell
        self._messages.running = None
        if self._execution.error is not None:
            raise self._execution.error
        return None

    async def wait_ended(self, cell: CellRun) -> ExecutionResult:
        """Wait for the end of a cell; raise as :meth:`run` does. Cancelling interrupts the cell."""
        try:
            with self._tunnel.in_flight():
                try:
                    await cell.ended.wait()
                except asyncio.CancelledError:
                    self._feed(events.CallCancelled())
                    await cell.ended.wait()
                    raise
            return self._result(cell)
        finally:
            if cell.ended.is_set():
                self._messages.running = None
            self.cell_history.end(cell.outputs, self._loop.time())
            self._messages.calls.end_cell()
            cell.tools.end_cell()

    @property
    def running(self) -> CellRun | None:
        """The cell of the call that runs."""
        return self._messages.running

    async def interrupt(self) -> None:
        """Interrupt the running cell, if any; variables survive."""
        self._feed(events.InterruptRequested())

    async def inspect(self, name: str | None = None) -> dict[str, Any]:
        """Return the kernel's variables and its running cell, or one variable; see ``wire.inspect_messages``.

        Works while a cell runs.

        Raises:
            KernelError: If the kernel is dead, or neither kernel nor relay answers.
        """
        if self._execution.error is not None:
            raise self._execution.error
        return await self._inspect_client.inspect(self._channels, self._tunnel, self.id, name, self._running_cell)

    def _running_cell(self) -> dict[str, object] | None:
        running = self.cell_history.running_cell(self._loop.time())
        return None if running is None else {**running, "calls": self._messages.calls.pending_calls()}

    def _limit_at(self, timeout_s: float | None) -> float | None:
        return None if timeout_s is None else self._loop.time() + timeout_s

    def _begin(self, cell: CellRun, event: events.CellBegun | events.AdoptionBegun) -> None:
        self._messages.running = cell
        self._feed(event)

    def _result(self, cell: CellRun) -> ExecutionResult:
        execution = self._execution
        if cell.tool_abort is not None:
            raise cell.tool_abort
        if execution.cell is CellState.NOT_RUN:
            reason = "the cell was interrupted" if execution.interrupted else "the link was lost"
            raise CellNotRun(f"{reason} before it reached the kernel: it did not run, and variables are kept")
        if execution.cell is not CellState.DONE:
            assert execution.error is not None
            raise ExecutionAborted(execution.error, cell.outputs) from execution.error
        return ExecutionResult(
            cell.outputs, self._messages.background_output.take(), execution.ended_by, execution.timed_out
        )

    # --- events and actions ---------------------------------------------------------------------------

    def _feed(self, event: events.Event) -> None:
        """Pass an event to the execution and perform its actions; events that these cause come after them."""
        self._events.append(event)
        if self._feeding:
            return
        self._feeding = True
        try:
            while self._events:
                self._execution, actions = advance(self._execution, self._events.popleft(), self._loop.time())
                for action in actions:
                    try:
                        self._perform(action)
                    except Exception as error:  # a call must not wait for what was not begun
                        self._events.append(_failed(error))
        finally:
            self._feeding = False
        if self._execution.error is not None and not self._over.done():
            self._over.set_result(self._execution.error)
        self._set_timer()

    def _set_timer(self) -> None:
        deadline = self._execution.deadline
        if self._timer is not None and (deadline is None or self._timer.when() != deadline):
            self._timer.cancel()
            self._timer = None
        if self._timer is None and deadline is not None:
            self._timer = self._loop.call_at(deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        in_transit = self._tunnel.has_unacked_bytes(self.id, "shell")
        while (event := self._execution.expired(self._loop.time(), in_transit=in_transit)) is not None:
            self._feed(event)
        self._set_timer()

    def _perform(self, action: events.Action) -> None:  # noqa: C901 - one case for each action
        cell = self.running
        match action:
            case events.SendRequest():
                if self._channels is not None and cell is not None and cell.request is not None:
                    self._channels.send(*cell.request)
            case events.SendSignal(name, answer_s):
                self._signal = self._replace(self._signal, functools.partial(self._send_signal, name, answer_s))
            case events.EndCode(running):
                if cell is not None:
                    self._send_control({"op": "raise" if running else "withhold", "cell": cell.outputs.msg_id})
            case events.ReopenStreams():
                self._tunnel.suspend_kernel(self.id)  # at once: what is queued must not be sent later
                self._step = self._replace(self._step, self._reopen)
            case events.AwaitBarrier(channel):
                self._step = self._replace(self._step, functools.partial(self._pass_barrier, channel))
            case events.ReadJournal():
                if self._channels is not None:
                    self._channels.hold_iopub()
                self._step = self._replace(self._step, self._read)
            case events.AskPendingCalls():
                self._send_control({"op": "pending"})
            case events.ReportLostOutput():
                if cell is not None:
                    cell.outputs.add(StreamText("stderr", LOST_OUTPUT))
            case events.DropChannels():
                self._tunnel.suspend_kernel(self.id)
                self._step = self._replace(self._step, None)
                self._closing = asyncio.ensure_future(self._close_channels())
            case events.EndCall():
                self._end_call(cell)
            case _:
                assert_never(action)

    def _end_call(self, cell: CellRun | None) -> None:
        if self._execution.cell is CellState.LEFT and not self._tunnel.connected:
            # Whatever is still queued must not run later.
            self._feed(
                events.LinkLost(TunnelLost("the call was cancelled while the link was down; the outcome is unknown"))
            )
        if cell is not None:
            cell.looked_up.set()
            cell.ended.set()

    def _replace(
        self, old: asyncio.Task[None] | None, work: Callable[[], Coroutine[Any, Any, events.Event]] | None
    ) -> asyncio.Task[None] | None:
        if old is not None and old is not asyncio.current_task():
            old.cancel()
        return None if work is None else asyncio.create_task(self._report(work))

    async def _report(self, work: Callable[[], Coroutine[Any, Any, events.Event]]) -> None:
        """Feed the event in which a step or a signal ends, whatever happens in it."""
        try:
            with self._tunnel.in_flight():
                event = await work()
        except KernelError as error:
            event = events.SignalFailed() if asyncio.current_task() is self._signal else events.StepFailed(error)
        except Exception as error:
            event = _failed(error)
        self._feed(event)

    async def _send_signal(self, name: str, answer_s: float) -> events.Event:
        await self._tunnel.signal(self.id, name, answer_s=answer_s)
        return events.SignalSent()

    async def _pass_barrier(self, channel: str) -> events.Event:
        channels = self._channels
        if channels is None:
            raise TunnelLost("the channels were closed")
        await (channels.shell_barrier() if channel == "shell" else channels.barrier())
        return events.BarrierPassed()

    async def _reopen(self) -> events.Event:
        await self._close_channels()
        status = (await self._tunnel.kernels()).get(self.id) or {}
        if not status.get("alive"):
            return events.KernelExited(kernel_died(status, self._execution.kill_reason))
        self._tunnel.reopen_kernel(self.id)
        await self._subscribe(self._open_channels())
        return events.StreamsReopened()

    def _send_control(self, data: dict[str, Any], buffers: Any = ()) -> None:
        if self._channels is not None:
            self._channels.send_control(data, buffers)

    # --- the journal ------------------------------------------------------------------------------------

    async def _read(self) -> events.Event:
        """Read the journal and apply it. Iopub is held until then; a dead kernel's messages are not released."""
        cell, adopting = self.running, self._execution.cell is CellState.ADOPTING
        # After the idle status, only the reply can be missing. It may be anywhere in the cell's part.
        only_reply = cell is not None and cell.outputs.idle
        after = None if only_reply or adopting else self._messages.last_iopub_id
        recovered = await self._read_journal(after, cell.outputs.msg_id or None if cell is not None else None)
        if adopting and recovered.cell is not None:
            self._messages.adopt(recovered.cell)
        self._messages.apply_recovered(recovered, messages=not only_reply)
        if self._execution.link is not LinkState.LAST_READING:
            self._release(set() if only_reply else recovered.ids)
        if adopting:
            self._messages.calls.abandon_foreign_calls(all_read=recovered.cell is not None and not recovered.gap)
        return events.JournalRead()

    async def _read_journal(self, after: str | None = None, cell: str | None = None) -> RecoveredJournal:
        return await read_records(self._tunnel, self.id, self.key, after, cell)

    def _release(self, known: set[str] | None = None) -> None:
        if self._channels is not None:
            self._channels.release_iopub(known or set())

    # --- the end ------------------------------------------------------------------------------------------

    def streams_broken(self) -> None:
        """Handle the loss of a stream of this host's channels."""
        self._feed(events.StreamsBroken())

    def kernel_exited(self, event: Mapping[str, Any]) -> None:
        """Handle the exit of the kernel's process; its last output is in the journal."""
        self._feed(events.KernelExited(kernel_died(event, self._execution.kill_reason)))

    def relay_lost(self, error: KernelError) -> None:
        """Handle the loss of the relay: no further cell runs, and queued messages are dropped."""
        self._feed(events.LinkLost(error))

    async def _close_channels(self) -> None:
        channels, self._channels = self._channels, None
        if channels is not None:
            await channels.aclose()

    async def aclose(self) -> None:
        """Close the channels. A running cell ends in an error. A second call does nothing."""
        self.relay_lost(TunnelLost("the interpreter was shut down"))
        tasks = [task for task in (self._step, self._signal, self._closing) if task is not None]
        for task in tasks:
            if task is not self._closing:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._messages.calls.aclose()
        await self._close_channels()
        self._tunnel.close_kernel(self.id)
        if self._timer is not None:
            self._timer.cancel()


def _failed(error: Exception) -> events.Event:
    """Return the event of an exception that nothing expects."""
    log.error("the kernel's driver failed", exc_info=error)
    return events.LinkLost(TunnelLost(f"the kernel's driver failed: {error!r}; the outcome of the cell is unknown"))
