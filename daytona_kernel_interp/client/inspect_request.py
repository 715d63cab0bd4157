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

_ANSWER_S = 10.0  # for a link that is slow, or being resumed
_BUSY_PERCENT = 50  # of a processor


async def inspect_kernel(
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
    tasks: set[asyncio.Task[Any]] = set()
    kernel: asyncio.Task[Message] | None = None
    if channels is not None:
        request = {"op": "inspect"} if name is None else {"op": "inspect", "name": name}
        kernel = asyncio.create_task(channels.request_control(request))
        tasks.add(kernel)
    relay = asyncio.create_task(_ask_relay(tunnel, kernel_id, name))
    tasks.add(relay)
    end = asyncio.get_running_loop().time() + _ANSWER_S
    try:
        with tunnel.in_flight():
            while tasks and (left_s := end - asyncio.get_running_loop().time()) > 0:
                done, _ = await asyncio.wait(tasks, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                tasks -= done
                if kernel is not None and kernel.done():
                    return {**_data_of(kernel.result()), "by": "kernel"}
                if relay.done() and (not _relay_refused(relay.exception()) or not tasks):
                    answer = relay.result()
                    if isinstance(answer.get("running"), dict):
                        answer["running"]["calls"] = calls()
                    return {**answer, "by": "relay"}
        raise TunnelLost(f"neither the kernel nor its relay answered within {_ANSWER_S:g} s: the link is slow, or down")
    finally:
        for step in (relay, *([kernel] if kernel is not None else [])):
            step.cancel()
            with contextlib.suppress(asyncio.CancelledError, KernelError):
                await step


def _relay_refused(error: BaseException | None) -> bool:
    """Whether the relay is there and cannot tell, as one of another version; the kernel may."""
    return type(error) is SandboxFailed


async def _ask_relay(tunnel: Tunnel, kernel_id: str, name: str | None) -> dict[str, Any]:
    """Ask at once; of an idle kernel, which is only slow, once more: what it left on the board is from before.

    Its machine may be busy, or the variable's own text is in the making. One whose process works is held all the same.
    """
    answer = await tunnel.kernel_status(kernel_id)
    if answer.get("running") is None and (name is not None or not _is_busy(answer.get("cpu_percent"))):
        await asyncio.sleep(REPR_S)
        answer = await tunnel.kernel_status(kernel_id)
    return answer


def _is_busy(cpu_percent: Any) -> bool:
    return isinstance(cpu_percent, (int, float)) and cpu_percent >= _BUSY_PERCENT


def _data_of(message: Message) -> dict[str, Any]:
    data = message["content"].get("data")
    return data if isinstance(data, dict) else {}
