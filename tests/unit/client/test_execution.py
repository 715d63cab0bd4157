"""Tests of ``client.execution``: every order of events, and what holds after each of them.

:class:`World` stands for the driver and everything behind it. It performs the machine's actions on paper, so it knows
which events can happen next, and what is true: whether the kernel has started the cell, and whether it lives.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.client import execution_events as events
from daytona_kernel_interp.client.execution import TRANSITIONS, advance
from daytona_kernel_interp.client.execution_state import Bound, CellState, Execution, LinkState, StopState
from daytona_kernel_interp.config import AFTER_SUBMIT_S, INTERRUPT_LADDER, MAX_RECOVERIES, REPLY_GRACE_S
from daytona_kernel_interp.errors import KernelDied, SandboxFailed, TunnelLost
from tests import examples, states_page

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.python

LIFETIME_S = 600.0
DIED, GONE, FAILED = KernelDied("died"), TunnelLost("gone"), TunnelLost("failed")
ACTIVE = {CellState.SENT, CellState.RUNNING, CellState.REPLIED, CellState.IDLE}
OUTCOMES = {
    *(CellState.DONE, CellState.NOT_RUN, CellState.LEFT, CellState.DIED),
    *(CellState.ABSENT, CellState.UNKNOWN),
}
OVER = {LinkState.DEAD, LinkState.LOST}
EVERY_EVENT: list[events.Event] = [
    *(events.CellBegun(None), events.CellBegun(5.0), events.AdoptionBegun(None), events.CellStarted()),
    *(events.ReplyReceived(), events.IdleReceived(), events.SubmissionReceived(), events.EndRequired()),
    *(events.InterruptRequested(), events.CallCancelled(), events.LimitPassed(), events.KernelReady()),
    *(events.StreamsBroken(), events.StreamsReopened(), events.BarrierPassed(), events.JournalRead()),
    *(events.JournalGap(), events.StepFailed(FAILED), events.KernelExited(DIED), events.LinkLost(GONE)),
    *(events.LinkDeadlinePassed(), events.SignalSent(), events.SignalFailed()),
    *(events.StopDeadlinePassed(in_transit=False), events.StopDeadlinePassed(in_transit=True)),
]


class World:
    """An execution and the world around it; :meth:`feed` checks what has to hold after each event."""

    def __init__(self) -> None:
        self.now = 0.0
        self.execution = Execution(LIFETIME_S)
        self.step: events.Action | None = None  # in progress
        self.signal: events.SendSignal | None = None  # in progress
        self.actions: list[events.Action] = []  # of the last event
        self.exited = self.ready = False
        self._forget_cell()

    def _forget_cell(self) -> None:
        self.sent = self.ended = 0
        self.evidence: set[type[events.Event]] = set()
        self.cancelled = self.killed = self.drained = self.checked = self.confirmed = self.gap = False
        self.limit_at: float | None = None

    def feed(self, *happened: events.Event) -> None:
        """Pass events to the machine, perform its actions on paper, and check."""
        for event in happened:
            if isinstance(event, (events.CellBegun, events.AdoptionBegun)):
                self._forget_cell()
                self.limit_at = event.limit_at
            self._note(event)
            self.execution, self.actions = advance(self.execution, event, self.now)
            for action in self.actions:
                self._perform(action)
            self.check()

    def _note(self, event: events.Event) -> None:
        link = self.execution.link
        if event.region == "cell" and self.execution.cell not in OUTCOMES:
            self.evidence.add(type(event))
        match event:
            case events.BarrierPassed():
                self.drained = self.drained or link is LinkState.DRAINING
                self.checked = self.checked or link is LinkState.CHECKING
            case events.JournalRead():
                self.confirmed = self.confirmed or link is LinkState.CONFIRMING
            case events.JournalGap():
                self.gap = self.gap or self.sent > 0
            case events.KernelExited():
                self.exited = True
            case events.KernelReady():
                self.ready = True
            case events.CallCancelled():
                self.cancelled = True
        if isinstance(event, (events.StreamsReopened, events.BarrierPassed, events.JournalRead, events.StepFailed)):
            self.step = None
        if isinstance(event, (events.SignalSent, events.SignalFailed)):
            self.signal = None

    def _perform(self, action: events.Action) -> None:
        match action:
            case events.SendRequest():
                self.sent += 1
            case events.EndCall():
                self.ended += 1
            case events.SendSignal(name):
                self.signal = action
                self.killed = self.killed or name == "kill"
            case events.ReopenStreams() | events.AwaitBarrier() | events.ReadJournal():
                self.step = action
            case events.DropChannels():
                self.step = None

    # --- what can happen ------------------------------------------------------------------------

    def possible(self) -> list[events.Event]:
        """Return the events that a driver and a well-behaved peer can cause now."""
        execution, found = self.execution, list[events.Event]()
        if execution.link is LinkState.STARTING:
            return [events.KernelReady(), events.StreamsBroken(), events.KernelExited(DIED), events.LinkLost(GONE)]
        if execution.cell not in OUTCOMES and execution.cell is not CellState.NONE:
            found += [events.InterruptRequested(), events.CallCancelled(), events.SubmissionReceived()]
            found += [events.EndRequired()] if execution.cell not in (CellState.QUEUED,) else []
        elif self.ended or execution.cell is CellState.NONE:
            found += [] if execution.link in OVER else [events.CellBegun(None), events.CellBegun(self.now + 2.0)]
            found += (
                [events.AdoptionBegun(None)] if execution.cell is CellState.NONE and execution.error is None else []
            )
        if execution.cell in ACTIVE or (execution.cell is CellState.ADOPTING and self.reading):
            found += [events.CellStarted(), events.ReplyReceived(), events.IdleReceived()]
        if execution.cell in (CellState.QUEUED, CellState.NONE):
            found = [event for event in found if not isinstance(event, (events.SubmissionReceived, events.EndRequired))]
        found += [events.StreamsBroken(), events.KernelExited(DIED), events.LinkLost(GONE)]
        return [*found, *self.results(), *self.expiring()]

    @property
    def reading(self) -> bool:
        return isinstance(self.step, events.ReadJournal)

    def results(self) -> list[events.Event]:
        """Return the events in which the tasks in progress can end."""
        found: list[events.Event] = []
        match self.step:
            case events.ReopenStreams():
                found += [events.StreamsReopened(), events.StepFailed(FAILED)]
            case events.AwaitBarrier():
                found += [events.BarrierPassed()]
            case events.ReadJournal():
                found += [events.JournalRead(), events.JournalGap(), events.StepFailed(FAILED)]
        return [*found, *([] if self.signal is None else [events.SignalSent(), events.SignalFailed()])]

    def expiring(self, *, in_transit: bool = False) -> list[events.Event]:
        """Let time pass to the next deadline; return its event."""
        deadline = self.execution.deadline
        if deadline is None:
            return []
        event = self.execution.expired(max(self.now, deadline), in_transit=in_transit)
        assert event is not None
        return [event]

    def choose(self, number: int, pause_s: float, *, in_transit: bool) -> None:
        """Let time pass, and one of the possible events happen; a deadline may be noticed late."""
        self.now += pause_s
        found = self.possible()
        event = found[number % len(found)]
        if isinstance(event, (events.LimitPassed, events.LinkDeadlinePassed, events.StopDeadlinePassed)):
            assert self.execution.deadline is not None
            self.now = max(self.now, self.execution.deadline)
            [event] = self.expiring(in_transit=in_transit)
        self.feed(event)

    # --- what has to hold ---------------------------------------------------------------------------

    def check(self) -> None:
        """Check what holds in every state."""
        execution = self.execution
        assert self.sent <= 1, "a request is sent once"
        waits = execution.cell in OUTCOMES and execution.stop is not StopState.FLUSHING
        assert self.ended == waits, "a call ends once, with its outcome"
        self._check_outcome()
        self._check_bounds()
        assert (execution.error is not None) == (execution.link in OVER or execution.link is LinkState.LAST_READING)

    def _check_outcome(self) -> None:
        seen = self.evidence & {events.CellStarted, events.ReplyReceived, events.IdleReceived}
        match self.execution.cell:
            case CellState.DONE:
                both = {events.ReplyReceived, events.IdleReceived}
                assert both <= seen or (self.drained and both & seen), "the cell has ended"
                assert not self.killed
            case CellState.NOT_RUN:
                assert not seen
                assert not self.sent or (self.checked and self.confirmed and not self.gap), "the journal proves it"
                assert not self.killed
            case CellState.DIED:
                assert self.exited
            case CellState.LEFT:
                assert self.cancelled
            case CellState.ABSENT:
                assert events.AdoptionBegun in self.evidence
                assert not seen
            case CellState.UNKNOWN:
                assert self.execution.link is LinkState.LOST
            case CellState.SENT:
                assert self.sent
                assert not seen

    def _check_bounds(self) -> None:
        """Each state has a deadline, or something in progress that ends by itself."""
        execution = self.execution
        own_deadline = {"cell": execution.cell_deadline, "link": execution.link_at, "stop": execution.stop_at}
        running = {"cell": None, "link": self.step, "stop": self.signal}
        for region, state in (("cell", execution.cell), ("link", execution.link), ("stop", execution.stop)):
            ends = own_deadline[region] is not None or running[region] is not None
            match state.bound:
                case Bound.DEADLINE | Bound.STEP:
                    assert ends or state is LinkState.STARTING, state
                case Bound.LINK:
                    assert execution.link not in {LinkState.CONNECTED, *OVER}, state
                case Bound.CALLER:
                    assert execution.link not in OVER, state
                    half = execution.cell in (CellState.REPLIED, CellState.IDLE)
                    if half and execution.link is LinkState.CONNECTED and execution.stop is not StopState.KILLING:
                        assert execution.link_at is not None


def started(limit_at: float | None = None) -> World:
    """Return a world whose cell runs."""
    world = World()
    world.feed(events.KernelReady(), events.CellBegun(limit_at), events.CellStarted())
    return world


def journal(gap: bool) -> list[events.Event]:
    """Return the events of a journal that was read, with or without a gap."""
    return [*([events.JournalGap()] if gap else []), events.JournalRead()]


def kinds(world: World) -> list[str]:
    """Return the names of the last actions."""
    return [type(action).__name__ for action in world.actions]


PAUSES_S = st.sampled_from([0.0, 0.0, 0.1, 0.7, 3.0, LIFETIME_S])
CHOICES = st.lists(st.tuples(st.integers(0, 10_000), PAUSES_S, st.booleans()), max_size=40)


@examples.at_most(1000)
@given(CHOICES, st.booleans())
def test_every_possible_order(choices: list[tuple[int, float, bool]], killing: bool) -> None:
    """Whatever happens in whatever order, one request is sent, one outcome returned, and nothing waits for ever."""
    world = started(2.0) if killing else World()
    if killing:
        climb_to_kill(world)
    for number, pause_s, in_transit in choices:
        world.choose(number, pause_s, in_transit=in_transit)
        assert "broke the protocol" not in str(world.execution.error), "a driver causes no such order"


@examples.at_most(1000)
@given(CHOICES, st.lists(st.sampled_from(EVERY_EVENT), max_size=8))
def test_every_impossible_order(choices: list[tuple[int, float, bool]], rest: list[events.Event]) -> None:
    """Events without a transition end the session; the outcome still claims no more than is known."""
    world = World()
    for number, pause_s, in_transit in choices:
        world.choose(number, pause_s, in_transit=in_transit)
    for event in rest:
        begins = isinstance(event, (events.CellBegun, events.AdoptionBegun))
        if begins and (not world.ended or world.execution.error is not None):
            continue  # the driver begins no cell then
        before = world.execution
        known = (getattr(before, event.region), type(event)) in TRANSITIONS
        world.feed(event)
        if not known and before.link not in (*OVER, LinkState.LAST_READING):
            assert "broke the protocol" in str(world.execution.error)
            assert world.execution.link is LinkState.LOST


@examples.at_most(1000)
@given(CHOICES, st.booleans(), st.booleans())
def test_a_call_with_a_limit_ends_in_time(
    choices: list[tuple[int, float, bool]], silent: bool, in_transit: bool
) -> None:
    """From any state, a kernel that does not end costs 6 s beyond the limit, and a silent relay 10 s."""
    world = World()
    world.feed(events.KernelReady(), events.CellBegun(2.0))
    for number, pause_s, _ in choices[:6]:
        world.choose(number, pause_s, in_transit=False)
        if world.ended or world.cancelled or world.now > 2.0:
            return
    assert world.limit_at is not None
    until = max(world.limit_at, world.now) + (10.0 if silent else 6.0)
    asked, answer_at = world.signal, world.now
    for _ in range(100):
        if world.ended:
            break
        if world.signal is not None and world.signal is not asked:
            asked, answer_at = world.signal, world.now + (world.signal.answer_s if silent else 0.0)
        deadline = world.execution.deadline
        if world.signal is None or (deadline is not None and deadline < answer_at):
            assert deadline is not None, world.execution
            world.now = max(world.now, deadline)
            world.feed(*world.expiring(in_transit=in_transit))
            continue
        world.now, killing = max(world.now, answer_at), world.signal.name == "kill"
        world.feed(events.SignalFailed() if silent else events.SignalSent())
        if killing and not silent:
            world.feed(events.KernelExited(DIED))
    assert world.ended
    assert world.now <= until


@examples.at_most(1000)
@given(CHOICES)
def test_without_answers_a_call_ends_with_the_link(choices: list[tuple[int, float, bool]]) -> None:
    """When the link is lost for good, the call has ended, whatever was under way."""
    world = World()
    for number, pause_s, in_transit in choices:
        world.choose(number, pause_s, in_transit=in_transit)
    begun = world.execution.cell is not CellState.NONE
    world.feed(events.LinkLost(GONE))
    assert world.execution.link in OVER
    assert world.ended == begun


# --- single rules ------------------------------------------------------------------------------------------


def test_a_cell_ends_with_reply_and_idle() -> None:
    """In either order; repeated messages change nothing."""
    for order in ((events.ReplyReceived(), events.IdleReceived()), (events.IdleReceived(), events.ReplyReceived())):
        world = started()
        world.feed(order[0], order[0], events.CellStarted())
        assert not world.ended
        world.feed(order[1])
        assert world.execution.cell is CellState.DONE
        world.feed(*order)


@pytest.mark.parametrize("half", [events.ReplyReceived(), events.IdleReceived()], ids=["reply", "idle"])
def test_half_an_end_is_settled_by_the_journal(half: events.Event) -> None:
    """After a second, a barrier and the journal decide; a failed read is repeated."""
    world = started()
    world.feed(half)
    assert world.execution.deadline == REPLY_GRACE_S
    world.now = REPLY_GRACE_S
    world.feed(events.LinkDeadlinePassed())
    assert world.actions == [events.AwaitBarrier("control")]
    world.feed(events.BarrierPassed(), events.StepFailed(FAILED))
    assert not world.ended
    assert world.execution.deadline is not None
    world.feed(events.LinkDeadlinePassed())
    assert world.reading
    world.feed(events.JournalRead())
    assert world.execution.cell is CellState.DONE


def test_a_cell_that_the_journal_does_not_know_did_not_run() -> None:
    """Its request was lost with the streams: a barrier on shell and a second look prove it."""
    world = World()
    world.feed(events.KernelReady(), events.CellBegun(None), events.StreamsBroken())
    assert kinds(world) == ["ReopenStreams"]
    world.feed(events.StreamsReopened(), events.JournalRead())
    assert events.AwaitBarrier("shell") in world.actions
    world.feed(events.BarrierPassed(), events.JournalRead())
    assert world.execution.cell is CellState.NOT_RUN
    assert world.execution.link is LinkState.CONNECTED


@pytest.mark.parametrize("gaps", [(True, False), (False, True)])
def test_a_gap_proves_nothing(gaps: tuple[bool, bool]) -> None:
    """A journal that lacks messages cannot show that a cell did not run: the outcome is unknown."""
    world = World()
    world.feed(events.KernelReady(), events.CellBegun(None), events.StreamsBroken(), events.StreamsReopened())
    world.feed(*journal(gaps[0]), events.BarrierPassed(), *journal(gaps[1]))
    assert world.execution.cell is CellState.UNKNOWN
    assert "outcome is unknown" in str(world.execution.error)


def test_a_gap_survives_a_second_fault() -> None:
    """The streams break again after a read with a gap: the next read, which has none, proves nothing."""
    world = World()
    world.feed(events.KernelReady(), events.CellBegun(None))
    for gap in (True, False):
        world.feed(events.StreamsBroken(), events.StreamsReopened(), *journal(gap))
    world.feed(events.BarrierPassed(), events.JournalRead())
    assert world.execution.cell is CellState.UNKNOWN


def test_a_cell_of_a_broken_link_waits_for_the_recovery() -> None:
    """Its request is sent after the recovery. An interrupt before takes it back, which is certain."""
    world = World()
    world.feed(events.KernelReady(), events.StreamsBroken(), events.CellBegun(None))
    assert not world.sent
    world.feed(events.StreamsReopened(), events.JournalRead())
    assert world.sent
    for end in (events.InterruptRequested(), events.CallCancelled(), events.LimitPassed()):
        world = World()
        world.feed(events.KernelReady(), events.StreamsBroken(), events.CellBegun(None), end)
        assert world.execution.cell is CellState.NOT_RUN
        world.feed(events.StreamsReopened(), events.JournalRead())
        assert not world.sent


def test_a_death_during_a_recovery_has_one_reader() -> None:
    """The reading step is replaced, so that only one of the two can apply the journal."""
    world = started()
    world.feed(events.StreamsBroken(), events.StreamsReopened())
    first = world.step
    world.feed(events.KernelExited(DIED))
    assert world.reading
    assert world.step is not first
    assert kinds(world) == ["ReadJournal"]
    world.feed(events.JournalRead())
    assert world.execution.cell is CellState.DIED


def test_a_death_without_its_journal_says_so() -> None:
    """The read fails again and again: the call ends in time, and says that output may be missing."""
    world = started()
    world.feed(events.KernelExited(DIED))
    while not world.ended:
        world.feed(events.StepFailed(FAILED))
        if not world.ended:
            assert world.execution.deadline is not None
            world.now = world.execution.deadline
            world.feed(events.LinkDeadlinePassed())
    assert world.execution.cell is CellState.DIED
    assert "ReportLostOutput" in kinds(world)


def test_recoveries_are_limited() -> None:
    """Streams that break again and again end the session."""
    world = started()
    for _ in range(MAX_RECOVERIES):
        world.feed(events.StreamsBroken())
    assert not world.ended
    world.feed(events.StreamsBroken())
    assert world.execution.cell is CellState.UNKNOWN


def test_a_start_whose_channel_closes_fails() -> None:
    """No recovery is tried before the kernel has answered."""
    world = World()
    world.feed(events.StreamsBroken())
    assert isinstance(world.execution.error, SandboxFailed)


def climb(world: World, act: Callable[[World], None]) -> list[tuple[float, str]]:
    """Let a cell ignore everything; return the times and names of what the ladder does."""
    done: list[tuple[float, str]] = []
    act(world)
    for _ in range(30):
        for action in world.actions:
            if isinstance(action, events.SendSignal):
                done.append((world.now, action.name))
            elif isinstance(action, events.EndCode):
                done.append((world.now, "raise" if action.running else "withhold"))
        if world.signal is not None:
            world.feed(events.SignalSent())
            continue
        if world.execution.stop is StopState.CALM:
            break
        assert world.execution.deadline is not None
        world.now = world.execution.deadline
        world.feed(*world.expiring())
    return done


def test_the_ladder_after_the_limit() -> None:
    """SIGINT at the limit, an exception after 0.5 s, SIGINT after 1 s, SIGKILL after 5 s and not before."""

    def pass_limit(world: World) -> None:
        world.now = 2.0
        world.feed(events.LimitPassed())

    steps = climb(started(2.0), pass_limit)
    assert [name for _, name in steps] == ["interrupt", "withhold", "raise", "interrupt", "withhold", "kill"]
    assert [at for at, name in steps if name != "withhold"] == pytest.approx([2.0, 2.5, 3.0, 7.0])
    assert sum(patience_s for _, patience_s in INTERRUPT_LADDER) == 5.0


def test_an_interrupt_kills_nothing() -> None:
    """After the last rung the cell goes on, and can be interrupted again."""
    world = started()
    steps = climb(world, lambda world: world.feed(events.InterruptRequested()))
    assert "kill" not in [name for _, name in steps]
    assert not world.ended
    world.feed(events.InterruptRequested())
    assert kinds(world) == ["SendSignal"]


def test_a_cell_that_goes_on_after_submit_is_interrupted() -> None:
    """It gets some seconds; a second SUBMIT does not prolong them."""
    world = started()
    world.feed(events.SubmissionReceived())
    world.now = 1.0
    world.feed(events.SubmissionReceived())
    assert world.execution.deadline == AFTER_SUBMIT_S
    world.now = AFTER_SUBMIT_S
    world.feed(events.LimitPassed())
    assert kinds(world) == ["SendSignal"]


def test_an_interrupt_on_its_way_ends_before_the_call() -> None:
    """SIGINT must not reach the next cell: the call returns when the relay has answered."""
    world = started()
    world.feed(events.InterruptRequested(), events.ReplyReceived(), events.IdleReceived())
    assert (world.execution.cell, world.ended) == (CellState.DONE, 0)
    world.feed(events.SignalSent())
    assert world.ended


def test_a_request_in_transit_is_dropped() -> None:
    """After the first rung its stream is closed; the recovery finds out whether it arrived."""
    world = World()
    world.feed(events.KernelReady(), events.CellBegun(None), events.InterruptRequested(), events.SignalSent())
    world.feed(events.StopDeadlinePassed(in_transit=True))
    assert kinds(world) == ["ReopenStreams"]
    world.feed(events.StreamsReopened(), events.CellStarted(), events.JournalRead())
    assert world.execution.stop is StopState.SIGNALLING  # it had arrived, so the ladder begins again


def test_a_kill_that_nobody_confirms_ends_the_session() -> None:
    """The relay is silent: the outcome is unknown."""
    world = started(2.0)
    world.now = 2.0
    world.feed(events.LimitPassed())
    while not world.ended:
        if world.signal is not None:
            world.feed(events.SignalFailed())
        else:
            assert world.execution.deadline is not None
            world.now = world.execution.deadline
            world.feed(*world.expiring())
    assert world.execution.cell is CellState.UNKNOWN
    assert "did not confirm" in str(world.execution.error)


def test_a_cell_that_ends_while_its_kernel_is_killed_died() -> None:
    """Reply and idle status arrive after the request to kill: the variables are lost, so the call must not say DONE."""
    world = started(2.0)
    climb_to_kill(world)
    world.feed(events.ReplyReceived(), events.IdleReceived())
    assert not world.ended
    world.feed(events.SignalSent(), events.KernelExited(DIED), events.JournalRead())
    assert world.execution.cell is CellState.DIED


def climb_to_kill(world: World) -> None:
    """Pass the limit, and let the relay answer until it is asked to kill."""
    while not world.killed:
        if world.signal is not None:
            world.feed(events.SignalSent())
        else:
            assert world.execution.deadline is not None
            world.now = world.execution.deadline
            world.feed(*world.expiring())


def test_states_are_values() -> None:
    """An execution cannot be changed, and equal histories give equal executions."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(started().execution, "cell", CellState.DONE)  # noqa: B010 - mypy allows no assignment
    assert started().execution == started().execution


def test_the_page_is_that_of_the_code() -> None:
    """``docs/execution-states.md`` has the present table; ``make docs`` writes it."""
    assert states_page.PAGE.read_text(encoding="utf-8") == states_page.states_page()


def test_every_state_and_event_has_a_rule() -> None:
    """Each state occurs in the table or is final, and each event has at least one transition."""
    handled: dict[Any, set[str]] = {}
    for (_, event), rule in TRANSITIONS.items():
        handled.setdefault(event, set()).add(rule.__name__)
    assert set(handled) == {type(event) for event in EVERY_EVENT}
