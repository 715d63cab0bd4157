"""Kernel processes: start, watch, interrupt, kill."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import deque
from typing import TYPE_CHECKING, Any

from ..wire.hello import KERNEL_CHANNELS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KERNEL_MODULE = "daytona_kernel_interp.guest.kernel_app"
_STDERR_TAIL_BYTES = 8 * 1024
_END_S = 1.0  # from SIGTERM to SIGKILL


class KernelStartFailed(Exception):
    """The kernel process ended, or said nothing, before it served."""


class KernelProcess:
    """One kernel process, from its imports to its exit code."""

    def __init__(self, process: asyncio.subprocess.Process, order_fd: int, ready: asyncio.StreamReader) -> None:
        self._process, self._order_fd, self._ready = process, order_fd, ready
        self._stderr_tail: deque[bytes] = deque()
        self._stderr_done = asyncio.create_task(self._keep_stderr())
        self.ports: dict[str, int] = {}

    @classmethod
    async def spawn(cls, folder: Path, cwd: Path) -> KernelProcess:
        """Start a kernel process; it imports and then waits for :meth:`serve`."""
        order_read, order_write = os.pipe()
        ready_read, ready_write = os.pipe()
        try:
            # -s: no user site-packages.
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-s", "-m", KERNEL_MODULE, str(order_read), str(ready_write)),
                pass_fds=(order_read, ready_write),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
                cwd=cwd,
                env=kernel_environment(folder),
            )
        finally:
            os.close(order_read)
            os.close(ready_write)
        return cls(process, order_write, await _reader_of(ready_read))

    @property
    def pid(self) -> int:
        """The process id, also that of its process group."""
        return self._process.pid

    async def serve(self, connection_file: Path, key: str) -> None:
        """Have the kernel bind its ports and serve with ``key`` as session key.

        Raises:
            KernelStartFailed: If it ends instead; the message has the end of its stderr.
        """
        order = {"connection_file": str(connection_file), "key": key}
        os.write(self._order_fd, json.dumps(order).encode("ascii") + b"\n")
        line = await self._ready.readline()
        if not line:
            code, tail = await self.wait()
            raise KernelStartFailed(f"the kernel ended with exit code {code} before it served: {tail.strip()[-500:]}")
        ports: dict[str, int] = json.loads(line)
        self.ports = {channel: ports[f"{channel}_port"] for channel in KERNEL_CHANNELS}

    async def wait(self) -> tuple[int, str]:
        """Return the exit code (negative: the signal) and the end of stderr, once the process is over."""
        code = await self._process.wait()
        # A child of the kernel may hold stderr open; what it writes is not the kernel's last word.
        await asyncio.wait([self._stderr_done], timeout=0.2)
        return code, b"".join(self._stderr_tail).decode("utf-8", "replace")

    def signal(self, number: int) -> None:
        """Send a signal to the kernel's process group, if it lives."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    async def end(self) -> None:
        """End the process and everything in its group; returns when the process is reaped."""
        self.signal(signal.SIGTERM)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._process.wait(), _END_S)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)  # children that outlive the kernel
        await self._process.wait()
        self.close()

    def close(self) -> None:
        """Let go of the lifeline; a kernel that still lives ends itself."""
        if self._order_fd >= 0:
            os.close(self._order_fd)
            self._order_fd = -1

    async def _keep_stderr(self) -> None:
        assert self._process.stderr is not None
        size = 0
        while data := await self._process.stderr.read(4096):
            self._stderr_tail.append(data)
            size += len(data)
            while size - len(self._stderr_tail[0]) > _STDERR_TAIL_BYTES:
                size -= len(self._stderr_tail.popleft())


class Kernels:
    """The relay's kernels. One process is kept importing ahead of the first order."""

    def __init__(self, folder: Path, cwd: Path) -> None:
        self._folder, self._cwd = folder, cwd
        self._spare: KernelProcess | None = None
        self._running: dict[str, KernelProcess] = {}
        self._watchers: set[asyncio.Task[None]] = set()
        self.on_exit: Callable[[dict[str, Any]], None] = lambda event: None

    async def warm_up(self) -> None:
        """Start the process that the next :meth:`start` will use."""
        self._spare = await KernelProcess.spawn(self._folder, self._cwd)

    async def start(self, kernel_id: str, key: str) -> int:
        """Start a kernel and return its pid.

        Raises:
            KernelStartFailed: If it could not serve.
        """
        spare, self._spare = self._spare, None
        process = spare or await KernelProcess.spawn(self._folder, self._cwd)
        try:
            await process.serve(self._folder / f"kernel-{kernel_id}.json", key)
        except BaseException:
            await process.end()
            raise
        self._running[kernel_id] = process
        watcher = asyncio.create_task(self._watch(kernel_id, process))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)
        return process.pid

    def port(self, kernel_id: str, channel: str) -> int | None:
        """Return the kernel's port for ``channel``, or None if there is no such kernel."""
        process = self._running.get(kernel_id)
        return None if process is None else process.ports.get(channel)

    def signal(self, kernel_id: str, number: int) -> None:
        """Send a signal to one kernel's process group; a kernel that is gone is no error."""
        process = self._running.get(kernel_id)
        if process is not None:
            process.signal(number)

    async def end_all(self) -> None:
        """End every kernel, and the spare process."""
        processes = list(self._running.values())
        if self._spare is not None:
            processes.append(self._spare)
            self._spare = None
        await asyncio.gather(*(process.end() for process in processes))

    async def _watch(self, kernel_id: str, process: KernelProcess) -> None:
        code, tail = await process.wait()
        del self._running[kernel_id]
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # its children end with it
        process.close()
        self.on_exit({"event": "kernel_exited", "kernel": kernel_id, "code": code, "stderr": tail})


def kernel_environment(folder: Path) -> dict[str, str]:
    """Return the kernel's environment: the sandbox's own, and folders that are the kernel's alone."""
    own = {"DAYTONA_KERNEL_FOLDER": str(folder), "IPYTHONDIR": str(folder / "ipython"), "PYTHONNOUSERSITE": "1"}
    return {**os.environ, **own}


async def _reader_of(fd: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    file = os.fdopen(fd, "rb", buffering=0)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
    return reader
