"""The tool calls of the running cell: each is made once, and its reply reaches the cell although links break."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from ..codec import values
from ..config import KEPT_REPLY_BYTES, MAX_PENDING_CALLS, PENDING_CALL_BYTES
from ..tools.binding import Reply, ToolAborted, ToolRunner, failure
from ..wire.comm import ToolFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .output_collector import ToolCalled

log = logging.getLogger(__name__)

HOST_LOST = ToolFailure(
    "HostLost",
    ("ConnectionError",),
    "the host that made this call died before it answered; the call is not made again",
)


class Calls:
    """Runs calls and keeps their replies until the cell is over, as far as they have room."""

    def __init__(self, send: Callable[..., None]) -> None:
        """Make it; ``send(data, buffers)`` sends a message to the cell."""
        self._send = send
        self._running: dict[int, asyncio.Task[None]] = {}
        self._began: dict[int, tuple[str, float]] = {}  # of those: the tool's name, and when it was called
        self._arguments_bytes = 0  # of those too
        self._kept: dict[int, Reply] = {}  # oldest first
        self._kept_bytes = 0
        self._others = False  # calls of this cell may have been taken by a host before us
        self._last_other = 0

    def take(self, call: ToolCalled, tools: ToolRunner, abort: Callable[[ToolAborted], None]) -> None:
        """Make a call; ``abort`` is told if the tool raised what is no Exception."""
        if self._others:
            self._last_other = max(self._last_other, call.call_id)
            return  # an earlier host took it, and may have made it
        if call.call_id in self._running or call.call_id in self._kept:
            return  # told again; each is made once
        if len(self._running) >= MAX_PENDING_CALLS:
            self.refuse(call.call_id, f"more than {MAX_PENDING_CALLS} tool calls at once")
            return
        size = _size(call.buffers)
        if self._running and self._arguments_bytes + size > PENDING_CALL_BYTES:
            self.refuse(call.call_id, f"the arguments of the tool calls under way exceed {PENDING_CALL_BYTES:,} bytes")
            return
        task = asyncio.create_task(self._make(call, tools, abort))
        self._running[call.call_id] = task
        self._began[call.call_id] = (call.name, asyncio.get_running_loop().time())
        self._arguments_bytes += size
        task.add_done_callback(lambda _: self._forget(call.call_id, size))

    def refuse(self, call_id: Any, why: str) -> None:
        """Answer a call with an error."""
        self._reply(call_id, Reply("error", values.dumps(failure(RuntimeError(why)).to_value())))

    def repeat_replies(self, ids: Iterable[int]) -> None:
        """Send again what may have been lost with a link, to the calls that still wait."""
        for call_id in ids:
            if call_id in self._kept:
                reply = self._kept[call_id]
                self._send({"op": reply.op, "id": call_id}, reply.buffers)
            elif call_id not in self._running:
                self.refuse(call_id, "the reply to this call was lost with the link; the call is not made again")

    def under_way(self) -> list[list[Any]]:
        """Return the calls that were not answered yet: each tool's name, and seconds since the call."""
        now = asyncio.get_running_loop().time()
        return [[name, now - began] for name, began in self._began.values()]

    def not_ours(self) -> None:
        """What is read now are the calls of a cell that another host began."""
        self._others = True

    def abandon(self, *, all_read: bool) -> None:
        """Have the calls that wait for another host raise; later ones are ours.

        Those are the calls that were read; if not ``all_read``, every call that waits now.
        """
        upto = {"upto": self._last_other} if all_read else {}
        self._send({"op": "abandon", **upto}, values.dumps(HOST_LOST.to_value()))
        self._others = False

    def end_cell(self) -> None:
        """The cell is over: replies have no taker any more."""
        self._kept, self._kept_bytes = {}, 0

    async def aclose(self) -> None:
        """Drop the calls under way."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _forget(self, call_id: int, size: int) -> None:
        self._running.pop(call_id, None)
        self._began.pop(call_id, None)
        self._arguments_bytes -= size

    async def _make(self, call: ToolCalled, tools: ToolRunner, abort: Callable[[ToolAborted], None]) -> None:
        try:
            reply = await tools.run(call.name, call.buffers, call.call_id, arrow=call.arrow)
        except ToolAborted as aborted:
            abort(aborted)
            return
        except Exception as error:  # none of the tool's: its cell must not wait for ever
            log.exception("a tool call could not be made")
            reply = Reply("error", values.dumps(failure(error).to_value()))
        self._keep(call.call_id, reply)
        self._reply(call.call_id, reply)

    def _keep(self, call_id: int, reply: Reply) -> None:
        self._kept[call_id] = reply
        self._kept_bytes += _size(reply.buffers)
        while self._kept_bytes > KEPT_REPLY_BYTES and len(self._kept) > 1:
            oldest = next(iter(self._kept))
            self._kept_bytes -= _size(self._kept.pop(oldest).buffers)

    def _reply(self, call_id: Any, reply: Reply) -> None:
        self._send({"op": reply.op, "id": call_id}, reply.buffers)


def _size(buffers: Iterable[values.Buffer]) -> int:
    return sum(memoryview(buffer).nbytes for buffer in buffers)
