"""Kernel processes: start, watch, signal and end them, and adopt those of an earlier relay.

A kernel must outlive its relay: if the relay dies, the host starts another one in the same folder, and variables must
still be there. A kernel must also end when its relay ends deliberately, and after a time limit when no relay returns.
And a kernel must be ready quickly, although ipykernel's imports take most of a second.

*Spare process.* A kernel process is started before anyone requests a kernel. It imports, and then waits for one line on
a pipe: connection file, session key, journal. It binds its ports, writes them to a second pipe, and serves. So
:meth:`KernelProcesses.start` waits for the binding only, and each kernel process serves at most one kernel.

*Lifeline.* The first pipe stays open: its end of file shows the kernel that its relay has died. The kernel then waits
for the next relay at a FIFO for ``lifetime_s``, and ends if none opens it. An adopting relay opens the FIFO and keeps
it open, so its own death is noticed in the same way.

*State file.* ``kernel-ID.state`` has process id and start mark. The start mark protects against a reused process id.
:meth:`KernelProcesses.adopt` reads these files and the connection files; a process that has ended becomes an exit event
without an exit code, which only a parent can collect.

*Process group.* Each kernel leads a session and group of its own. Signals go to the group, so an interrupt also reaches
the child processes of a cell. When the kernel ends, the group is killed: no child process outlives its kernel.

*Exit.* A watcher task for each kernel waits for the process (a pidfd where the kernel is adopted), and then reports one
event with exit code, signal, the end of its standard error, and whether the kernel of the operating system killed a
process of the control group for lack of memory since the last exit. What can go wrong there:

- The kernel may not have read what was written to its file descriptors. The relay has a read end of both pipes and
  saves the rest beside the journal.
- SIGTERM to all processes of a sandbox may reach a kernel before its relay. The event says whether the relay ends as
  well (``relay_ends``), so the watcher waits a moment for the relay's own signal.
- A kernel may end before it serves. Then :class:`KernelStartFailed` has the end of its standard error.
- A host may connect to a channel before it has requested the kernel, because streams are opened in parallel.
  :meth:`KernelProcesses.port` therefore waits for a kernel that is unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ...transport.process_identity import process_start_mark
from ...wire.hello import KERNEL_CHANNELS
from ...wire.inspect_messages import KERNEL_ANSWER_S
from ..journal_files import STREAMS, pipe_path
from .journal_reader import Journal
from .kernel_interface import KernelStartFailed, NoSuchKernel
from .resource_usage import oom_kills, resource_usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

KERNEL_MODULE = "daytona_kernel_interp.guest.kernel.kernel_app"
_STDERR_TAIL_BYTES = 8 * 1024
_END_S = 1.0  # from SIGTERM to SIGKILL
_SIGNAL_S = 0.1  # between a kernel's SIGTERM and the relay's, if both receive one
_START_S = 60.0
_KERNEL_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
# The kernel uses the user's site-packages if the relay does: in a sandbox, but not on a user's own machine.
_USER_SITE = ("-s",) if sys.flags.no_user_site else ()
_POLL_S = 0.2  # where there are no pidfds (before Linux 5.3, or on macOS)


class KernelFiles:
    """Paths of one kernel's files in the session's folder; files have mode 0600, folders 0700."""

    def __init__(self, folder: Path, kernel_id: str) -> None:
        self.connection = folder / f"kernel-{kernel_id}.json"
        self.state = (
            folder / f"kernel-{kernel_id}.state"
        )  # JSON: pid, started (see `transport.process_identity`), stderr
        self.lifeline = folder / f"kernel-{kernel_id}.life"  # a FIFO that the adopting relay keeps open for writing
        self.journal = folder / f"journal-{kernel_id}"


class KernelProcess:
    """One kernel process, from its imports to its exit."""

    def __init__(self, pid: int, exited: asyncio.Future[int | None], stderr: Path) -> None:
        self.pid = pid  # also the id of its process group
        self.exited = exited  # exit code, or the negative signal; None: not a child of this process
        self.ports: dict[str, int] = {}
        self._stderr = stderr
        self._request_fd = -1
        self._ready: asyncio.StreamReader | None = None
        self._life_fd = -1
        self._pipe_fds: dict[str, int] = {}  # read ends, by the name of the stream

    @classmethod
    async def spawn(cls, folder: Path, cwd: Path, number: int) -> KernelProcess:
        """Start a kernel process, which imports and then waits for :meth:`serve`."""
        request_read, request_write = os.pipe()
        ready_read, ready_write = os.pipe()
        stderr = folder / f"stderr-{os.getpid()}-{number}"
        try:
            with stderr.open("ab") as stderr_file:
                # A session of its own: it must outlive the relay.
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, *_USER_SITE, "-m", KERNEL_MODULE),
                    *(str(request_read), str(ready_write), os.path.abspath(cwd)),  # noqa: ASYNC240 - no file is touched
                    pass_fds=(request_read, ready_write),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=stderr_file,
                    start_new_session=True,
                    cwd=folder,  # Python looks for modules here, so it must not be the cells' folder
                    env=kernel_environment(folder),
                )
        finally:
            os.close(request_read)
            os.close(ready_write)
        self = cls(process.pid, asyncio.ensure_future(process.wait()), stderr)
        self._request_fd, self._ready = request_write, await _open_reader(ready_read)
        return self

    @classmethod
    def adopt(cls, files: KernelFiles) -> KernelProcess:
        """Adopt a kernel whose relay has ended.

        Raises:
            NoSuchKernel: If the kernel has ended as well.
        """
        try:
            state, connection = json.loads(files.state.read_text()), json.loads(files.connection.read_text())
            pid = int(state["pid"])
            if process_start_mark(pid) != state["started"]:
                raise ProcessLookupError
            exited = asyncio.ensure_future(_wait_process_exit(pid))
            self = cls(pid, exited, Path(state["stderr"]))
            self.ports = {channel: int(connection[f"{channel}_port"]) for channel in KERNEL_CHANNELS}
            # Fails with ENXIO if the kernel has ended since the check above and so no longer reads the FIFO.
            self._life_fd = os.open(files.lifeline, os.O_WRONLY | os.O_NONBLOCK)
            os.write(self._life_fd, b"1")
            self._open_pipes(files)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NoSuchKernel(f"the kernel has ended: {error}") from error
        return self

    async def serve(
        self,
        files: KernelFiles,
        key: str,
        lifetime_s: float,
        environment: Mapping[str, str] | None = None,
        *,
        personal: bool = False,
    ) -> None:
        """Let the kernel bind its ports and serve with ``key`` as its session key.

        ``personal`` is for a user at a notebook or console: input and prompts as in any Jupyter kernel.

        Raises:
            KernelStartFailed: If the process ends instead; the message has the end of its standard error.
        """
        assert self._ready is not None
        request = {
            "connection_file": str(files.connection),
            "key": key,
            "journal": str(files.journal),
            "lifeline": str(files.lifeline),
            "lifetime_s": lifetime_s,
            "environment": dict(environment or {}),
            "personal": personal,
        }
        with contextlib.suppress(BrokenPipeError):  # the process ended during its imports
            os.write(self._request_fd, json.dumps(request).encode("ascii") + b"\n")
        line = await self._ready.readline()
        if not line:
            code = await self.exited
            raise KernelStartFailed(
                f"the kernel ended with exit code {code} before it served: {self.stderr_tail()[-500:]}"
            )
        # The state file is written last: an adopting relay finds only kernels that serve.
        ports: dict[str, int] = json.loads(line)
        self.ports = {channel: ports[f"{channel}_port"] for channel in KERNEL_CHANNELS}
        state = {"pid": self.pid, "started": process_start_mark(self.pid), "stderr": str(self._stderr)}
        files.state.write_text(json.dumps(state))
        self._open_pipes(files)

    def _open_pipes(self, files: KernelFiles) -> None:
        """Open the read ends of the kernel's pipes. A kernel for a user has none."""
        for name in STREAMS:
            with contextlib.suppress(OSError):
                self._pipe_fds[name] = os.open(pipe_path(files.journal, name), os.O_RDONLY | os.O_NONBLOCK)

    def save_unread_output(self, journal: Journal) -> None:
        """Save the output that the process did not read. Call it when the process has ended."""
        for name, fd in self._pipe_fds.items():
            data = journal.save_unread(name, fd)
            if name == "stderr":
                with contextlib.suppress(OSError), self._stderr.open("ab") as file:
                    file.write(data)

    def stderr_tail(self) -> str:
        """Return the last bytes that the process wrote to its standard error."""
        with contextlib.suppress(OSError), self._stderr.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _STDERR_TAIL_BYTES))
            return file.read().decode("utf-8", "replace")
        return ""

    def signal(self, number: int) -> None:
        """Send a signal to the process group if the kernel is alive."""
        if not self.exited.done():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    async def end(self) -> None:
        """End the process and its group; return when the process has ended."""
        self.signal(signal.SIGTERM)
        await asyncio.wait({self.exited}, timeout=_END_S)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)  # children that outlive the kernel
        await asyncio.wait({self.exited})
        self.close()

    def close(self) -> None:
        """Close the lifeline. A kernel that is alive then waits for the next relay."""
        for fd in (self._request_fd, self._life_fd, *self._pipe_fds.values()):
            if fd >= 0:
                os.close(fd)
        self._request_fd = self._life_fd = -1
        self._pipe_fds = {}


