"""Turn the Jupyter messages of one cell into outputs, tool calls and an outcome. Sans-I/O.

A cell is finished when its ``execute_reply`` (shell) and its ``idle`` status (iopub) have both arrived. Either may be
first, and output may follow the reply (Jupyter messaging spec, "Messages on the IOPub (PUB/SUB)
channel"; measured: ``idle`` was first in a third of the runs).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..wire.comm import PREAMBLE_KEY
from .output_text import display_text, join_streams, plain_text
from .outputs import CellError, DisplayData, ExecuteResult, Output, StreamText, parse_output

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# A hostile sandbox can ignore the output limit that it was given, and must not fill the host's memory. Text may take
# twice that limit. Figures and tables may take more, up to a limit for all of them together.
_SLACK_CHARS = 64 * 1024
_RICH_PER_TEXT = 160  # 32 MB of figures at the default of 200,000 characters of text
MAX_OUTPUTS = 10_000


@dataclass(frozen=True)
class OutputArrived:
    """An output arrived."""

    output: Output


@dataclass(frozen=True)
class ToolCalled:
    """The cell called a host tool and waits for the reply."""

    call_id: int
    name: str
    buffers: Sequence[Any]
    arrow: bool = False  # whether the reply may contain Arrow IPC


@dataclass(frozen=True)
class Submitted:
    """The cell called SUBMIT; ``buffers`` hold the encoded fields. Later calls in the same cell are ignored."""

    buffers: Sequence[Any]


@dataclass(frozen=True)
class PendingCalls:
    """The ids of the cell's pending calls: the reply to the question asked after a link was lost."""

    ids: Sequence[int]


CellEvent = OutputArrived | ToolCalled | Submitted | PendingCalls


