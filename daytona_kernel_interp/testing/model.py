"""Sandbox records and their states: sans-I/O, no clock, no processes.

A request begins a change (:meth:`Fleet.begin`), which sets a transitional state. The code that carries out the change
ends it (:meth:`Fleet.finish` or :meth:`Fleet.fail`). :meth:`Fleet.due` returns the changes that timers cause.
"""

from __future__ import annotations

import math
import secrets
import string
import uuid
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MINUTE_S = 60.0
CHECK_S = 10.0  # the service looks for idle sandboxes every 10 s
ACTIVITY_S = 5.0  # and records activity at most every 5 s
AUTO_STOP_MIN = 15
AUTO_ARCHIVE_MIN = 7 * 24 * 60
AUTO_ARCHIVE_MAX_MIN = 30 * 24 * 60
TOKEN_CHARS = 32
CONTAINER, LINUX_VM = "container", "linux-vm"
IN_PROGRESS = "Sandbox state change in progress"


class State(str, Enum):
    """States of a sandbox, in the API's spelling."""

    PENDING_BUILD = "pending_build"
    BUILDING = "building_snapshot"
    CREATING = "creating"
    RESTORING = "restoring"
    STARTING = "starting"
    STARTED = "started"
    STOPPING = "stopping"
    STOPPED = "stopped"
    PAUSING = "pausing"
    PAUSED = "paused"
    RESUMING = "resuming"
    ARCHIVING = "archiving"
    ARCHIVED = "archived"
    DESTROYING = "destroying"
    DESTROYED = "destroyed"
    ERROR = "error"
    BUILD_FAILED = "build_failed"


class Act(str, Enum):
    """Changes that a client can request."""

    START = "start"
    STOP = "stop"
    PAUSE = "pause"
    ARCHIVE = "archive"
    RECOVER = "recover"
    DESTROY = "destroy"


BEGINNINGS: Mapping[tuple[State, Act], State] = {
    (State.STOPPED, Act.START): State.STARTING,
    (State.ARCHIVED, Act.START): State.RESTORING,
    (State.ARCHIVING, Act.START): State.RESTORING,
    (State.STARTED, Act.STOP): State.STOPPING,
    (State.STARTED, Act.PAUSE): State.PAUSING,
    (State.PAUSED, Act.START): State.RESUMING,
    (State.PAUSED, Act.STOP): State.STOPPING,
    (State.STOPPED, Act.ARCHIVE): State.ARCHIVING,
    (State.ERROR, Act.RECOVER): State.STARTING,
    **{
        (state, Act.DESTROY): State.DESTROYING
        for state in (State.STARTED, State.STOPPED, State.PAUSED, State.ARCHIVED, State.ERROR, State.BUILD_FAILED)
    },
}
ENDINGS: Mapping[State, State] = {
    State.PENDING_BUILD: State.BUILDING,
    State.BUILDING: State.CREATING,
    State.CREATING: State.STARTED,
    State.STARTING: State.STARTED,
    State.RESTORING: State.STARTED,
    State.STOPPING: State.STOPPED,
    State.PAUSING: State.PAUSED,
    State.RESUMING: State.STARTED,
    State.ARCHIVING: State.ARCHIVED,
    State.DESTROYING: State.DESTROYED,
}
_DESIRED: Mapping[Act, str] = {
    Act.START: "started",
    Act.STOP: "stopped",
    Act.PAUSE: "paused",
    Act.ARCHIVE: "archived",
    Act.RECOVER: "started",
    Act.DESTROY: "destroyed",
}


class Refused(Exception):
    """The error response to a request: its status and message."""

    def __init__(self, status: int, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


@dataclass
class Record:
    """The service's record of one sandbox. Times are seconds since the epoch, intervals are minutes."""

    organization: str
    created_at: float
    name: str = ""
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    labels: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict, repr=False)
    snapshot: str | None = None
    build_info: dict[str, Any] | None = None
    user: str = "daytona"
    target: str = "us"
    public: bool = False
    network_block_all: bool = False
    sandbox_class: str = CONTAINER
    cpu: int = 1
    gpu: int = 0
    memory: int = 1
    disk: int = 3
    auto_stop: float = AUTO_STOP_MIN
    auto_archive: float = AUTO_ARCHIVE_MIN
    auto_delete: float = -1
    ttl: float = 0
    state: State = State.CREATING
    desired: str = "started"
    error_reason: str | None = None
    recoverable: bool = False
    updated_at: float = 0.0
    last_activity_at: float = 0.0
    stopped_at: float | None = None
    preview_token: str = field(default="", repr=False)
    open_sockets: int = 0  # open preview sockets; the proxy reports activity while there are any
    change: int = 0  # number of changes, so that a superseded change cannot end a later one

    def __post_init__(self) -> None:
        self.name = self.name or self.id
        self.updated_at = self.last_activity_at = self.created_at

    @property
    def is_ephemeral(self) -> bool:
        """Whether a stop destroys the sandbox."""
        return self.auto_delete == 0

    @property
    def is_changing(self) -> bool:
        """Whether a change is in progress."""
        return self.state in ENDINGS


