"""The state machine of one kernel's cells: what is known, what is awaited, and what happens next. Sans-I/O.

Theory of operation
-------------------

The problem: a cell has side effects, so its request is sent once and never again, and still every call has to return,
with an outcome that claims no more than is known. Messages can be lost with a link, and link, relay, kernel and caller
can each end at any moment.

The idea: an :class:`Execution` is an immutable value. :func:`advance` takes it and an event, and returns the next one
and the actions to perform. ``kernel_driver`` performs them, and reports what comes of them as further events. All rules
are in :data:`TRANSITIONS`; an event that has no entry for the present state is a protocol error of the peer, which ends
the session. ``docs/execution-states.md`` is written from this module.

An execution has three states side by side; each event belongs to one of them.

* :class:`CellState`: the evidence about the cell. Its request is sent in one transition only, from a state in which it
  was not sent. ``RUNNING`` needs a message of the cell or the journal, ``DONE`` both the reply and the idle status, or
  the journal after a barrier. The states from ``DONE`` on are outcomes. The call returns with the first outcome.
* :class:`LinkState`: whether messages arrive, and the *step* that repairs this. There is one step at a time, and a new
  one replaces the old one, so there is never more than one reader of the journal.
* :class:`StopState`: the interrupt ladder: SIGINT, an exception in the cell's thread, SIGINT again, and SIGKILL if the
  cell has to end.

How a cell whose messages were lost is resolved:

* The streams broke: reopen them, read the journal after the last message that arrived. If the cell is not in it, wait
  until the kernel has handled everything that had reached its shell channel (a barrier), and read once more. A journal
  without a gap and without the cell proves that the cell did not run.
* Only the reply or only the idle status arrived: after ``REPLY_GRACE_S``, a barrier on control proves that nothing of
  the cell is in transit, and the journal has what was lost. A timeout alone never decides.
* The kernel died: its last output is in the journal, which is read until ``Execution.retry_until``.

What bounds each state is its :class:`Bound`. A *step* and a signal end by themselves: the tunnel ends each of them when
the relay is silent, or when the link was down for ``resume_lifetime``. Only the kernel may take as long as its code
does; there the bound is the caller's limit of time. A call with a limit ends at most 6 s after it, 10 s if the relay is
silent; while the link is down, the relay's answers may take up to ``resume_lifetime``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from .. import config
from ..errors import KernelError, SandboxFailed, TunnelLost
from ..wire.protocol_errors import RemoteProtocolError
from . import execution_events as events
from .execution_state import CellState, Execution, LinkState, State, StopState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_UNDER_WAY = (CellState.SENT, CellState.RUNNING, CellState.REPLIED, CellState.IDLE)
_HALF_ENDED = (CellState.REPLIED, CellState.IDLE)
_ACTIVE = (CellState.ADOPTING, *_UNDER_WAY)
_OUTCOMES = tuple(CellState)[list(CellState).index(CellState.DONE) :]
_RECOVERING = (LinkState.READING, LinkState.CHECKING, LinkState.CONFIRMING, LinkState.DRAINING, LinkState.SETTLING)
_READING = (LinkState.READING, LinkState.CONFIRMING, LinkState.SETTLING, LinkState.LAST_READING)
_OVER = (LinkState.DEAD, LinkState.LOST)
_OPEN = (LinkState.STARTING, LinkState.CONNECTED, LinkState.REOPENING, *_RECOVERING)
_LATE = (CellState.DYING, *_OUTCOMES)
_CLIMBING = (StopState.SIGNALLING, StopState.WAITING)


def advance(execution: Execution, event: events.Event, now: float) -> tuple[Execution, list[events.Action]]:
    """Return the execution after ``event``, and the actions to perform."""
    transition = _Transition(execution, now)
    state: State = getattr(execution, event.region)
    rule = TRANSITIONS.get((state, type(event)))
    if rule is None:
        cause = RemoteProtocolError(f"{type(event).__name__} in the state {state.name}")
        error = TunnelLost(f"kernel or relay broke the protocol: {cause}")
        error.__cause__ = cause
        transition.lose(error)
    else:
        rule(transition, event)
    return transition.state, transition.actions


class _Transition:
    """One transition: the state so far, the actions, and a method for each rule of :data:`TRANSITIONS`."""

    def __init__(self, state: Execution, now: float) -> None:
        self.state, self.now = state, now
        self.actions: list[events.Action] = []

    def _set(self, **changes: Any) -> None:
        self.state = replace(self.state, **changes)

    # --- the cell ---------------------------------------------------------------------------------

    def begin(self, event: events.CellBegun) -> None:
        """Send the request, or keep it until the recovery has ended."""
        self._new_cell(CellState.QUEUED, event.limit_at)
        if self.state.link is LinkState.CONNECTED:
            self._send_request()

    def adopt(self, event: events.AdoptionBegun) -> None:
        """Look the cell up in the journal."""
        self._new_cell(CellState.ADOPTING, event.limit_at)
        if self.state.link in (LinkState.CONNECTED, LinkState.READING):
            self._read(LinkState.READING)

    def start(self, _: events.Event) -> None:
        """Note that the cell runs."""
        self._set(cell=CellState.RUNNING)
        self._checked()

    def reply(self, _: events.Event) -> None:
        """End the call if the cell was idle; else wait for the idle status."""
        self._half(CellState.IDLE, CellState.REPLIED)

    def idle(self, _: events.Event) -> None:
        """End the call if the cell has replied; else wait for the reply."""
        self._half(CellState.REPLIED, CellState.IDLE)

    def submit(self, _: events.Event) -> None:
        """Give the cell some seconds to end."""
        if self.state.submitted_until is None:
            self._set(submitted_until=self.now + config.AFTER_SUBMIT_S)

    def require_end(self, _: events.Event) -> None:
        """Climb the ladder, up to the kill."""
        self._require_end("the cell had to end")

    def interrupt(self, _: events.Event) -> None:
        """Climb the ladder, if it is not climbed already."""
        if self.state.stop is StopState.CALM:
            self._climb(0)

    def cancel(self, event: events.Event) -> None:
        """Climb the ladder; leave the cell to itself if that does not end it."""
        self._set(cancelled=True, limit_at=self.now + config.CANCEL_S, submitted_until=None)
        if self.state.stop is not StopState.KILLING:
            self._set(must_end="", end_by=None)
        self.interrupt(event)

    def refuse(self, _: events.Event) -> None:
        """End the call: the request was not sent, and is dropped."""
        self._set(interrupted=True)
        self._finish(CellState.NOT_RUN)

    def limit(self, _: events.Event) -> None:
        """Climb the ladder from its start, up to the kill. Leave a cell that was cancelled."""
        if self.state.cancelled:
            self._finish(CellState.LEFT)
        elif self.state.limit_at is not None and self.now >= self.state.limit_at:
            self._set(timed_out=True)
            self._require_end("execution_timeout passed")
        else:
            self._require_end("the cell had to end")

    # --- the link -----------------------------------------------------------------------------------

    def ready(self, _: events.Event) -> None:
        """Messages arrive from now on."""
        self._connected()

    def break_start(self, _: events.Event) -> None:
        """Give up: the start has failed."""
        self.lose(SandboxFailed("a channel to the kernel closed before the kernel answered"))

    def reopen(self, _: events.Event) -> None:
        """Open new streams, unless that was tried too often."""
        if self.state.recoveries >= config.MAX_RECOVERIES:
            times = f"{config.MAX_RECOVERIES} times"
            self.lose(TunnelLost(f"the link was lost {times} while it was recovered; the outcome is unknown"))
            return
        self._set(link=LinkState.REOPENING, link_at=None, reply_lost=True, recoveries=self.state.recoveries + 1)
        self.actions.append(events.ReopenStreams())

    def reopened(self, _: events.Event) -> None:
        """Read what was lost."""
        self._read(LinkState.READING)

    def draining_passed(self, _: events.Event) -> None:
        """Read what was lost, if reply or idle status is still missing."""
        if self.state.cell in _HALF_ENDED:
            self._read(LinkState.SETTLING)
        else:
            self._connected()

    def checking_passed(self, _: events.Event) -> None:
        """Read whether the cell was started."""
        self._read(LinkState.CONFIRMING)

    def report_gap(self, _: events.Event) -> None:
        """Say that output may be missing, if the cell has started."""
        self._set(gap=True)
        if self.state.cell in (CellState.RUNNING, CellState.DYING, *_HALF_ENDED):
            self.actions.append(events.ReportLostOutput())

    def recovered(self, _: events.Event) -> None:
        """Go on with the cell. Check one that was not started; send one that waits."""
        match self.state.cell:
            case CellState.SENT:
                self._set(link=LinkState.CHECKING, link_at=self.now + self.state.lifetime_s, retry_until=None)
                self.actions.append(events.AwaitBarrier("shell"))
                return
            case CellState.ADOPTING:
                self._finish(CellState.ABSENT)
            case CellState.RUNNING if self.state.recoveries:  # the calls of an adopted cell are answered by HostLost
                self.actions.append(events.AskPendingCalls())
        self._connected()

    def confirmed(self, _: events.Event) -> None:
        """End the call if the cell was not started: it did not run, unless the journal has a gap."""
        if self.state.cell is CellState.SENT and self.state.gap:
            self.lose(TunnelLost("the link was lost together with the running cell's messages: its outcome is unknown"))
            return
        if self.state.cell is CellState.SENT:
            self._finish(CellState.NOT_RUN)
        self._connected()

    def settled(self, _: events.Event) -> None:
        """End the call: nothing of the cell is in transit."""
        if self.state.cell in _HALF_ENDED:
            self._finish(CellState.DONE)
        self._connected()

    def last_read(self, _: events.Event) -> None:
        """End the call in the kernel's death."""
        self._die()

    def retry(self, event: events.StepFailed) -> None:
        """Read the journal again after a moment; give up after ``resume_lifetime``, or in time for a dead kernel."""
        until = self.state.retry_until
        until = self.now + self.state.lifetime_s if until is None else until
        if self.now + config.RETRY_JOURNAL_S > until:
            self.lose(event.error)
        else:
            self._set(link_at=self.now + config.RETRY_JOURNAL_S, retry_until=until)

    def read_again(self, _: events.Event) -> None:
        """Read the journal again, if there is time left."""
        if self.state.retry_until is not None and self.now >= self.state.retry_until:
            self.lose(TunnelLost("the kernel's journal cannot be read; the outcome of the cell is unknown"))
        else:
            dying = self.state.link is LinkState.LAST_READING
            self._set(link_at=self.state.retry_until if dying else None)
            self.actions.append(events.ReadJournal())

    def drain(self, event: events.Event) -> None:
        """Ask for the barrier on control, if reply or idle status is still missing."""
        if self.state.cell in _HALF_ENDED:
            self.drain_again(event)
        else:
            self._connected()

    def drain_again(self, _: events.Event) -> None:
        """Ask for the barrier on control."""
        self._set(link=LinkState.DRAINING, link_at=self.now + config.PROBE_AGAIN_S)
        self.actions.append(events.AwaitBarrier("control"))

    def give_up_check(self, _: events.Event) -> None:
        """Give up: the kernel handles nothing that was sent to its shell channel."""
        self.lose(TunnelLost("the link was lost, and the kernel did not say whether the cell reached it"))

    def fail(self, event: events.StepFailed | events.LinkLost) -> None:
        """End the session: the outcome is unknown, or the kernel's death, and output may be missing."""
        self.lose(event.error)

    def exit(self, event: events.KernelExited) -> None:
        """Read the last output of a cell; without a cell, note the death."""
        if self.state.cell not in _ACTIVE:
            self._set(error=event.error)
            self._die()
            return
        until = self.now + config.LAST_OUTPUT_S
        if (end_by := self.state.end_by) is None and self.state.cell_deadline is not None:
            end_by = self.state.cell_deadline + config.OVERRUN_S
        if end_by is not None:
            until = max(self.now + config.RETRY_JOURNAL_S, min(until, end_by))
        self._set(cell=CellState.DYING, limit_at=None, submitted_until=None, stop=StopState.CALM, stop_at=None)
        self._set(link=LinkState.LAST_READING, link_at=until, retry_until=until, error=event.error)
        self.actions.append(events.ReadJournal())

    # --- the ladder -----------------------------------------------------------------------------------

    def signalled(self, _: events.Event) -> None:
        """Give the cell the rung's time; a cell that has to end has five seconds from the first SIGINT on."""
        if self.state.must_end and not self.state.signalled:
            self._set(signalled=True, end_by=self.now + config.OVERRUN_S)
        # Before the kernel listens to SIGINT, only the exception stops a cell.
        self._wait_rung(running=self.state.cell is CellState.SENT)

    def killed(self, _: events.Event) -> None:
        """Wait for the report of the exit."""
        self._set(stop_at=self.now + config.KILL_ANSWER_S)

    def give_up_kill(self, _: events.Event) -> None:
        """End the session: the relay does not confirm the kernel's death."""
        error = "the relay did not confirm that the kernel was killed; the outcome of the cell is unknown"
        self.lose(TunnelLost(error))

    def rung_over(self, event: events.StopDeadlinePassed) -> None:
        """Try the next rung. A request that is still in transit is dropped with its stream."""
        if self.state.cell is CellState.SENT and event.in_transit and self.state.link is LinkState.CONNECTED:
            kill_at = None
            if self.state.end_by is not None:
                kill_at = max(self.now + config.DROP_S, self.state.end_by - config.LAST_WORDS_S)
            self._set(stop=StopState.DROPPING, stop_at=kill_at)
            self.reopen(event)
        else:
            self.next_rung(event)

    def next_rung(self, event: events.Event) -> None:
        """Try the next rung; after the last, kill the kernel of a cell that has to end, and leave any other alone."""
        if self.state.rung + 1 < len(config.INTERRUPT_LADDER):
            self._climb(self.state.rung + 1)
        elif self.state.must_end:
            self.kill(event)
        else:
            self._set(stop=StopState.CALM, stop_at=None)
            if self.state.cancelled:
                self._finish(CellState.LEFT)

    def kill(self, _: events.Event) -> None:
        """Kill the kernel."""
        self._set(stop=StopState.KILLING, stop_at=None)
        self.actions.append(events.SendSignal("kill", config.KILL_ANSWER_S))

    def flushed(self, _: events.Event) -> None:
        """End the call."""
        self._set(stop=StopState.CALM)
        self.actions.append(events.EndCall())

    def ignore(self, _: events.Event) -> None:
        """Nothing: it is a repetition, or comes too late."""

    # --- common parts -----------------------------------------------------------------------------------

    def lose(self, error: KernelError) -> None:
        """End the session because the relay cannot be used any more, or broke the protocol."""
        if self.state.link in _OVER:
            return
        if self.state.link is LinkState.LAST_READING:
            self._die(incomplete=True)
            return
        self._close(LinkState.LOST, CellState.UNKNOWN, error)

    def _die(self, *, incomplete: bool = False) -> None:
        if incomplete:
            self.actions.append(events.ReportLostOutput())
        self._close(LinkState.DEAD, CellState.DIED, self.state.error)

    def _close(self, link: LinkState, outcome: CellState, error: KernelError | None) -> None:
        flushing = self.state.stop is StopState.FLUSHING
        self._set(link=link, link_at=None, error=error, stop=StopState.CALM, stop_at=None)
        self.actions.append(events.DropChannels())
        if flushing:
            self.actions.append(events.EndCall())
        if self.state.cell in (CellState.QUEUED, CellState.DYING, *_ACTIVE):
            self._finish(outcome)

    def _finish(self, outcome: CellState) -> None:
        state = self.state
        if state.stop is StopState.KILLING:
            return  # whatever the cell has done meanwhile, its kernel is about to end
        ended_by = config.INTERRUPT_LADDER[state.rung][0] if state.stop in _CLIMBING else None
        self._set(cell=outcome, limit_at=None, submitted_until=None, ended_by=ended_by, stop_at=None)
        if state.stop is StopState.SIGNALLING:
            self._set(stop=StopState.FLUSHING)
        else:
            self._set(stop=StopState.CALM)
            self.actions.append(events.EndCall())

    def _new_cell(self, cell: CellState, limit_at: float | None) -> None:
        self._set(cell=cell, limit_at=limit_at, submitted_until=None, end_by=None, cancelled=False, timed_out=False)
        self._set(reply_lost=cell is CellState.ADOPTING)  # it went to the earlier host
        self._set(interrupted=False, gap=False, stop=StopState.CALM, stop_at=None, must_end="", ended_by=None)

    def _send_request(self) -> None:
        self._set(cell=CellState.SENT, gap=False, reply_lost=False)
        self.actions.append(events.SendRequest())

    def _half(self, other: CellState, this: CellState) -> None:
        if self.state.cell is other:
            self._finish(CellState.DONE)
        else:
            self._set(cell=this)
        if self.state.link is LinkState.CONNECTED:
            self._connected()
        self._checked()

    def _checked(self) -> None:
        """End the check whether the cell reached the kernel: it did."""
        if self.state.link is LinkState.CHECKING:
            self._connected()

    def _connected(self) -> None:
        """Enter the state in which messages arrive; a half-ended cell is settled after a moment."""
        settle_at = None
        if self.state.cell in _HALF_ENDED:
            settle_at = self.now if self.state.reply_lost else self.now + config.REPLY_GRACE_S
        self._set(link=LinkState.CONNECTED, link_at=settle_at, recoveries=0)
        if self.state.stop is StopState.DROPPING:
            self._climb(0)
        if self.state.cell is CellState.QUEUED:
            self._send_request()
        elif self.state.cell is CellState.ADOPTING:
            self._read(LinkState.READING)

    def _read(self, state: LinkState) -> None:
        self._set(link=state, link_at=None, retry_until=None)
        self.actions.append(events.ReadJournal())

    def _require_end(self, why: str) -> None:
        self._set(limit_at=None, submitted_until=None)
        if not self.state.must_end:
            self._set(must_end=why, signalled=False, end_by=self.now + config.OVERRUN_S)
            self._climb(0)

    def _climb(self, rung: int) -> None:
        self._set(rung=rung, interrupted=True)
        if config.INTERRUPT_LADDER[rung][0] == "interrupt":
            self._set(stop=StopState.SIGNALLING, stop_at=None)
            self.actions.append(events.SendSignal("interrupt", config.SIGNAL_ANSWER_S))
        else:
            self._wait_rung(running=True)

    def _wait_rung(self, *, running: bool) -> None:
        stop_at = self.now + config.INTERRUPT_LADDER[self.state.rung][1]
        if self.state.end_by is not None:
            stop_at = min(stop_at, max(self.now, self.state.end_by - config.LAST_WORDS_S))
        self._set(stop=StopState.WAITING, stop_at=stop_at)
        self.actions.append(events.EndCode(running))


