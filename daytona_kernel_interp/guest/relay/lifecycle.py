"""A relay's life once it has its order: kernels and port, until the end."""

from __future__ import annotations

import asyncio
import ipaddress
import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from .kernel_processes import KernelProcesses
    from .server import Relay

LOOPBACK = "127.0.0.1"
MIN_SECRET_CHARS = 16  # of one that is all that stands between a network and the kernels


@dataclass(frozen=True)
class StartRequest:
    """What a relay is told. ``remove``: delete the folder in the end."""

    secret: str = field(repr=False)
    port: int
    folder: Path
    cwd: Path
    lifetime_s: float
    remove: bool = False
    host: str = LOOPBACK

    def __post_init__(self) -> None:
        if not self.secret:
            raise ValueError("a relay needs a token, and this one is empty")
        if not _is_loopback(self.host) and len(self.secret) < MIN_SECRET_CHARS:
            raise ValueError(
                f"a relay that listens on {self.host} needs a token of {MIN_SECRET_CHARS} characters or more, "
                f"and this one has {len(self.secret)}"
            )


def parse_start_request(value: Mapping[str, Any]) -> StartRequest:
    """Return the order that a JSON object describes.

    Raises:
        KeyError, TypeError, ValueError: If it is none.
    """
    return StartRequest(
        secret=str(value["secret"]),
        port=int(value["port"]),
        folder=Path(value["folder"]),
        cwd=Path(value["cwd"]),
        lifetime_s=float(value["lifetime_s"]),
        remove=bool(value.get("remove")),
        host=str(value.get("host", LOOPBACK)),
    )


async def serve(
    request: StartRequest, kernels: KernelProcesses, listening: Callable[[int], None], *ends: Awaitable[Any]
) -> None:
    """Serve until the host wants the end or is gone for too long, or a signal or one of ``ends`` is there.

    The kernels are ended then. ``listening`` is called with the port.

    Raises:
        OSError: If the port is taken.
    """
    try:
        relay = load_relay()(request.secret, kernels, request.lifetime_s)
        server = await relay.listen(request.port, request.host)
        listening(server.sockets[0].getsockname()[1])
        await _wait_first(relay.until_end(), kernels.ending.wait(), *ends)
        server.close()
    finally:
        await kernels.end_all()
        if request.remove:  # a folder made for this relay; a host that was killed cannot delete it
            shutil.rmtree(request.folder, ignore_errors=True)


def end_at_signals(kernels: KernelProcesses) -> None:
    """Have SIGTERM and SIGINT end the relay: they set the kernels' ``ending``."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, kernels.ending.set)


def load_relay() -> type[Relay]:
    """Import the relay and websockets, which takes about as long as a kernel process's start."""
    from .server import Relay

    return Relay


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _wait_first(*reasons: Awaitable[Any]) -> None:
    tasks = [asyncio.ensure_future(reason) for reason in reasons]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