class Fleet:
    """All sandboxes of one service."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}

    def __iter__(self) -> Iterator[Record]:
        return iter(list(self._records.values()))

    def add(self, record: Record) -> None:
        """Add a new sandbox.

        Raises:
            Refused: If the organisation has a sandbox with this name.
        """
        if any(known.name == record.name for known in self.of(record.organization)):
            raise Refused(409, f"Sandbox with name {record.name} already exists")
        self._records[record.id] = record

    def of(self, organization: str) -> list[Record]:
        """Return an organisation's sandboxes without destroyed ones, newest first."""
        found = [record for record in self if record.organization == organization]
        return [record for record in reversed(found) if record.state is not State.DESTROYED]

    def find(self, organization: str, id_or_name: str) -> Record:
        """Return a sandbox by its id, else by its name.

        Raises:
            Refused: If the organisation has no such sandbox.
        """
        found = self.of(organization)
        for record in found:
            if record.id == id_or_name:
                return record
        for record in found:
            if record.name == id_or_name:
                return record
        raise Refused(404, f"Sandbox with ID or name {id_or_name} not found")

    def by_id(self, sandbox_id: str) -> Record | None:
        """Return a sandbox of any organisation, or None if it does not exist or is destroyed."""
        record = self._records.get(sandbox_id)
        return None if record is None or record.state is State.DESTROYED else record

    def begin(self, record: Record, act: Act, now: float) -> int:
        """Begin a change and return its number, which is needed to end it.

        Raises:
            Refused: If the state does not allow it; the sandbox is unchanged.
        """
        beginning = BEGINNINGS.get((record.state, act))
        if act is Act.PAUSE and record.sandbox_class == CONTAINER:
            raise Refused(422, f"Sandbox {record.id} is a container and cannot be paused")
        if beginning is None and record.is_changing:
            raise Refused(409, IN_PROGRESS)
        if beginning is None or (act is Act.RECOVER and not record.recoverable):
            raise Refused(400, f"Sandbox is in {record.state.value} state: {act.value} is not possible")
        if act is Act.STOP and record.is_ephemeral:
            beginning, act = State.DESTROYING, Act.DESTROY
        return self._enter(record, beginning, _DESIRED[act], now)

    def force(self, record: Record, act: Act, now: float) -> int:
        """Begin a stop or a destroy in any state, as the service's limits do."""
        ephemeral = act is Act.STOP and record.is_ephemeral
        state = State.DESTROYING if act is Act.DESTROY or ephemeral else State.STOPPING
        return self._enter(record, state, "destroyed" if state is State.DESTROYING else "stopped", now)

    def finish(self, record: Record, change: int, now: float) -> bool:
        """End a change; return whether it was the sandbox's latest one."""
        if record.change != change or record.state not in ENDINGS:
            return False
        resumed = record.state is State.RESUMING
        record.state, record.updated_at = ENDINGS[record.state], now
        if record.state is State.STARTED:
            if not resumed:
                record.preview_token = new_token()  # new for each start, the same for all ports
            record.last_activity_at, record.stopped_at = now, None
            record.error_reason, record.recoverable = None, False
        if record.state is State.STOPPED:
            record.stopped_at = now
        return True

    def fail(self, record: Record, change: int, now: float, reason: str, *, recoverable: bool = False) -> bool:
        """End a change with an error; return whether it was the sandbox's latest one."""
        if record.change != change or record.state not in ENDINGS:
            return False
        building = record.state in (State.PENDING_BUILD, State.BUILDING)
        record.state = State.BUILD_FAILED if building else State.ERROR
        record.error_reason, record.recoverable, record.updated_at = reason, recoverable, now
        return True

    def touch(self, record: Record, now: float) -> None:
        """Record activity of a sandbox."""
        if now - record.last_activity_at >= ACTIVITY_S:
            record.last_activity_at = now

    def due(self, now: float) -> list[tuple[Record, Act]]:
        """Return the changes that the service's timers cause at this time."""
        return [(record, act) for record in self for at, act in timers(record, now) if at <= now][:1000]

    def next_deadline(self, now: float) -> float | None:
        """Return when :meth:`due` next returns a change, or None."""
        return min((at for record in self for at, _ in timers(record, now)), default=None)

    def _enter(self, record: Record, state: State, desired: str, now: float) -> int:
        record.state, record.desired, record.updated_at = state, desired, now
        record.change += 1
        return record.change


def timers(record: Record, now: float) -> Iterator[tuple[float, Act]]:
    """Yield the times and changes of a sandbox's limits; at equal times the most severe change is last."""
    if record.state in (State.DESTROYED, State.DESTROYING):
        return
    if record.ttl > 0 and (at := record.created_at + record.ttl * MINUTE_S) is not None:
        yield _check_after(at), Act.DESTROY
        if at <= now:
            return
    if record.state is State.STARTED and record.auto_stop > 0:
        # An open preview socket counts as activity for as long as it is open.
        active_at = now if record.open_sockets else record.last_activity_at
        yield _check_after(active_at + record.auto_stop * MINUTE_S), Act.STOP
    if record.state in (State.STOPPED, State.ARCHIVED) and record.stopped_at is not None and record.auto_delete > 0:
        yield _check_after(record.stopped_at + record.auto_delete * MINUTE_S), Act.DESTROY
    elif record.state is State.STOPPED and record.stopped_at is not None:
        minutes = record.auto_archive or AUTO_ARCHIVE_MAX_MIN
        yield _check_after(record.stopped_at + minutes * MINUTE_S), Act.ARCHIVE


def new_token(chars: int = TOKEN_CHARS) -> str:
    """Return a preview token in the service's format: lower-case letters and digits."""
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(chars))


def _check_after(at: float) -> float:
    return math.ceil(at / CHECK_S) * CHECK_S
