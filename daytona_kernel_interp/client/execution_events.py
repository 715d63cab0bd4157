"""The events that an execution receives and the actions that it asks for. Sans-I/O; see :mod:`.execution`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from ..errors import KernelError

Region = Literal["cell", "link", "stop"]


@dataclass(frozen=True)
class Event:
    """Something that happened; ``region`` names the state that decides what follows."""

    region: ClassVar[Region]


# --- the call and its cell -------------------------------------------------------------------------


class CallEvent(Event):
    """An event of the call, or evidence about its cell."""

    region = "cell"


@dataclass(frozen=True)
class CellBegun(CallEvent):
    """A call wants to run a cell; ``limit_at`` is when its ``execution_timeout`` passes."""

    limit_at: float | None


@dataclass(frozen=True)
class AdoptionBegun(CallEvent):
    """A new host wants the last cell of an earlier one; ``limit_at`` as in :class:`CellBegun`."""

    limit_at: float | None


class CellStarted(CallEvent):
    """The kernel has started the cell: a message of the cell, or the journal, says so."""


class ReplyReceived(CallEvent):
    """The cell's execute_reply arrived, or was in the journal."""


class IdleReceived(CallEvent):
    """The cell's idle status arrived, or was in the journal."""


class SubmissionReceived(CallEvent):
    """The cell called SUBMIT."""


class EndRequired(CallEvent):
    """The cell has to end, if necessary with its kernel: a tool raised a BaseException."""


class InterruptRequested(CallEvent):
    """``interrupt()`` was called."""


class CallCancelled(CallEvent):
    """The caller does not wait any more."""


class LimitPassed(CallEvent):
    """The cell's deadline is over; see ``Execution.cell_deadline``."""


# --- the link ----------------------------------------------------------------------------------------


class LinkEvent(Event):
    """An event of the link, or the end of the step that the link's state is waiting for."""

    region = "link"


class KernelReady(LinkEvent):
    """The kernel has answered on all channels."""


class StreamsBroken(LinkEvent):
    """A stream of this host's channels cannot resume; the relay can be reached."""


class StreamsReopened(LinkEvent):
    """New channels are connected, and iopub is subscribed."""


class BarrierPassed(LinkEvent):
    """The kernel has answered a request that came after all others on its channel."""


class JournalGap(LinkEvent):
    """The journal was read, and messages are missing in it; its records are applied next."""


class JournalRead(LinkEvent):
    """The journal was read, and its records were applied."""


@dataclass(frozen=True)
class StepFailed(LinkEvent):
    """The step in progress has failed."""

    error: KernelError


@dataclass(frozen=True)
class KernelExited(LinkEvent):
    """The kernel's process has ended; ``error`` says how."""

    error: KernelError


@dataclass(frozen=True)
class LinkLost(LinkEvent):
    """The relay cannot be used any more, for good; ``error`` says why."""

    error: KernelError


class LinkDeadlinePassed(LinkEvent):
    """The deadline of the link's state is over."""


# --- the interrupt ladder ------------------------------------------------------------------------------


class StopEvent(Event):
    """An event of the interrupt ladder."""

    region = "stop"


class SignalSent(StopEvent):
    """The relay has sent the signal."""


class SignalFailed(StopEvent):
    """The relay refused to send the signal, or did not answer in time."""


@dataclass(frozen=True)
class StopDeadlinePassed(StopEvent):
    """The rung's time is over; ``in_transit`` says whether the request has not reached the kernel's socket yet."""

    in_transit: bool


# --- actions ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SendRequest:
    """Send the execute_request."""


@dataclass(frozen=True)
class SendSignal:
    """Have the relay signal the kernel; report SignalSent or SignalFailed.

    ``answer_s`` is how long the relay may take, not counting time in which the link is known to be down.
    """

    name: Literal["interrupt", "kill"]
    answer_s: float


@dataclass(frozen=True)
class EndCode:
    """Have the kernel not start the cell, and if ``running``, raise an exception in it; see ``guest.kernel.kernel``."""

    running: bool


@dataclass(frozen=True)
class ReopenStreams:
    """Drop the channels and what they hold, and open new ones; report StreamsReopened. Replaces the step."""


@dataclass(frozen=True)
class AwaitBarrier:
    """Report BarrierPassed when the kernel has handled what was sent before on this channel. Replaces the step."""

    channel: Literal["shell", "control"]


@dataclass(frozen=True)
class ReadJournal:
    """Hold iopub, read the journal, apply its records, and report JournalRead. Replaces the step."""


@dataclass(frozen=True)
class AskPendingCalls:
    """Ask the kernel which tool calls are pending, to repeat their replies."""


@dataclass(frozen=True)
class ReportLostOutput:
    """Add to the cell's output that some of it is missing."""


@dataclass(frozen=True)
class DropChannels:
    """Close the channels and drop what they hold. Cancels the step."""


@dataclass(frozen=True)
class EndCall:
    """Return to the caller; the cell's state is the outcome."""


Action = (
    SendRequest
    | SendSignal
    | EndCode
    | ReopenStreams
    | AwaitBarrier
    | ReadJournal
    | AskPendingCalls
    | ReportLostOutput
    | DropChannels
    | EndCall
)