class OutputCollector:
    """The collector of one execute_request: outputs, submission, value and reply."""

    def __init__(self, msg_id: str, *, max_output_chars: int | None = None) -> None:
        self.msg_id = msg_id
        self._outputs: list[Output] = []
        self._open_texts: list[str] = []  # texts of the stream that is being written, joined on demand
        self._open_name = ""
        self._displays: dict[str, int] = {}  # index of the output with a display_id, which can be updated
        self.replied = False
        self.idle = False
        self.execution_count: int | None = None  # known once the kernel has started the cell
        self.failed_to_compile = False
        self.submission: Sequence[Any] | None = None
        self.value: Sequence[Any] | None = None
        self.requested: Sequence[Any] | None = None
        self.cached_keys: list[str] = []  # keys of the large variables in the kernel's input cache
        self.input_evicted = False  # a key was missing in the cache, and the cell did not run
        self._published_error: CellError | None = None
        self._reply_error: CellError | None = None
        self._chars_left = None if max_output_chars is None else 2 * max_output_chars + _SLACK_CHARS
        self._rich_left = None if max_output_chars is None else _RICH_PER_TEXT * max_output_chars + _SLACK_CHARS
        self._dropped = 0
        self.abandoned_calls = 0  # calls that raised HostLost because an earlier host had not answered them

    @property
    def finished(self) -> bool:
        """Whether the reply and the idle status have both arrived."""
        return self.replied and self.idle

    @property
    def error(self) -> CellError | None:
        """The exception that ended the cell, or None; the exception raised by SUBMIT does not count."""
        return None if self.submission is not None else self._published_error or self._reply_error

    @property
    def outputs(self) -> list[Output]:
        """The outputs so far, in order; adjacent texts of one stream are one output."""
        return [*self._outputs, *self._open_stream()]

    def receive_reply(self, message: Mapping[str, Any]) -> None:
        """Process the cell's execute_reply."""
        self.replied = True
        content = message["content"]
        own_metadata = message["metadata"].get(PREAMBLE_KEY)
        if isinstance(own_metadata, dict):
            self.failed_to_compile = own_metadata.get("compiled") is False
            if isinstance(own_metadata.get("value"), str):
                self.value = [own_metadata["value"].encode("utf-8", "replace")]
            if isinstance(own_metadata.get("kept"), list):
                self.cached_keys = [key for key in own_metadata["kept"] if isinstance(key, str)]
            self.input_evicted = own_metadata.get("forgotten") is True
        if content.get("status") == "error":
            name, text = str(content.get("ename", "Error")), str(content.get("evalue", ""))
            lines = content.get("traceback")
            traceback = "\n".join(map(str, lines)) if isinstance(lines, list) else ""
            self._reply_error = CellError(name, text, traceback)
        elif content.get("status") == "aborted":
            self._reply_error = CellError("Aborted", "the kernel did not run the cell", "")

    def receive_iopub(self, message: Mapping[str, Any]) -> Iterator[CellEvent]:
        """Process an iopub message whose parent is this cell, and yield its events."""
        kind, content = message["header"]["msg_type"], message["content"]
        if kind == "status":
            self.idle = self.idle or content.get("execution_state") == "idle"
        elif kind == "execute_input" and type(count := content.get("execution_count")) is int:
            self.execution_count = count
        elif kind == "comm_msg":
            yield from self._receive_request(content.get("data"), message.get("buffers", []))
        elif (output := parse_output(message)) is not None and self._add_or_update(
            output, kind, content.get("transient")
        ):
            yield OutputArrived(output)

    def text(self) -> str:
        """Return printed and displayed text in order, without the last expression's value and the error."""
        parts = []
        for output in self.outputs:
            if isinstance(output, StreamText):
                parts.append((output.name, output.text))
            elif isinstance(output, DisplayData):
                parts.append(("", f"{display_text(output.data)}\n"))
        if self.abandoned_calls:
            unanswered = f"{self.abandoned_calls} tool calls raised HostLost: their host died before it replied."
            parts.append(("", f"\n[{unanswered}]\n"))
        if self._dropped:
            parts.append(("", f"\n[... {self._dropped} further outputs beyond the limit were left out ...]\n"))
        return plain_text(join_streams(parts))

    def tail(self, chars: int) -> str:
        """Return the last characters of the printed and displayed text, without joining all of it."""
        parts: list[str] = []
        for text in itertools.chain(reversed(self._open_texts), map(_display_text, reversed(self._outputs))):
            parts.append(text[-chars:])
            chars -= len(parts[-1])
            if chars <= 0:
                break
        return plain_text("".join(reversed(parts)))

    def value_text(self) -> str | None:
        """Return the repr of the last expression, or None if there was none."""
        for output in reversed(self.outputs):
            if isinstance(output, ExecuteResult):
                return display_text(output.data)
        return None

    def _receive_request(self, data: Any, buffers: Sequence[Any]) -> Iterator[CellEvent]:
        match data:
            case {"op": "call", "id": int(call_id), "name": str(name)} if type(call_id) is int:
                yield ToolCalled(call_id, name, buffers, data.get("arrow") is True)
            case {"op": "submit"} if self.submission is None:
                self.submission = buffers
                yield Submitted(buffers)
            case {"op": "value"}:
                self.value = buffers
            case {"op": "wanted"}:
                self.requested = buffers
            case {"op": "pending", "ids": [*ids]}:
                yield PendingCalls([call_id for call_id in ids if type(call_id) is int])
            case {"op": "abandoned", "ids": [*ids]}:
                self.abandoned_calls = len(ids)

    def _add_or_update(self, output: Output, kind: str, transient: Any) -> bool:
        """Add an output, or replace the display that it updates: only the last state counts against the limits."""
        display_id = transient.get("display_id") if isinstance(transient, dict) else None
        if not (isinstance(output, DisplayData) and isinstance(display_id, str)):
            return self.add(output)
        place = self._displays.get(display_id) if kind == "update_display_data" else None
        if place is None:
            if added := self.add(output):
                self._displays[display_id] = len(self._outputs) - 1
            return added
        self._release_room(self._outputs[place])
        if fits := self._has_room(output, places=0):
            self._outputs[place] = output
        else:
            self._has_room(self._outputs[place], places=0)
        return fits

    def add(self, output: Output) -> bool:
        """Add an output if the limits allow it; return whether they did."""
        if not self._has_room(output):
            return False
        self._add(output)
        return True

    def _add(self, output: Output) -> None:
        if isinstance(output, StreamText):
            if output.name != self._open_name:
                self._close_stream()
                self._open_name = output.name
            self._open_texts.append(output.text)
            return
        self._close_stream()
        if isinstance(output, CellError):
            self._published_error = output
        self._outputs.append(output)

    def _open_stream(self) -> list[Output]:
        return [StreamText(self._open_name, "".join(self._open_texts))] if self._open_texts else []

    def _close_stream(self) -> None:
        self._outputs += self._open_stream()
        self._open_texts, self._open_name = [], ""

    def _release_room(self, output: Output) -> None:
        text, rich = _sizes(output)
        self._chars_left = None if self._chars_left is None else self._chars_left + text
        self._rich_left = None if self._rich_left is None else self._rich_left + rich

    def _has_room(self, output: Output, places: int = 1) -> bool:
        if self._chars_left is None or self._rich_left is None:
            return True
        text, rich = _sizes(output)
        if len(self._outputs) + places > MAX_OUTPUTS or text > self._chars_left or rich > self._rich_left:
            self._dropped += 1
            return False
        self._chars_left -= text
        self._rich_left -= rich
        return True


def _display_text(output: Output) -> str:
    match output:
        case StreamText(text=text):
            return text
        case DisplayData(data=data) | ExecuteResult(data=data):
            return f"{display_text(data)}\n"
    return ""


def _sizes(output: Output) -> tuple[int, int]:
    """Return the number of characters of an output's text and of its other representations."""
    match output:
        case StreamText(text=text):
            return max(1, len(text)), 0
        case CellError():
            return len(output.name) + len(output.message) + len(output.traceback), 0
        case DisplayData(data=data) | ExecuteResult(data=data):
            text = str(data.get("text/plain", ""))
            return len(text), sum(len(str(value)) for mime, value in data.items() if mime != "text/plain")