class KernelProcesses:
    """The kernel processes of one relay."""

    def __init__(
        self, folder: Path, cwd: Path, lifetime_s: float, environment: Mapping[str, str] | None = None
    ) -> None:
        self._folder, self._cwd, self.lifetime_s = folder, cwd, lifetime_s
        self.environment: Mapping[str, str] = environment or {}  # for kernels in whose environment they are not set
        self._spare_process: KernelProcess | None = None
        self._spawned = 0
        self.running: dict[str, KernelProcess] = {}
        self._starting: dict[str, asyncio.Future[None]] = {}
        self._exit_events: dict[str, dict[str, object]] = {}  # of kernels that have ended
        self._watchers: set[asyncio.Task[None]] = set()
        self._oom_kills = oom_kills()
        self.ending = asyncio.Event()  # set when the relay ends, and its kernels with it
        self.on_exit: Callable[[dict[str, object]], None] = lambda event: None

    async def warm_up(self) -> None:
        """Start the process that the next :meth:`start` will use."""
        self._spare_process = await self._spawn()

    def adopt(self) -> int:
        """Adopt the kernels that an earlier relay left in the folder, and return how many are alive."""
        for state in self._folder.glob("kernel-*.state"):
            kernel_id = state.stem.removeprefix("kernel-")
            try:
                self._register(kernel_id, KernelProcess.adopt(self.files(kernel_id)))
            except (NoSuchKernel, ValueError):
                self._exit_events[kernel_id] = _exit_event(kernel_id, None, "", oom=False)
        return len(self.running)

    def files(self, kernel_id: str) -> KernelFiles:
        """Return the paths of a kernel's files.

        Raises:
            ValueError: If the id is invalid. Hosts choose the ids, and an id must not name another folder.
        """
        if _KERNEL_ID.fullmatch(kernel_id) is None:
            raise ValueError(f"{kernel_id[:40]!r} is not a kernel id")
        return KernelFiles(self._folder, kernel_id)

    def journal(self, kernel_id: str) -> Journal:
        """Return a kernel's journal; one that does not exist reads as empty.

        Raises:
            ValueError: If the id is invalid.
        """
        return Journal(self.files(kernel_id).journal)

    async def start(self, kernel_id: str, key: str, *, personal: bool = False) -> int:
        """Start a kernel and return its process id; see :meth:`KernelProcess.serve`.

        Raises:
            KernelStartFailed: If it ended before it served.
        """
        spare, self._spare_process = self._spare_process, None
        process = spare or await self._spawn()
        try:
            await process.serve(self.files(kernel_id), key, self.lifetime_s, self.environment, personal=personal)
        except BaseException as error:  # also when the request is cancelled, no process is left
            await process.end()
            self._finish_start(kernel_id, error if isinstance(error, KernelStartFailed) else None)
            raise
        self._register(kernel_id, process)
        self._finish_start(kernel_id)
        return process.pid

    async def port(self, kernel_id: str, channel: str) -> int:
        """Return the kernel's port for ``channel``; wait for a kernel that is about to start.

        Raises:
            NoSuchKernel: If it did not start, or has ended.
        """
        if kernel_id not in self.running and kernel_id not in self._exit_events:
            # A stream of the kernel may arrive before the request that starts it.
            started = self._starting.setdefault(kernel_id, asyncio.get_running_loop().create_future())
            await asyncio.wait({started}, timeout=_START_S)
        process = self.running.get(kernel_id)
        if process is None:
            raise NoSuchKernel("no such kernel")
        return process.ports[channel]

    def signal(self, kernel_id: str, number: int) -> None:
        """Send a signal to a kernel's process group; do nothing if the kernel has ended."""
        process = self.running.get(kernel_id)
        if process is not None:
            process.signal(number)

    def list_kernels(self) -> dict[str, dict[str, object]]:
        """Return for each kernel whether it is ``alive``, and its exit event if it is not."""
        kernels: dict[str, dict[str, object]] = {
            kernel_id: {**event, "alive": False} for kernel_id, event in self._exit_events.items()
        }
        for kernel_id, process in self.running.items():
            kernels[kernel_id] = {"alive": True, "pid": process.pid}
        return kernels

    async def process_status(self, kernel_id: str) -> dict[str, object]:
        """Return what a kernel's process uses, after a delay; see ``wire.inspect_messages``.

        Raises:
            NoSuchKernel: If it has ended.
        """
        process = self.running.get(kernel_id)
        if process is None:
            raise NoSuchKernel("no such kernel")
        clock = asyncio.get_running_loop().time
        began, before = clock(), resource_usage(process.pid)
        await asyncio.sleep(KERNEL_ANSWER_S)
        now, after = clock(), resource_usage(process.pid)
        return {
            "cpu_percent": None if not before or not after else 100 * (after[0] - before[0]) / (now - began),
            "memory_bytes": after[1] if after else None,
        }

    async def end_all(self) -> None:
        """End every kernel and the spare process: the relay ends."""
        self.ending.set()
        processes = list(self.running.values())
        if self._spare_process is not None:
            processes.append(self._spare_process)
            self._spare_process = None
        await asyncio.gather(*(process.end() for process in processes))

    async def _spawn(self) -> KernelProcess:
        self._spawned += 1
        return await KernelProcess.spawn(self._folder, self._cwd, self._spawned)

    def _register(self, kernel_id: str, process: KernelProcess) -> None:
        self.running[kernel_id] = process
        watcher = asyncio.create_task(self._watch(kernel_id, process))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)

    def _finish_start(self, kernel_id: str, error: KernelStartFailed | None = None) -> None:
        if error is not None:
            self._exit_events[kernel_id] = _exit_event(kernel_id, None, str(error), oom=False)
        started = self._starting.pop(kernel_id, None)
        if started is not None and not started.done():
            started.set_result(None)

    async def _watch(self, kernel_id: str, process: KernelProcess) -> None:
        code = await process.exited
        # Nothing is awaited until the kernel is in the other table, so that each request finds it in one of them.
        del self.running[kernel_id]
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # no child process outlives its kernel
        process.save_unread_output(self.journal(kernel_id))
        process.close()
        # The counter is that of the whole control group: the kill may have hit another process, so SIGKILL must match.
        kills, before = oom_kills(), self._oom_kills
        self._oom_kills = kills
        oom = kills is not None and before is not None and kills > before and code in (-signal.SIGKILL, None)
        event = self._exit_events[kernel_id] = _exit_event(kernel_id, code, process.stderr_tail(), oom=oom)
        if code == -signal.SIGTERM:  # the whole sandbox may be stopping, and the relay's own signal still to come
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.ending.wait(), _SIGNAL_S)
        event["relay_ends"] = self.ending.is_set()
        self.on_exit(event)


