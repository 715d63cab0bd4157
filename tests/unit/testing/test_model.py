"""Tests of sandbox states: any order of requests leads to known states, and timers apply."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from daytona_kernel_interp.testing.model import (
    BEGINNINGS,
    CONTAINER,
    ENDINGS,
    LINUX_VM,
    Act,
    Fleet,
    Record,
    Refused,
    State,
    timers,
)

ORGANIZATION = "ours"
NOW = 1_000_000.0


def started(fleet: Fleet, now: float = NOW, **fields: float) -> Record:
    record = Record(ORGANIZATION, now, **fields)  # type: ignore[arg-type]
    fleet.add(record)
    assert fleet.finish(record, record.change, now)
    return record


class Fleets(RuleBasedStateMachine):
    """A state machine of users, time and limits that act on sandboxes in any order."""

    changes = Bundle("changes")

    def __init__(self) -> None:
        super().__init__()
        self.fleet = Fleet()
        self.now = NOW
        self.tokens: set[str] = set()

    @rule(
        auto_stop=st.integers(0, 3),
        auto_delete=st.integers(-1, 3),
        ttl=st.integers(0, 5),
        kind=st.sampled_from((CONTAINER, LINUX_VM)),
        target=changes,
    )
    def create(
        self, auto_stop: int, auto_delete: int, ttl: int, kind: str, target: object = None
    ) -> tuple[Record, int]:
        record = Record(
            ORGANIZATION, self.now, auto_stop=auto_stop, auto_delete=auto_delete, ttl=ttl, sandbox_class=kind
        )
        self.fleet.add(record)
        return record, record.change

    @rule(change=changes, act=st.sampled_from(Act), target=changes)
    def begin(self, change: tuple[Record, int], act: Act, target: object = None) -> tuple[Record, int]:
        record, number = change
        before = record.state
        allowed = (before, act) in BEGINNINGS and (act is not Act.RECOVER or record.recoverable)
        unpausable = act is Act.PAUSE and record.sandbox_class == CONTAINER
        allowed = allowed and not unpausable
        if allowed:
            number = self.fleet.begin(record, act, self.now)
            assert record.is_changing
            return record, number
        with pytest.raises(Refused) as caught:
            self.fleet.begin(record, act, self.now)
        assert record.state is before
        assert caught.value.status == (422 if unpausable else 409 if before in ENDINGS else 400)
        return record, number

    @rule(change=consumes(changes), fails=st.booleans())
    def end(self, change: tuple[Record, int], fails: bool) -> None:
        record, number = change
        before, token = record.state, record.preview_token
        ended = (
            self.fleet.fail(record, number, self.now, "a reason", recoverable=True)
            if fails
            else self.fleet.finish(record, number, self.now)
        )
        assert ended == (number == record.change and before in ENDINGS)
        if not ended:
            assert record.state is before
        elif before is State.RESUMING:
            assert record.preview_token == token
        elif record.state is State.STARTED:
            assert record.preview_token != token
            assert record.preview_token not in self.tokens
            self.tokens.add(record.preview_token)

    @rule(seconds=st.floats(0, 400))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for record, act in self.fleet.due(self.now):
            if record.is_changing and act is not Act.DESTROY:
                continue
            self.fleet.force(record, act, self.now) if act is not Act.ARCHIVE else None
            self.fleet.finish(record, record.change, self.now)

    @invariant()
    def destroyed_are_not_found(self) -> None:
        for record in self.fleet:
            if record.state is State.DESTROYED:
                assert self.fleet.by_id(record.id) is None
                with pytest.raises(Refused) as caught:
                    self.fleet.find(ORGANIZATION, record.id)
                assert caught.value.status == 404
            else:
                assert self.fleet.find(ORGANIZATION, record.id) is record

    @invariant()
    def deadlines_are_those_of_due(self) -> None:
        deadline = self.fleet.next_deadline(self.now)
        if deadline is None:
            assert self.fleet.due(self.now) == []
        else:
            assert bool(self.fleet.due(self.now)) == (deadline <= self.now)
            assert self.fleet.due(deadline)


TestFleets = Fleets.TestCase


def test_every_change_ends() -> None:
    """Each transitional state ends, and each end is a stable state or leads to one."""
    assert set(BEGINNINGS.values()) <= set(ENDINGS)
    for state in ENDINGS:
        seen = []
        while state in ENDINGS:
            assert state not in seen
            seen.append(state)
            state = ENDINGS[state]


@given(idle=st.floats(0, 2000), minutes=st.integers(1, 30))
def test_auto_stop_by_idleness(idle: float, minutes: int) -> None:
    """A sandbox is due after its idle interval, at the latest at the next check."""
    fleet = Fleet()
    record = started(fleet, auto_stop=minutes)
    due = (record, Act.STOP) in fleet.due(NOW + idle)
    if idle < minutes * 60:
        assert not due
    if idle >= minutes * 60 + 10:
        assert due


def test_open_sockets_are_activity() -> None:
    """No interval expires while a preview socket is open."""
    fleet = Fleet()
    record = started(fleet)
    record.open_sockets = 1
    assert fleet.due(NOW + 1e6) == []
    record.open_sockets = 0
    assert fleet.due(NOW + 1e6) == [(record, Act.STOP)]


def test_overtaken_change_ends_nothing() -> None:
    """A superseded change cannot end the later one."""
    fleet = Fleet()
    record = started(fleet)
    stopping = fleet.begin(record, Act.STOP, NOW)
    destroying = fleet.force(record, Act.DESTROY, NOW)
    assert not fleet.finish(record, stopping, NOW)
    assert record.state is State.DESTROYING
    assert fleet.finish(record, destroying, NOW)
    assert fleet.by_id(record.id) is None
    assert list(timers(record, NOW)) == []


def test_names_before_and_after() -> None:
    """A name is unique, looked up after ids, and free again after its sandbox is destroyed."""
    fleet = Fleet()
    first = Record(ORGANIZATION, NOW, name="one")
    fleet.add(first)
    with pytest.raises(Refused):
        fleet.add(Record(ORGANIZATION, NOW, name="one"))
    fleet.add(Record("theirs", NOW, name="one"))
    assert fleet.find(ORGANIZATION, "one") is first
    fleet.finish(first, fleet.force(first, Act.DESTROY, NOW), NOW)
    fleet.add(Record(ORGANIZATION, NOW, name="one"))
    assert fleet.find(ORGANIZATION, "one") is not first
