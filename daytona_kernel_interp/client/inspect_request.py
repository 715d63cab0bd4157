"""Inspecting a live kernel from its host. Runs on the I/O loop.

The kernel and its relay get the request at the same time. The relay delays its answer (see ``wire.inspect_messages``),
so that answer counts only if native code keeps the kernel from reading. The relay knows no variables: it reports what
the kernel's process uses. This host adds what it knows itself: the kernel's last answer, and the cell that runs.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from ..errors import KernelError, SandboxFailed, TunnelLost
from ..wire.inspect_messages import REPR_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..tunnel.tunnel import Tunnel
    from .channels import Channels, Message

    RunningCell = dict[str, object]

_ANSWER_S = 10.0  # for a link that is slow, or being resumed
_BUSY_PERCENT = 50  # of a processor


class InspectClient:
    """Requests inspections of one kernel, and keeps the last one that the kernel answered."""

    def __init__(self) -> None:
        # One answer, no larger than one message of the kernel may be; the next answer replaces it.
        self._last: tuple[float, dict[str, object]] | None = None

    async def inspect(
        self,
        channels: Channels | None,
        tunnel: Tunnel,
        kernel_id: str,
        name: str | None,
        running_cell: Callable[[], RunningCell | None],
    ) -> dict[str, Any]:
        """Return the kernel's answer, or what is known without it; ``by`` says which: ``kernel`` or ``relay``.

        ``running_cell`` returns the cell of this host that runs, as ``running`` of a relay's answer has it.

        Raises:
            TunnelLost: If neither answers in time.
            KernelError: If the relay is gone, or does not know the kernel.
        """
        loop = asyncio.get_running_loop()
        tasks: list[asyncio.Task[Any]] = []
        kernel: asyncio.Task[Message] | None = None
        if channels is not None:
            request = {"op": "inspect"} if name is None else {"op": "inspect", "name": name}
            kernel = asyncio.create_task(channels.request_control(request))
            tasks.append(kernel)
        relay = asyncio.create_task(_request_status(tunnel, kernel_id, name, running_cell))
        tasks.append(relay)
        end = loop.time() + _ANSWER_S
        try:
            with tunnel.in_flight():
                while tasks and (left_s := end - loop.time()) > 0:
                    done, _ = await asyncio.wait(tasks, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                    tasks = [task for task in tasks if task not in done]
                    if kernel is not None and kernel.done():
                        answer = _data_of(kernel.result())
                        if name is None:
                            self._last = (loop.time(), answer)
                        return {**answer, "by": "kernel"}
                    if relay.done() and (not _relay_refused(relay.exception()) or not tasks):
                        return self._without_kernel(relay.result(), running_cell(), loop.time())
            raise TunnelLost(
                f"neither the kernel nor its relay answered within {_ANSWER_S:g} s: the link is slow, or down"
            )
        finally:
            for step in (relay, *([kernel] if kernel is not None else [])):
                step.cancel()
                with contextlib.suppress(asyncio.CancelledError, KernelError):
                    await step

    def _without_kernel(
        self, status: Mapping[str, object], running: RunningCell | None, now: float
    ) -> dict[str, object]:
        answered_at, summary = self._last or (None, None)
        return {
            "by": "relay",
            "summary": summary,
            "age_s": None if answered_at is None else now - answered_at,
            "running": running,
            "cpu_percent": status.get("cpu_percent"),
            "memory_bytes": status.get("memory_bytes"),
        }


def _relay_refused(error: BaseException | None) -> bool:
    """Whether the relay lives and cannot report, like one of another version; the kernel may answer."""
    return type(error) is SandboxFailed


async def _request_status(
    tunnel: Tunnel, kernel_id: str, name: str | None, running_cell: Callable[[], RunningCell | None]
) -> dict[str, object]:
    """Return the relay's answer: at once if native code is likely to hold the kernel, else after a second request.

    A kernel that runs no cell of this host and whose process is not busy is slow: the machine is loaded, or the
    variable's own ``repr`` takes its time.
    """
    status: dict[str, object] = await tunnel.kernel_status(kernel_id)
    if running_cell() is None and (name is not None or not _is_busy(status.get("cpu_percent"))):
        await asyncio.sleep(REPR_S)
        status = await tunnel.kernel_status(kernel_id)
    return status


def _is_busy(cpu_percent: object) -> bool:
    return isinstance(cpu_percent, (int, float)) and cpu_percent >= _BUSY_PERCENT


def _data_of(message: Message) -> dict[str, object]:
    data = message["content"].get("data")
    return data if isinstance(data, dict) else {}
