"""The tool calls of the running cell: each runs once, and its reply survives a lost link."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from ..codec import values
from ..config import MAX_PENDING_CALLS, PENDING_CALL_BYTES, STORED_REPLY_BYTES
from ..tools.binding import ToolAborted, ToolReply, ToolRunner, failure
from ..wire.comm import ToolFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .output_collector import ToolCalled

log = logging.getLogger(__name__)

HOST_LOST = ToolFailure(
    "HostLost",
    ("ConnectionError",),
    "the host that ran this call died before it replied; the call is not repeated",
)


class ToolCalls:
    """Runs tool calls and stores their replies until the cell ends, within a memory limit."""

    def __init__(self, send: Callable[..., None]) -> None:
        """Create the store; ``send(data, buffers)`` sends a message to the cell."""
        self._send = send
        self._running: dict[int, asyncio.Task[None]] = {}
        self._started_at: dict[int, tuple[str, float]] = {}  # by call id: the tool's name, and when it was called
        self._arguments_bytes = 0  # of those too
        self._stored_replies: dict[int, ToolReply] = {}  # oldest first
        self._stored_reply_bytes = 0
        self._has_foreign_calls = False  # an earlier host may have started calls of this cell
        self._last_foreign_id = 0

    def start_call(self, call: ToolCalled, tools: ToolRunner, abort: Callable[[ToolAborted], None]) -> None:
        """Start a call; ``abort`` is called if the tool raises a BaseException that is no Exception."""
        if self._has_foreign_calls:
            self._last_foreign_id = max(self._last_foreign_id, call.call_id)
            return  # an earlier host received this call and may have run it
        if call.call_id in self._running or call.call_id in self._stored_replies:
            return  # a repeated message; each call runs once
        if len(self._running) >= MAX_PENDING_CALLS:
            self.refuse_call(call.call_id, f"more than {MAX_PENDING_CALLS} tool calls at once")
            return
        size = _size(call.buffers)
        if self._running and self._arguments_bytes + size > PENDING_CALL_BYTES:
            self.refuse_call(
                call.call_id, f"the arguments of the pending tool calls exceed {PENDING_CALL_BYTES:,} bytes"
            )
            return
        task = asyncio.create_task(self._run_call(call, tools, abort))
        self._running[call.call_id] = task
        self._started_at[call.call_id] = (call.name, asyncio.get_running_loop().time())
        self._arguments_bytes += size
        task.add_done_callback(lambda _: self._discard_call(call.call_id, size))

    def refuse_call(self, call_id: Any, reason: str) -> None:
        """Reply to a call with an error."""
        self._reply(call_id, ToolReply("error", values.dumps(failure(RuntimeError(reason)).to_value())))

    def resend_replies(self, ids: Iterable[int]) -> None:
        """Resend the replies that a lost link may have dropped to the calls that are still pending."""
        for call_id in ids:
            if call_id in self._stored_replies:
                reply = self._stored_replies[call_id]
                self._send({"op": reply.op, "id": call_id}, reply.buffers)
            elif call_id not in self._running:
                self.refuse_call(call_id, "the reply to this call was lost with the link; the call is not repeated")

    def pending_calls(self) -> list[list[Any]]:
        """Return the pending calls: each tool's name, and the seconds since the call."""
        now = asyncio.get_running_loop().time()
        return [[name, now - began] for name, began in self._started_at.values()]

    def begin_foreign_cell(self) -> None:
        """Treat the calls read from now on as calls of an earlier host."""
        self._has_foreign_calls = True

    def abandon_foreign_calls(self, *, all_read: bool) -> None:
        """Make the calls that wait for an earlier host raise; later calls are this host's.

        If ``all_read`` is false, the journal was incomplete and every call that is pending now is affected.
        """
        upto = {"upto": self._last_foreign_id} if all_read else {}
        self._send({"op": "abandon", **upto}, values.dumps(HOST_LOST.to_value()))
        self._has_foreign_calls = False

    def end_cell(self) -> None:
        """Drop the stored replies; the cell has ended."""
        self._stored_replies, self._stored_reply_bytes = {}, 0

    async def aclose(self) -> None:
        """Drop the pending calls."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _discard_call(self, call_id: int, size: int) -> None:
        self._running.pop(call_id, None)
        self._started_at.pop(call_id, None)
        self._arguments_bytes -= size

    async def _run_call(self, call: ToolCalled, tools: ToolRunner, abort: Callable[[ToolAborted], None]) -> None:
        try:
            reply = await tools.run(call.name, call.buffers, call.call_id, arrow=call.arrow)
        except ToolAborted as aborted:
            abort(aborted)
            return
        except Exception as error:  # not raised by the tool; without a reply the cell would wait forever
            log.exception("a tool call could not be started")
            reply = ToolReply("error", values.dumps(failure(error).to_value()))
        self._store_reply(call.call_id, reply)
        self._reply(call.call_id, reply)

    def _store_reply(self, call_id: int, reply: ToolReply) -> None:
        self._stored_replies[call_id] = reply
        self._stored_reply_bytes += _size(reply.buffers)
        while self._stored_reply_bytes > STORED_REPLY_BYTES and len(self._stored_replies) > 1:
            oldest = next(iter(self._stored_replies))
            self._stored_reply_bytes -= _size(self._stored_replies.pop(oldest).buffers)

    def _reply(self, call_id: Any, reply: ToolReply) -> None:
        self._send({"op": reply.op, "id": call_id}, reply.buffers)


def _size(buffers: Iterable[values.Buffer]) -> int:
    return sum(memoryview(buffer).nbytes for buffer in buffers)
