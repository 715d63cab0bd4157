"""The emulated service: its sandboxes, their processes and folders, and their changes over time."""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
import sys
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .clock import Clock
from .egress import open_way_out
from .egress import variables as way_out_variables
from .faults import FaultPlan
from .images import Image, Images, Snapshot
from .model import Act, Fleet, Record, Refused, State
from .processes import Machine, MachineGone, Machines
from .sessions import ENTRYPOINT, Session, Sessions

if TYPE_CHECKING:
    from .tube import Tube

log = logging.getLogger("daytona_kernel_interp.testing")

RELAY_PORT_VARIABLE = "DAYTONA_KERNEL_RELAY_PORT"
OUT_OF_MEMORY_S = 150.0  # how long the state stays `started`; 2 to 3 minutes were observed
_ENTRYPOINT_S = 5.0  # time for the entrypoint to end at a stop
_BUILD_STEP_S = 0.0

Emit = Callable[[Record, State | None], Awaitable[None]]


@dataclass(frozen=True)
class Options:
    """The options of an emulated service. See ``DaytonaEmulator`` for their meaning."""

    isolated: bool
    domain: str
    python: str = sys.executable
    generation: str = "new"
    token_caches: bool = True
    busy_status: int = 409


@dataclass
class Box:
    """The resources of a sandbox on this machine: a folder, and processes while it is started."""

    folder: Path
    image: Image
    machine: Machine | None = None
    sessions: Sessions | None = None
    relay_port: int | None = None
    way_out: int | None = None  # port of its egress proxy, if it has a network namespace and network access
    tubes: set[Tube] = field(default_factory=set)

    @property
    def home(self) -> Path:
        """The home folder of the user, which is kept after a stop."""
        return self.folder / "home"

    @property
    def workdir(self) -> Path:
        """The working folder of new processes."""
        return self.home / self.image.workdir if self.image.workdir else self.home


