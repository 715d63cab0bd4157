"""Looking at a live kernel from its host: the kernel and its relay are asked side by side. Lives on the I/O loop.

Whoever answers first is heard. The relay holds its answer back for a moment (``wire.looks``), so it is heard only where
native code keeps the kernel from reading.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from ..errors import KernelError, SandboxFailed, TunnelLost
from ..wire.inspect_messages import REPR_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..tunnel.tunnel import Tunnel
    from .channels import Channels, Message

_LOOK_S = 10.0  # for a link that is slow, or being resumed
_BUSY_PERCENT = 50  # of a processor


async def look(
    channels: Channels | None,
    tunnel: Tunnel,
    kernel_id: str,
    name: str | None,
    calls: Callable[[], list[list[Any]]],
) -> dict[str, Any]:
    """Return what the kernel says of itself, or else what the relay says of it, with ``by`` telling who did.

    The relay knows no tool calls: those are the ones that this host is at, ``calls``.

    Raises:
        TunnelLost: If neither answers in time.
        KernelError: If the relay is gone, or knows nothing of the kernel.
    """
    steps: set[asyncio.Task[Any]] = set()
    kernel: asyncio.Task[Message] | None = None
    if channels is not None:
        question = {"op": "inspect"} if name is None else {"op": "inspect", "name": name}
        kernel = asyncio.create_task(channels.ask(question))
        steps.add(kernel)
    relay = asyncio.create_task(_ask_relay(tunnel, kernel_id, name))
    steps.add(relay)
    end = asyncio.get_running_loop().time() + _LOOK_S
    try:
        with tunnel.in_flight():
            while steps and (left_s := end - asyncio.get_running_loop().time()) > 0:
                done, _ = await asyncio.wait(steps, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                steps -= done
                if kernel is not None and kernel.done():
                    return {**_data(kernel.result()), "by": "kernel"}
                if relay.done() and (not _only_refused(relay.exception()) or not steps):
                    answer = relay.result()
                    if isinstance(answer.get("running"), dict):
                        answer["running"]["calls"] = calls()
                    return {**answer, "by": "relay"}
        raise TunnelLost(f"neither the kernel nor its relay answered within {_LOOK_S:g} s: the link is slow, or down")
    finally:
        for step in (relay, *([kernel] if kernel is not None else [])):
            step.cancel()
            with contextlib.suppress(asyncio.CancelledError, KernelError):
                await step


def _only_refused(error: BaseException | None) -> bool:
    """Whether the relay is there and cannot tell, as one of another version; the kernel may."""
    return type(error) is SandboxFailed


async def _ask_relay(tunnel: Tunnel, kernel_id: str, name: str | None) -> dict[str, Any]:
    """Ask at once; of an idle kernel, which is only slow, once more: what it left on the board is from before.

    Its machine may be busy, or the variable's own text is in the making. One whose process works is held all the same.
    """
    answer = await tunnel.look(kernel_id)
    if answer.get("running") is None and (name is not None or not _works(answer.get("cpu_percent"))):
        await asyncio.sleep(REPR_S)
        answer = await tunnel.look(kernel_id)
    return answer


def _works(cpu_percent: Any) -> bool:
    return isinstance(cpu_percent, (int, float)) and cpu_percent >= _BUSY_PERCENT


def _data(message: Message) -> dict[str, Any]:
    data = message["content"].get("data")
    return data if isinstance(data, dict) else {}