def _exit_event(kernel_id: str, code: int | None, stderr: str, *, oom: bool) -> dict[str, object]:
    name = None
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-code).name
    return {"event": "kernel_exited", "kernel": kernel_id, "code": code, "signal": name, "oom": oom, "stderr": stderr}


def kernel_environment(folder: Path) -> dict[str, str]:
    """Return the kernel's environment: that of the relay, with folders of its own."""
    own = {"DAYTONA_KERNEL_FOLDER": str(folder), "IPYTHONDIR": str(folder / "ipython")}
    inherited = {
        name: value for name, value in os.environ.items() if name != "JPY_PARENT_PID"
    }  # ipykernel would end with that process
    return {**inherited, **own}


async def _wait_process_exit(pid: int) -> int | None:
    """Return when a process that is not a child of this one has ended."""
    loop = asyncio.get_running_loop()
    gone: asyncio.Future[None] = loop.create_future()
    try:
        fd = os.pidfd_open(pid)
    except (AttributeError, OSError):
        with contextlib.suppress(ProcessLookupError):
            while True:
                process_start_mark(pid)
                await asyncio.sleep(_POLL_S)
        return None
    loop.add_reader(fd, lambda: None if gone.done() else gone.set_result(None))
    try:
        await gone
    finally:
        loop.remove_reader(fd)
        os.close(fd)
    return None


async def _open_reader(fd: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    file = os.fdopen(fd, "rb", buffering=0)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
    return reader