class World:
    """The emulated service, for use from one event loop."""

    def __init__(self, options: Options, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.clock, self.fleet, self.faults = Clock(), Fleet(), FaultPlan()
        self.images = Images(self.clock)
        self.keys: dict[str, str] = {}  # API key -> organisation
        self.boxes: dict[str, Box] = {}
        self.machines = Machines(isolated=options.isolated)
        self.emit: Emit = _nobody_listens
        self.address = ""  # host:port after the start
        self.on_public_change: Callable[[str], None] = lambda _: None
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    def start(self) -> None:
        """Start the timers of the sandboxes."""
        self.background(self._keep_time())
        self.machines.prepare()

    async def close(self) -> None:
        """End all sandboxes and all tasks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(self.machines.close(), *(self._power_off(box) for box in self.boxes.values()))

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` as a task that is cancelled when the service ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task of the emulator failed", exc_info=error)

    async def create(self, record: Record, image: Image) -> None:
        """Add a new sandbox and begin its start.

        Raises:
            Refused: If its name is in use.
        """
        self.fleet.add(record)
        folder = self.folder / record.id[:8]
        box = self.boxes[record.id] = Box(folder, image)
        (folder / "tmp").mkdir(parents=True)
        if image.files is not None:
            shutil.copytree(image.files, box.home, symlinks=True)
        box.workdir.mkdir(parents=True, exist_ok=True)
        await self.emit(record, None)
        self.background(self._bring_up(record, record.change))

    async def change(self, record: Record, act: Act, *, force: bool = False) -> None:
        """Begin a change that a client requested.

        Raises:
            Refused: If the sandbox's state does not allow it.
        """
        old = record.state
        try:
            number = self.fleet.begin(record, act, self.clock.now())
        except Refused as error:
            if error.status == 409:
                raise Refused(self.options.busy_status, error.message) from None
            raise
        await self._carry_out(record, old, number, at_once=force)

    async def _carry_out(self, record: Record, old: State, number: int, *, at_once: bool = False) -> None:
        await self.emit(record, old)
        if record.state in (State.STARTING, State.RESTORING):
            self.background(self._bring_up(record, number))
        elif record.state in (State.PAUSING, State.RESUMING):
            self.background(self._freeze(record, number))
        else:
            self.background(self._bring_down(record, number, at_once=at_once))

    async def advance(self, seconds: float) -> None:
        """Move the clock and carry out all changes due by then."""
        self.clock.advance(seconds)
        await self._act_on_time(wait=True)

    async def _keep_time(self) -> None:
        while True:
            await self._act_on_time(wait=False)
            deadline = self.fleet.next_deadline(self.clock.now())
            left_s = 1.0 if deadline is None else min(max(deadline - self.clock.now(), 0.01), 1.0)
            await self.clock.moved(left_s)

    async def _act_on_time(self, *, wait: bool) -> None:
        for record, act in self.fleet.due(self.clock.now()):
            if record.is_changing and act is not Act.DESTROY:
                continue
            old = record.state
            number = (
                self.fleet.begin(record, act, self.clock.now())
                if act is Act.ARCHIVE
                else self.fleet.force(record, act, self.clock.now())
            )
            await self.emit(record, old)
            work = self._bring_down(record, number, at_once=False)
            if wait:
                await work
            else:
                self.background(work)

    async def _bring_up(self, record: Record, change: int) -> None:
        box = self.boxes[record.id]
        if not await self._build(record, box, change):
            return
        for fault in self.faults.take("start", None, (record.id, record.name)):
            if fault.delay_s:
                await self.clock.sleep(fault.delay_s)
            if fault.hang:
                return
            if fault.error is not None:
                await self._failed(record, change, fault.error)
                return
        try:
            await self._power_on(record, box)
        except (OSError, MachineGone, asyncio.TimeoutError) as error:
            await self._failed(record, change, f"the sandbox could not be started: {error}")
            return
        await self._finish(record, change)
        self.machines.prepare()  # last, so that it does not delay this start

    async def _build(self, record: Record, box: Box, change: int) -> bool:
        while record.state in (State.PENDING_BUILD, State.BUILDING):
            if record.state is State.BUILDING and not await self.images.built(box.image):
                await self._failed(record, change, box.image.error or "the build failed")
                return False
            await asyncio.sleep(_BUILD_STEP_S)
            await self._finish(record, change)
        return record.change == change

    async def _failed(self, record: Record, change: int, reason: str) -> None:
        old = record.state
        if self.fleet.fail(record, change, self.clock.now(), reason):
            await self.emit(record, old)

    async def _finish(self, record: Record, change: int) -> None:
        old = record.state
        if self.fleet.finish(record, change, self.clock.now()):
            await self.emit(record, old)

    async def _bring_down(self, record: Record, change: int, *, at_once: bool) -> None:
        box = self.boxes[record.id]
        if record.state is not State.ARCHIVING:
            await self._power_off(box, at_once=at_once)
        if record.state is State.DESTROYING:
            await asyncio.to_thread(shutil.rmtree, box.folder, ignore_errors=True)
        await self._finish(record, change)

    async def _freeze(self, record: Record, change: int) -> None:
        """Pause or continue all processes; sockets to the outside are closed."""
        box, pausing = self.boxes[record.id], record.state is State.PAUSING
        if box.machine is not None:
            await box.machine.freeze(pausing)
        for tube in list(box.tubes) if pausing else ():
            tube.abort()
        await self._finish(record, change)

    async def _power_on(self, record: Record, box: Box) -> None:
        if not self.options.isolated:
            box.relay_port = free_port()
        machine = await self.machines.take()
        box.machine, box.sessions = machine, Sessions(machine, box.folder / "sessions")
        box.way_out = None
        if machine.isolated and not record.network_block_all:
            box.way_out = await open_way_out(machine)
        if box.image.entrypoint:
            session = await box.sessions.create(ENTRYPOINT, self.environment(record), box.workdir)
            await session.run(box.image.entrypoint, command_id=f"{ENTRYPOINT}_command")

    async def _power_off(self, box: Box, *, at_once: bool = True) -> None:
        machine, sessions = box.machine, box.sessions
        if machine is None:
            return
        entrypoint: Session | None = None if sessions is None else sessions.known.get(ENTRYPOINT)
        if entrypoint is not None and not at_once:
            await machine.end_tree(entrypoint.shell.pid, _ENTRYPOINT_S)
        await machine.end()
        box.machine = box.sessions = None
        for tube in list(box.tubes):
            tube.abort()

    async def snapshot(self, record: Record, name: str) -> None:
        """Copy a sandbox's files into a new snapshot."""
        box = self.boxes[record.id]
        files = self.folder / f"snapshot-{uuid.uuid4().hex[:8]}"
        image = Image(workdir=box.image.workdir, entrypoint=box.image.entrypoint, env=dict(box.image.env), files=files)
        image.finished.set()
        snapshot = Snapshot(name, image, self.clock.now(), record.organization, f"emulated/{name}:1")
        snapshot.cpu, snapshot.mem, snapshot.disk = record.cpu, record.memory, record.disk
        snapshot.source_sandbox_id = record.id
        self.images.add(snapshot)
        await asyncio.to_thread(shutil.copytree, box.home, files, symlinks=True)

    async def lose_processes(self, record: Record, *, stops_after_s: float | None) -> None:
        """Kill all processes of a sandbox including its daemon; its state stays ``started``."""
        box = self.boxes[record.id]
        if box.machine is not None:
            await box.machine.end()
        for tube in list(box.tubes):
            tube.abort()
        if stops_after_s is not None:
            self.background(self._stop_later(record, record.change, stops_after_s))

    async def _stop_later(self, record: Record, change: int, seconds: float) -> None:
        await self.clock.sleep(seconds)
        if record.change == change and record.state is State.STARTED:
            number = self.fleet.force(record, Act.STOP, self.clock.now())
            await self._bring_down(record, number, at_once=True)

    def environment(self, record: Record) -> dict[str, str]:
        """Return the environment variables of a sandbox's processes."""
        box = self.boxes[record.id]
        path = f"{Path(self.options.python).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        variables = {
            "PATH": path,
            "HOME": str(box.home),
            "TMPDIR": str(box.folder / "tmp"),
            "USER": record.user,
            "LANG": "C.UTF-8",
            "DAYTONA_SANDBOX_ID": record.id,
        }
        if box.relay_port is not None:
            variables[RELAY_PORT_VARIABLE] = str(box.relay_port)
        if box.way_out is not None:
            variables |= way_out_variables(box.way_out)
        return {**variables, **box.image.env, **record.env}


def free_port() -> int:
    """Return a port that is free at the moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _nobody_listens(record: Record, old: State | None) -> None:
    return None
