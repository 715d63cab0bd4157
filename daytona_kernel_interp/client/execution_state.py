"""The states of an execution, and what bounds each of them. Sans-I/O; the rules are in :mod:`.execution`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from . import execution_events as events

if TYPE_CHECKING:
    from ..errors import KernelError


class Bound(Enum):
    """What ends a state at the latest."""

    CALLER = "the caller's limit of time, or the loss of the link"
    LINK = "the link's state"
    STEP = "the step or signal in progress"
    DEADLINE = "its deadline"
    NOTHING = "nothing is awaited"


class State(Enum):
    """A state: what holds, and what ends it at the latest."""

    def __init__(self, meaning: str, bound: Bound) -> None:
        self.meaning, self.bound = meaning, bound


class CellState(State):
    """The evidence about the cell. From ``DONE`` on, the states are outcomes."""

    NONE = "there is no cell", Bound.NOTHING
    QUEUED = "its request waits for a recovery and was not sent", Bound.LINK
    ADOPTING = "the last cell of an earlier host is looked up in the journal", Bound.LINK
    SENT = "its request was sent; no message of it has arrived", Bound.CALLER
    RUNNING = "the kernel has started it", Bound.CALLER
    REPLIED = "its reply arrived, its idle status did not", Bound.CALLER
    IDLE = "its idle status arrived, its reply did not", Bound.CALLER
    DYING = "the kernel died; the journal is read for the cell's last output", Bound.LINK
    DONE = "it has ended, and its outputs are complete", Bound.NOTHING
    NOT_RUN = "it did not run and never will", Bound.NOTHING
    LEFT = "its caller has gone; the kernel may still run it", Bound.NOTHING
    DIED = "the kernel died before it ended", Bound.NOTHING
    ABSENT = "the journal names no cell of an earlier host", Bound.NOTHING
    UNKNOWN = "the link was lost before it ended", Bound.NOTHING


class LinkState(State):
    """Whether messages arrive, and the step that repairs it."""

    STARTING = "the kernel has not answered yet", Bound.STEP
    CONNECTED = "messages arrive", Bound.NOTHING
    REOPENING = "streams broke; new ones are opened", Bound.STEP
    READING = "the journal is read for what the old streams lost", Bound.STEP
    CHECKING = "the cell is not in the journal; a barrier on shell is awaited", Bound.DEADLINE
    CONFIRMING = "the journal is read again, behind that barrier", Bound.STEP
    DRAINING = "reply or idle status is missing; a barrier on control is awaited", Bound.DEADLINE
    SETTLING = "the journal is read for it, behind that barrier", Bound.STEP
    LAST_READING = "the kernel died during a cell; the journal is read", Bound.DEADLINE
    DEAD = "the kernel's process has ended", Bound.NOTHING
    LOST = "the relay is lost", Bound.NOTHING


class StopState(State):
    """The interrupt ladder."""

    CALM = "no interrupt is under way", Bound.NOTHING
    SIGNALLING = "the relay was asked for SIGINT", Bound.STEP
    WAITING = "the rung has reached the kernel; the cell may end", Bound.DEADLINE
    DROPPING = "the request was in transit; a recovery finds out whether it arrived", Bound.LINK
    KILLING = "the relay was asked for SIGKILL; the exit is awaited", Bound.DEADLINE
    FLUSHING = "the cell has ended; its SIGINT must not reach the next one", Bound.STEP


@dataclass(frozen=True)
class Execution:
    """A kernel's link and its cell, if any; a value."""

    lifetime_s: float  # resume_lifetime
    cell: CellState = CellState.NONE
    link: LinkState = LinkState.STARTING
    stop: StopState = StopState.CALM
    error: KernelError | None = None  # why there will be no further cell

    # The cell
    limit_at: float | None = None  # when execution_timeout passes; after a cancellation, when the cell is left
    submitted_until: float | None = None  # when a cell that has called SUBMIT has to end
    end_by: float | None = None  # when a call whose cell has to end returns at the latest, if the relay answers
    cancelled: bool = False
    timed_out: bool = False
    interrupted: bool = False
    gap: bool = False  # the journal lacked messages when it was read since the request was sent
    reply_lost: bool = False  # the connection of the request is gone; the journal has the reply

    # The link
    link_at: float | None = None
    retry_until: float | None = None  # until when a journal is read again after a failure
    recoveries: int = 0  # since messages last arrived

    # The ladder
    stop_at: float | None = None
    rung: int = 0
    must_end: str = ""  # why the kernel is killed if no interrupt ends the cell
    signalled: bool = False  # whether the relay has sent SIGINT since the cell has to end
    ended_by: str | None = None  # the rung that ended the cell

    @property
    def cell_deadline(self) -> float | None:
        """When the cell has to end."""
        return min(_known(self.limit_at, self.submitted_until), default=None)

    @property
    def deadline(self) -> float | None:
        """When :meth:`expired` has to be called at the latest."""
        return min(_known(self.cell_deadline, self.link_at, self.stop_at), default=None)

    @property
    def kill_reason(self) -> str:
        """Why this host has the kernel killed; empty if it does not."""
        return self.must_end if self.stop is StopState.KILLING else ""

    def expired(self, now: float, *, in_transit: bool) -> events.Event | None:
        """Return the event of a deadline that is over, if any; see :class:`StopDeadlinePassed` for ``in_transit``."""
        if self.cell_deadline is not None and now >= self.cell_deadline:
            return events.LimitPassed()
        if self.link_at is not None and now >= self.link_at:
            return events.LinkDeadlinePassed()
        if self.stop_at is not None and now >= self.stop_at:
            return events.StopDeadlinePassed(in_transit)
        return None


def _known(*times: float | None) -> list[float]:
    return [time for time in times if time is not None]
