"""The messages of a kernel's cells, live or from the journal, and what follows from them. Lives on the I/O loop.

A message of the running cell becomes outputs, tool calls and evidence: the cell's collector (``output_collector``)
reads it, ``tool_calls`` runs what it asks for, and the execution gets an event. Messages of cells that have ended, and
of other clients, are background output, or calls that are refused.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from jupyter_client.session import Session

from . import execution_events as events
from .channels import Message, parent_id
from .execution_result import BackgroundOutput
from .output_collector import CellEvent, OutputArrived, OutputCollector, PendingCalls, Submitted, ToolCalled
from .outputs import Output, StreamText
from .tool_calls import ToolCalls

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..codec import values
    from ..tools.binding import ToolAborted, ToolRunner
    from .recovery import RecoveredJournal

log = logging.getLogger(__name__)


class CellRun:
    """A call's cell: its request, and what has arrived of it. ``ended`` resolves when the execution has an outcome."""

    def __init__(
        self,
        tools: ToolRunner,
        max_output_chars: int | None,
        on_output: Callable[[Output], None] | None,
        request: tuple[Message, list[values.Buffer]] | None = None,
    ) -> None:
        self.tools, self.on_output, self.request = tools, on_output, request
        msg_id = "" if request is None else request[0]["header"]["msg_id"]  # an adopted cell's id is in the journal
        self.outputs = OutputCollector(msg_id, max_output_chars=max_output_chars)
        self.tool_abort: ToolAborted | None = None
        self.started = False
        self.looked_up = asyncio.Event()  # set when an adopted cell was found, or is known not to exist
        self.ended = asyncio.Event()


class CellMessages:
    """What arrives of one kernel's cells; ``feed`` takes events, ``send_control`` sends replies to tool calls."""

    def __init__(self, feed: Callable[[events.Event], None], send_control: Callable[..., None]) -> None:
        self._feed = feed
        self.running: CellRun | None = None
        self.session = Session()  # makes requests; each client of the channels signs them with the kernel's key
        self._own_session_ids = {self.session.session}  # of the cells that this host or its predecessor sent
        self.last_iopub_id: str | None = None  # msg_id of the last iopub message that was applied
        self.calls, self.background_output = ToolCalls(send_control), BackgroundOutput()

    def receive_reply(self, message: Message) -> None:
        """Apply a message of the shell channel."""
        cell = self.running
        if cell is None or parent_id(message) != cell.outputs.msg_id or message["msg_type"] != "execute_reply":
            return
        cell.outputs.receive_reply(message)
        self._feed(events.ReplyReceived())

    def receive_iopub(self, message: Message) -> None:
        """Apply a message of the iopub channel."""
        parent, cell = parent_id(message), self.running
        if message["msg_type"] == "iopub_welcome":
            return  # sent to a new subscriber; not in the journal
        self.last_iopub_id = message["header"]["msg_id"]
        if cell is None or parent != cell.outputs.msg_id:
            self._receive_foreign(message)
            return
        if not cell.started:
            self._note_start(cell)
        for event in cell.outputs.receive_iopub(message):
            self._handle_event(cell, event)
        if cell.outputs.idle:
            self._feed(events.IdleReceived())

    def _receive_foreign(self, message: Message) -> None:
        """Handle a message of a cell that has ended, or of another client."""
        data = message["content"].get("data")
        own_cell = message["parent_header"].get("session") in self._own_session_ids
        if message["msg_type"] == "stream" and own_cell:
            self.background_output.add(str(message["content"].get("text", "")))
        elif message["msg_type"] == "comm_msg" and isinstance(data, dict) and data.get("op") == "call":
            reason = (
                "the cell that made this call has ended"
                if own_cell
                else "tools can be called from cells of the session's host only"
            )
            self.calls.refuse_call(data.get("id"), reason)

    def _handle_event(self, cell: CellRun, event: CellEvent) -> None:
        match event:
            case OutputArrived(output):
                if cell.on_output is not None:
                    cell.on_output(output)
            case ToolCalled():
                self.calls.start_call(event, cell.tools, lambda error: self._abort(cell, error))
            case PendingCalls(ids):
                self.calls.resend_replies(ids)
            case Submitted():
                self._feed(events.SubmissionReceived())

    def _abort(self, cell: CellRun, error: ToolAborted) -> None:
        if cell is self.running:
            cell.tool_abort = error
            self._feed(events.EndRequired())

    def apply_recovered(self, recovered: RecoveredJournal, *, messages: bool = True) -> None:
        """Apply the journal's records of the running cell: its reply and, unless excluded, its iopub messages."""
        cell = self.running
        if cell is not None and cell.outputs.msg_id in recovered.started:
            self._note_start(cell)
        if messages:
            self._apply_messages(cell, recovered)
        if cell is None:
            return
        for text in recovered.unpublished:
            if text.cell == cell.outputs.msg_id:
                cell.outputs.add(StreamText(text.name, text.text))
        if (reply := recovered.replies.get(cell.outputs.msg_id)) is not None and not cell.outputs.replied:
            cell.outputs.receive_reply(reply)
            self._feed(events.ReplyReceived())

    def _apply_messages(self, cell: CellRun | None, recovered: RecoveredJournal) -> None:
        malformed = 0
        if recovered.gap:
            self._feed(events.JournalGap())
        for message in recovered.messages:
            try:
                # After a gap, messages of cells that ended long ago follow.
                if not recovered.gap or (cell is not None and parent_id(message) == cell.outputs.msg_id):
                    self.receive_iopub(message)
            except Exception:  # the journal is evidence, not proof
                malformed += 1
        if malformed:
            log.warning("dropped %d malformed messages of the journal", malformed)

    def adopt(self, msg_id: str) -> None:
        """Take the cell ``msg_id`` of an earlier host for the running one."""
        self._own_session_ids.add(msg_id.partition("_")[0])
        if self.running is not None:
            self.running.outputs.msg_id = msg_id
            self.running.looked_up.set()

    def _note_start(self, cell: CellRun) -> None:
        cell.started = True
        self._feed(events.CellStarted())
