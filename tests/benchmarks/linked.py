"""A kernel that can be reached both ways: through relay and tunnel, and over its own TCP ports."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daytona_kernel_interp.client.channels import Channels, Message, parent_id
from daytona_kernel_interp.runtime.event_loop import io_loop
from daytona_kernel_interp.sandboxes.local import LocalSandbox
from daytona_kernel_interp.tunnel.tunnel import KernelObserver, Tunnel
from tests.faults.sandbox import ThroughProxy

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from daytona_kernel_interp.sandboxes.local import RunningLocalSandbox
    from tests.faults.proxy import Proxy
    from tests.faults.sandbox import RunningThroughProxy

_ANSWER_S = 60.0


class Client:
    """The package's own channels to a kernel, and nothing else of it. Lives on the I/O loop."""

    def __init__(self, connection_file: Path) -> None:
        self.channels = Channels(connection_file, None, self._take, self._take, lambda error: None)
        self._missing: dict[str, int] = {}
        self._over: dict[str, asyncio.Future[None]] = {}

    def send(self, code: str, buffers: Sequence[Any] = ()) -> asyncio.Future[None]:
        """Send a cell; the future is done when its reply and its idle have come."""
        content = {"code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False}
        message = self.channels.session.msg("execute_request", content)
        msg_id = message["header"]["msg_id"]
        over = self._over[msg_id] = asyncio.get_running_loop().create_future()
        self._missing[msg_id] = 2
        self.channels.send(message, buffers)
        return over

    async def time_cell(self, code: str = "1;") -> float:
        """Return how many milliseconds a cell takes."""
        begin = time.perf_counter()
        await asyncio.wait_for(self.send(code), _ANSWER_S)
        return (time.perf_counter() - begin) * 1000

    def _take(self, message: Message) -> None:
        idle = message["content"].get("execution_state") == "idle"
        msg_id = parent_id(message)
        if msg_id in self._missing and (idle or message["msg_type"] == "execute_reply"):
            self._missing[msg_id] -= 1
            if not self._missing[msg_id]:
                self._over.pop(msg_id).set_result(None)


class LinkedKernel:
    """A local sandbox, a tunnel to it, and one kernel; no client yet."""

    def __init__(self, proxy: Proxy | None = None) -> None:
        self._proxy = proxy
        self.id = ""
        self.through_tunnel = self.direct = Path()

    @property
    def relay_pid(self) -> int:
        return self.sandbox.pid

    def __enter__(self) -> LinkedKernel:
        io_loop().run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        io_loop().run(self._stop())

    async def _start(self) -> None:
        description: LocalSandbox | ThroughProxy = LocalSandbox() if self._proxy is None else ThroughProxy(self._proxy)
        self.sandbox: RunningLocalSandbox | RunningThroughProxy = await description.start()
        self.tunnel = await Tunnel.open(self.sandbox.address)
        self.id, self.through_tunnel = await self.tunnel.start_kernel(KernelObserver())
        await self.tunnel.kernel_started(self.id)
        async with self.client(self.through_tunnel) as client:
            folder = await _folder_of(client)
        self.direct = folder / f"kernel-{self.id}.json"

    async def _stop(self) -> None:
        await self.tunnel.aclose()
        await self.sandbox.stop()

    @contextlib.asynccontextmanager
    async def client(self, connection_file: Path) -> Any:
        """Return a client whose iopub is subscribed."""
        client = Client(connection_file)
        try:
            await client.channels.wait_subscribed()
            client.channels.release_iopub(set())
            yield client
        finally:
            await client.channels.aclose()

    async def preopened(self) -> Path:
        """End every stream of the kernel, dial those of the next client, and return when they are there."""
        self.tunnel.suspend_kernel(self.id)
        self.tunnel.reopen_kernel(self.id)
        await asyncio.gather(*(stream.opened for stream in self.tunnel._kernels[self.id].ready.values()))
        return self.through_tunnel


async def _folder_of(client: Client) -> Path:
    """Return the sandbox's folder, which the kernel knows."""
    found: list[str] = []
    take = client.channels.on_iopub

    def look(message: Message) -> None:
        if message["msg_type"] == "stream":
            found.append(message["content"]["text"])
        take(message)

    client.channels.on_iopub = look
    await client.time_cell("import os; print(os.environ['DAYTONA_KERNEL_FOLDER'])")
    client.channels.on_iopub = take
    return Path("".join(found).strip())


@contextlib.contextmanager
def peak_rss(*pids: int) -> Iterator[dict[int, int]]:
    """Give each process's growth of resident memory in bytes, from now to its peak within the block (Linux)."""
    before = {pid: _status(pid, "VmRSS") for pid in pids}
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # proc(5): resets the peak
    growth: dict[int, int] = {}
    yield growth
    growth.update({pid: _status(pid, "VmHWM") - before[pid] for pid in pids})


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)
