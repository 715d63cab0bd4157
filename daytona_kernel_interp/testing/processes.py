"""The host side of a sandbox's processes: one child (``pid1.py``) starts and ends all others."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from . import pid1

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PID1 = str(Path(pid1.__file__))
_PROBE_S = 5.0
_LOOK_S = 0.02
_START_S = 10.0
_LISTEN = "0A"  # TCP_LISTEN in /proc/net/tcp


class MachineGone(Exception):
    """The error after the sandbox's first process, and so the sandbox, has ended."""


class Child:
    """A process in a sandbox."""

    def __init__(self, pid: int, exited: asyncio.Future[int]) -> None:
        self.pid, self.exited = pid, exited


class Machine:
    """The processes of one started sandbox, for use from one event loop."""

    def __init__(self, process: asyncio.subprocess.Process, control: socket.socket, *, isolated: bool) -> None:
        self._process, self._control, self.isolated = process, control, isolated
        self._loop = asyncio.get_running_loop()
        self._lock = asyncio.Lock()  # one request at a time: a datagram queue is short
        self._reply: asyncio.Future[tuple[list[str], list[int]]] = self._loop.create_future()
        self._children: dict[int, asyncio.Future[int]] = {}
        self.gone = self._loop.create_task(self._watch())
        self._loop.add_reader(control.fileno(), self._receive)

    @classmethod
    async def start(cls, *, isolated: bool) -> Machine:
        """Start a machine with only its first process."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        ours.setblocking(False)
        command = [sys.executable, "-I", "-S", _PID1, str(theirs.fileno()), "isolated" if isolated else "shared"]
        if isolated:
            command = ["unshare", "--map-root-user", "--net", *command]
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                cwd="/",
                env={"PATH": os.defpath},
            )
        machine = cls(process, ours, isolated=isolated)
        try:
            await asyncio.wait_for(machine._answer(), _START_S)
        except BaseException:
            await machine.end()
            raise
        return machine

    @property
    def pid(self) -> int:
        """The first process's id on this machine."""
        return self._process.pid

    async def spawn(self, arguments: Sequence[str], env: Mapping[str, str], cwd: Path, fds: Sequence[int]) -> Child:
        """Start a process with three file descriptors, which the caller must close.

        Raises:
            OSError: If it cannot be started, e.g. in a folder that does not exist.
            MachineGone: If the sandbox has ended.
        """
        environment = [f"{name}={value}" for name, value in env.items()]
        fields = ["spawn", str(cwd), str(len(arguments)), *arguments, *environment]
        (pid, *_), _ = await self._ask(fields, fds)
        return Child(int(pid), self._children.setdefault(int(pid), self._loop.create_future()))

    async def connect(self, port: int) -> socket.socket | None:
        """Return a socket connected to a port of the sandbox's loopback, or None if the port is closed."""
        if not self.isolated and not await asyncio.to_thread(owns_port, self.pid, port):
            return None
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with contextlib.suppress(OSError):
                return await self._connected(family, host, port)
        return None

    async def listen(self) -> tuple[int, socket.socket]:
        """Return a port of the sandbox's loopback and its listening socket, for a server in this process."""
        (port,), (fd,) = await self._ask(["listen"])
        os.set_inheritable(fd, False)
        made = socket.socket(fileno=fd)
        made.setblocking(False)
        return int(port), made

    async def ports(self) -> list[int]:
        """Return the ports on which the sandbox's processes listen."""
        found = _namespace_listening(self.pid) if self.isolated else await asyncio.to_thread(listening, self.pid)
        return sorted(found)

    async def kill(self, pid: int) -> None:
        """Kill a process group; do nothing if it has ended."""
        with contextlib.suppress(MachineGone):
            await self._signal(signal.SIGKILL, [str(-pid)])

    async def freeze(self, frozen: bool) -> None:
        """Pause or continue all processes."""
        with contextlib.suppress(MachineGone):
            (_, _, *below), _ = await self._ask(["tree", str(self.pid)])
            await self._signal(signal.SIGSTOP if frozen else signal.SIGCONT, below)

    async def end_tree(self, pid: int, grace_s: float) -> None:
        """End a process group and all descendants: with SIGTERM, and with SIGKILL after ``grace_s``."""
        with contextlib.suppress(MachineGone):
            # Determined once, because an orphaned process gets another parent.
            tree, _ = await self._ask(["tree", str(pid)])
            left = await self._signal(signal.SIGTERM, tree)
            deadline = self._loop.time() + grace_s
            while left and self._loop.time() < deadline:
                await asyncio.sleep(_LOOK_S)
                left = await self._signal(0, left)
            await self._signal(signal.SIGKILL, left)

    async def _signal(self, number: int, targets: Sequence[str]) -> list[str]:
        """Send a signal and return the processes that existed."""
        if not targets:
            return []
        found, _ = await self._ask(["signal", str(int(number)), *targets])
        return [pid for pid in found if pid]

    async def end(self) -> None:
        """Kill all processes at once. Further calls do nothing."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        await asyncio.wait((self.gone,))  # a direct await would cancel it together with the caller

    async def _connected(self, family: socket.AddressFamily, host: str, port: int) -> socket.socket:
        if self.isolated:
            # A socket belongs to the network namespace of its creation, also if another process connects it.
            _, (fd,) = await self._ask(["socket", "6" if family is socket.AF_INET6 else "4"])
            os.set_inheritable(fd, False)
            made = socket.socket(fileno=fd)
        else:
            made = socket.socket(family, socket.SOCK_STREAM)
        try:
            made.setblocking(False)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.sock_connect(made, (host, port))
        except BaseException:
            made.close()
            raise
        return made

    async def _ask(self, fields: Sequence[str], fds: Sequence[int] = ()) -> tuple[list[str], list[int]]:
        data = "\0".join(fields).encode("utf-8", "surrogateescape")
        if len(data) > pid1.REQUEST_BYTES:
            raise OSError("Argument list too long")
        await self._lock.acquire()
        try:
            if self.gone.done():
                raise MachineGone
            self._reply = self._loop.create_future()
            socket.send_fds(self._control, [data], list(fds))
        except ConnectionError as error:
            self._lock.release()
            raise MachineGone from error
        except BaseException:
            self._lock.release()
            raise
        answer = asyncio.ensure_future(self._answer())
        # Read also after the caller was cancelled; otherwise the next request would receive this reply.
        answer.add_done_callback(lambda _: self._lock.release())
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            answer.add_done_callback(_let_go)
            raise

    async def _answer(self) -> tuple[list[str], list[int]]:
        reply = self._reply
        await asyncio.wait((reply, self.gone), return_when=asyncio.FIRST_COMPLETED)
        if not reply.done():
            raise MachineGone
        (status, *fields), fds = reply.result()
        if status == "error":
            raise OSError(fields[0])
        return fields, fds

    def _receive(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._control, pid1.REQUEST_BYTES, 1)
        except BlockingIOError:
            return
        except OSError:
            self._loop.remove_reader(self._control.fileno())
            return
        kind, *fields = data.decode().split("\0")
        if kind == "exit":
            exited = self._children.setdefault(int(fields[0]), self._loop.create_future())
            if not exited.done():
                exited.set_result(int(fields[1]))
        elif not self._reply.done():
            self._reply.set_result(([kind, *fields], fds))

    async def _watch(self) -> None:
        await self._process.wait()
        self._loop.remove_reader(self._control.fileno())
        self._control.close()
        if self._process.stdin is not None:
            self._process.stdin.close()
        for exited in self._children.values():
            if not exited.done():
                exited.set_result(-signal.SIGKILL)


def _let_go(answer: asyncio.Future[tuple[list[str], list[int]]]) -> None:
    if not answer.cancelled() and answer.exception() is None:
        for fd in answer.result()[1]:
            os.close(fd)


class Machines:
    """Machines for new sandboxes. One is started ahead, because the start of Python dominates a sandbox's start."""

    def __init__(self, *, isolated: bool) -> None:
        self._isolated = isolated
        self._next: asyncio.Task[Machine] | None = None

    def prepare(self) -> None:
        """Begin to start the next machine."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(Machine.start(isolated=self._isolated))

    async def take(self) -> Machine:
        """Return an unused machine."""
        ahead, self._next = self._next, None
        machine = await (ahead or Machine.start(isolated=self._isolated))
        return await Machine.start(isolated=self._isolated) if machine.gone.done() else machine

    async def close(self) -> None:
        """End the machine that was started ahead."""
        if self._next is not None:
            with contextlib.suppress(Exception):
                await (await self._next).end()


def owns_port(pid: int, port: int) -> bool:
    """Return whether ``pid`` or a descendant listens on ``port``."""
    return port in listening(pid)


def listening(pid: int) -> set[int]:
    """Return the TCP ports on which ``pid`` and its descendants listen."""
    try:
        processes = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return set()
    ports: set[int] = set()
    for process in processes:
        with contextlib.suppress(psutil.Error):
            connections = process.net_connections("tcp")
            ports.update(known.laddr.port for known in connections if known.status == psutil.CONN_LISTEN)
    return ports


def _namespace_listening(pid: int) -> set[int]:
    ports = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                if state == _LISTEN:
                    ports.add(int(local.rpartition(":")[2], 16))
    return ports


@functools.cache
def can_isolate() -> bool:
    """Return whether ``unshare`` can create a network namespace on this machine."""
    unshare = shutil.which("unshare")
    if sys.platform != "linux" or unshare is None:
        return False
    command = [unshare, "--map-root-user", "--net", "true"]
    try:
        return subprocess.run(command, capture_output=True, timeout=_PROBE_S, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
