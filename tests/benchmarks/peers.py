"""What is compared: this package, its kernel without a tunnel, a stock ipykernel, and DSPy's own local interpreter."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
import time
from pathlib import Path
from subprocess import DEVNULL
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import dspy
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager, start_new_async_kernel

from daytona_kernel_interp import KernelInterpreter, LocalSandbox
from daytona_kernel_interp.guest.relay.kernel_processes import KernelFiles, KernelProcess
from daytona_kernel_interp.wire.keepalive import RESUME_LIFETIME_S

from . import cells, report

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

T = TypeVar("T")

_ANSWER_S = 60.0
_PROBE_S = 0.05


class Peer(Protocol):
    """Something that runs cells."""

    name: str

    def start(self) -> None:
        """Start it; the next cell runs at once."""

    def stop(self) -> None:
        """End it, and every process of it."""

    def time_cells(self, codes: Sequence[str]) -> list[float]:
        """Run cells one after the other and return how many milliseconds each took."""

    def time_variables(self, values: Sequence[str]) -> list[float]:
        """The same for empty cells, each with a value bound to a name first."""


class _Interpreter:
    """A DSPy interpreter."""

    def __init__(self, name: str, factory: Callable[[], Any]) -> None:
        self.name, self._factory = name, factory
        self._interpreter: Any = None

    def start(self) -> None:
        self._interpreter = self._factory()
        self._interpreter.start()

    def stop(self) -> None:
        self._interpreter.shutdown()

    def evaluate(self, expression: str) -> Any:
        """Return the value of a cell with one expression."""
        return self._interpreter.execute(expression)

    def time_cells(self, codes: Sequence[str]) -> list[float]:
        return [_time(self._interpreter.execute, code) for code in codes]

    def time_variables(self, values: Sequence[str]) -> list[float]:
        return [_time(self._interpreter.execute, cells.EMPTY, {"data": value}) for value in values]


class _Direct:
    """A kernel on this machine and a plain ``AsyncKernelClient``, both on one event loop."""

    name: str

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._client: AsyncKernelClient | None = None

    def time_cells(self, codes: Sequence[str]) -> list[float]:
        return self._run(self._time_cells(codes))

    def time_variables(self, values: Sequence[str]) -> list[float]:
        # There is no other way in for a value than the code.
        return self.time_cells([f"data = {value!r}" for value in values])

    def _run(self, work: Awaitable[T]) -> T:
        return self._loop.run_until_complete(asyncio.wait_for(work, _ANSWER_S))

    async def _time_cells(self, codes: Sequence[str]) -> list[float]:
        times = []
        for code in codes:
            begin = time.perf_counter()
            await self._execute(code)
            times.append((time.perf_counter() - begin) * 1000)
        return times

    async def _execute(self, code: str) -> None:
        """Run one cell; it is over when both its reply and its idle status have come."""
        client = self._client
        assert client is not None
        msg_id = client.execute(code, allow_stdin=False)
        while True:
            reply = await client.get_shell_msg()
            if reply["parent_header"].get("msg_id") == msg_id:
                break
        assert reply["content"]["status"] == "ok", reply["content"]
        while not _is_idle(await client.get_iopub_msg(), msg_id):
            pass


class StockKernel(_Direct):
    """ipykernel as it is installed, started and driven as jupyter_client documents it."""

    name = report.STOCK

    def __init__(self) -> None:
        super().__init__()
        self._manager: AsyncKernelManager | None = None

    def start(self) -> None:
        self._manager, self._client = self._run(start_new_async_kernel(kernel_name="python3", stderr=DEVNULL))

    def stop(self) -> None:
        if self._client is not None:
            self._client.stop_channels()
        if self._manager is not None:
            self._run(self._manager.shutdown_kernel(now=True))
        self._loop.close()


class TunedKernel(_Direct):
    """The kernel of this package without relay and tunnel: its ZMQ ports, reached at once."""

    name = report.TUNED

    def __init__(self) -> None:
        super().__init__()
        self._folder = Path(tempfile.mkdtemp(prefix="dki-bench-"))
        self._process: KernelProcess | None = None

    def start(self) -> None:
        self._run(self._start())

    def stop(self) -> None:
        if self._client is not None:
            self._client.stop_channels()
        if self._process is not None:
            self._run(self._process.end())
        shutil.rmtree(self._folder, ignore_errors=True)
        self._loop.close()

    async def _start(self) -> None:
        files = KernelFiles(self._folder, "bench")
        self._process = await KernelProcess.spawn(self._folder, self._folder, 1)
        await self._process.serve(files, secrets.token_hex(32), RESUME_LIFETIME_S)
        client = self._client = AsyncKernelClient()
        client.load_connection_file(str(files.connection))
        client.start_channels(hb=False)
        await self._until_subscribed(client)

    async def _until_subscribed(self, client: AsyncKernelClient) -> None:
        while True:
            msg_id = client.kernel_info()
            try:
                while not _is_idle(await asyncio.wait_for(client.get_iopub_msg(), _PROBE_S), msg_id):
                    pass
            except asyncio.TimeoutError:
                continue
            return


def kernel_interpreter() -> _Interpreter:
    """Return this package's interpreter, its kernel in a child process."""
    return _Interpreter(report.OURS, lambda: KernelInterpreter({"add": cells.add}, sandbox=LocalSandbox()))


def local_interpreter() -> _Interpreter:
    """Return DSPy's own interpreter in a child process."""
    return _Interpreter(report.LOCAL, lambda: dspy.LocalInterpreter({"add": cells.add}))


def time_start(make: Callable[[], Peer]) -> list[float]:
    """Return how many milliseconds a peer takes from its start to its first result."""
    peer = make()
    try:
        begin = time.perf_counter()
        peer.start()
        peer.time_cells([cells.SCALAR])
        return [(time.perf_counter() - begin) * 1000]
    finally:
        peer.stop()


def _is_idle(message: dict[str, Any], msg_id: str) -> bool:
    state = message["content"].get("execution_state") if message["msg_type"] == "status" else None
    return state == "idle" and bool(message["parent_header"].get("msg_id") == msg_id)


def _time(work: Callable[..., object], *args: object) -> float:
    begin = time.perf_counter()
    work(*args)
    return (time.perf_counter() - begin) * 1000