Rule: TypeAlias = "Callable[[_Transition, Any], None]"


def _table(*rows: tuple[Iterable[State], type[events.Event], Rule]) -> Mapping[tuple[State, type[events.Event]], Rule]:
    return {(state, event): rule for states, event, rule in rows for state in states}


TRANSITIONS = _table(
    ((CellState.NONE, *_OUTCOMES), events.CellBegun, _Transition.begin),
    ((CellState.NONE, *_OUTCOMES), events.AdoptionBegun, _Transition.adopt),
    ((CellState.ADOPTING, CellState.SENT), events.CellStarted, _Transition.start),
    ((CellState.RUNNING, *_HALF_ENDED, *_LATE), events.CellStarted, _Transition.ignore),
    ((CellState.ADOPTING, CellState.SENT, CellState.RUNNING, CellState.IDLE), events.ReplyReceived, _Transition.reply),
    ((CellState.REPLIED, *_LATE), events.ReplyReceived, _Transition.ignore),
    ((CellState.ADOPTING, CellState.SENT, CellState.RUNNING, CellState.REPLIED), events.IdleReceived, _Transition.idle),
    ((CellState.IDLE, *_LATE), events.IdleReceived, _Transition.ignore),
    (_ACTIVE, events.SubmissionReceived, _Transition.submit),
    (_LATE, events.SubmissionReceived, _Transition.ignore),
    (_ACTIVE, events.EndRequired, _Transition.require_end),
    (_LATE, events.EndRequired, _Transition.ignore),
    ((CellState.QUEUED,), events.InterruptRequested, _Transition.refuse),
    (_ACTIVE, events.InterruptRequested, _Transition.interrupt),
    ((CellState.NONE, *_LATE), events.InterruptRequested, _Transition.ignore),
    ((CellState.QUEUED,), events.CallCancelled, _Transition.refuse),
    (_ACTIVE, events.CallCancelled, _Transition.cancel),
    (_LATE, events.CallCancelled, _Transition.ignore),
    ((CellState.QUEUED,), events.LimitPassed, _Transition.refuse),
    (_ACTIVE, events.LimitPassed, _Transition.limit),
    #
    ((LinkState.STARTING,), events.KernelReady, _Transition.ready),
    ((LinkState.STARTING,), events.StreamsBroken, _Transition.break_start),
    ((LinkState.CONNECTED, LinkState.REOPENING, *_RECOVERING), events.StreamsBroken, _Transition.reopen),
    ((LinkState.LAST_READING, *_OVER), events.StreamsBroken, _Transition.ignore),
    ((LinkState.REOPENING,), events.StreamsReopened, _Transition.reopened),
    ((LinkState.DRAINING,), events.BarrierPassed, _Transition.draining_passed),
    ((LinkState.CHECKING,), events.BarrierPassed, _Transition.checking_passed),
    ((LinkState.CONNECTED,), events.BarrierPassed, _Transition.ignore),
    (_READING, events.JournalGap, _Transition.report_gap),
    ((LinkState.READING,), events.JournalRead, _Transition.recovered),
    ((LinkState.CONFIRMING,), events.JournalRead, _Transition.confirmed),
    ((LinkState.SETTLING,), events.JournalRead, _Transition.settled),
    ((LinkState.LAST_READING,), events.JournalRead, _Transition.last_read),
    ((LinkState.REOPENING, LinkState.CHECKING, LinkState.DRAINING), events.StepFailed, _Transition.fail),
    ((LinkState.CONNECTED,), events.StepFailed, _Transition.ignore),
    (_READING, events.StepFailed, _Transition.retry),
    ((LinkState.CONNECTED,), events.LinkDeadlinePassed, _Transition.drain),
    ((LinkState.DRAINING,), events.LinkDeadlinePassed, _Transition.drain_again),
    ((LinkState.CHECKING,), events.LinkDeadlinePassed, _Transition.give_up_check),
    (_READING, events.LinkDeadlinePassed, _Transition.read_again),
    (_OPEN, events.KernelExited, _Transition.exit),
    ((LinkState.LAST_READING, *_OVER), events.KernelExited, _Transition.ignore),
    ((*_OPEN, LinkState.LAST_READING), events.LinkLost, _Transition.fail),
    (_OVER, events.LinkLost, _Transition.ignore),
    #
    ((StopState.SIGNALLING,), events.SignalSent, _Transition.signalled),
    ((StopState.SIGNALLING,), events.SignalFailed, _Transition.next_rung),
    ((StopState.KILLING,), events.SignalSent, _Transition.killed),
    ((StopState.KILLING,), events.SignalFailed, _Transition.give_up_kill),
    ((StopState.CALM,), events.SignalSent, _Transition.ignore),
    ((StopState.CALM,), events.SignalFailed, _Transition.ignore),
    ((StopState.FLUSHING,), events.SignalSent, _Transition.flushed),
    ((StopState.FLUSHING,), events.SignalFailed, _Transition.flushed),
    ((StopState.WAITING,), events.StopDeadlinePassed, _Transition.rung_over),
    ((StopState.DROPPING,), events.StopDeadlinePassed, _Transition.kill),
    ((StopState.KILLING,), events.StopDeadlinePassed, _Transition.give_up_kill),
)
