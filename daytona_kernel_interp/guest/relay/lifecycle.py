"""The life of a relay that has its start request: kernel processes and port, until the end."""

from __future__ import annotations

import asyncio
import shutil
import signal
from typing import TYPE_CHECKING

from .kernel_processes import KernelProcesses

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .server import Relay
    from .start_request import StartRequest


async def run(request: StartRequest, listening: Callable[[int], None]) -> None:
    """Start kernel processes, or adopt those of an earlier relay in the same folder, and serve until the end.

    Raises:
        OSError: If the port is taken.
    """
    kernels = KernelProcesses(request.folder, request.cwd, request.lifetime_s, request.environment)
    end_on_signals(kernels)
    # The kernel process imports while this process imports websockets: both take about the same time.
    if not kernels.adopt():
        await kernels.warm_up()
    await serve(request, kernels, listening)


async def serve(request: StartRequest, kernels: KernelProcesses, listening: Callable[[int], None]) -> None:
    """Listen until a host ends the relay, no host connects for its lifetime, or a signal arrives.

    Then end the kernels. ``listening`` is called with the port.

    Raises:
        OSError: If the port is taken.
    """
    try:
        relay = load_relay()(request.secret, kernels, request.lifetime_s)
        server = await relay.listen(request.port, request.host)
        listening(server.sockets[0].getsockname()[1])
        await wait_first(relay.wait_end(), kernels.ending.wait())
        server.close()
    finally:
        await kernels.end_all()
        if request.remove:  # the folder was made for this relay, and a host that was killed cannot delete it
            shutil.rmtree(request.folder, ignore_errors=True)


def end_on_signals(kernels: KernelProcesses) -> None:
    """End the relay on SIGTERM and SIGINT: set the kernels' ``ending``."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, kernels.ending.set)


def load_relay() -> type[Relay]:
    """Import the server and websockets, which takes about as long as the start of a kernel process."""
    from .server import Relay

    return Relay


async def wait_first(*reasons: Awaitable[object]) -> None:
    """Return when one of the awaitables is done, and cancel the others."""
    tasks = [asyncio.ensure_future(reason) for reason in reasons]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
