"""The typed outputs of a cell. Sans-I/O.

The four kinds are those of the Jupyter messaging spec: ``stream``, ``display_data``, ``execute_result`` and ``error``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class StreamText:
    """Text written to ``stdout`` or ``stderr``; ``name`` is the stream."""

    name: str
    text: str


@dataclass(frozen=True)
class DisplayData:
    """Displayed data: representations by MIME type, as in the Jupyter message."""

    data: Mapping[str, Any]
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class ExecuteResult:
    """The value of the last expression: representations by MIME type; ``text/plain`` is its repr."""

    data: Mapping[str, Any]
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class CellError:
    """The exception that ended the cell. ``traceback`` is plain text without colours."""

    name: str
    message: str
    traceback: str

    @property
    def summary(self) -> str:
        """``"<Type>: <message>"``, or the type alone."""
        return f"{self.name}: {self.message}" if self.message else self.name


Output = StreamText | DisplayData | ExecuteResult | CellError


def parse_output(message: Mapping[str, Any]) -> Output | None:
    """Return the output an iopub message carries, or None if it carries none (or a malformed one)."""
    match message["header"]["msg_type"], message["content"]:
        case "stream", {"name": str(name), "text": str(text)}:
            return StreamText(name, text)
        case "display_data" | "update_display_data", {"data": dict(data), "metadata": dict(metadata)}:
            return DisplayData(data, metadata)
        case "execute_result", {"data": dict(data), "metadata": dict(metadata)}:
            return ExecuteResult(data, metadata)
        case "error", {"ename": str(name), "evalue": str(text), "traceback": list(lines)}:
            return CellError(name, text, "\n".join(map(str, lines)))
        case _:
            return None
