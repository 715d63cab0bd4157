"""What a cell's end means to its caller: the value to return, or the text of the error to raise."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from ..codec import values
from ..wire.protocol_errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..client.execution import ExecutionResult
    from ..client.output_collector import OutputCollector
    from ..client.outputs import CellError

BACKGROUND_NOTE = "[printed after an earlier cell had ended]\n"


def printed_text(result: ExecutionResult) -> str:
    """Return what the cell printed, headed by what earlier cells' threads printed since they ended."""
    return (BACKGROUND_NOTE + result.background_output if result.background_output else "") + result.cell.text()


def execute_result(cell: OutputCollector, text: str, *, raw_only: bool) -> Any:
    """Return what ``execute`` returns for a cell that ended well.

    The prints; or without any the value, or its repr where RLM would not show the value; or the prints and the repr.
    With ``raw_only`` the value alone, if there is one: DSPy's Flex parses it.
    """
    shown = cell.value_text()
    if shown is None and cell.value is None:
        return text
    value = None
    if cell.value is not None:
        with contextlib.suppress(RemoteProtocolError):
            value = values.loads(cell.value)
    if raw_only:
        return value if value is not None else shown
    if text:
        return f"{text if text.endswith(chr(10)) else text + chr(10)}{shown}"
    return value if _visible(value) else shown


def _visible(value: Any) -> bool:
    """Whether RLM shows ``value`` as it is: it hides what is falsy, joins lists with newlines, and sends UTF-8."""
    try:
        if not value or (isinstance(value, list) and not "".join(map(str, value))):
            return False
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (TypeError, ValueError, RecursionError):  # a frame, which no kernel of ours sends, has no truth
        return False
    return True


def is_syntax_error(cell: OutputCollector) -> bool:
    """Whether the cell's own source does not compile (an ``exec`` that fails in it is another matter)."""
    names = ("SyntaxError", "IndentationError", "TabError")
    return cell.error is not None and cell.failed_to_compile and cell.error.name in names


def parse_submission(buffers: Sequence[values.Buffer], names: Sequence[str]) -> dict[str, Any]:
    """Return what SUBMIT carried.

    Raises:
        RemoteProtocolError: If it is no value, or its fields have not these names in this order.
    """
    try:
        answer: Any = values.loads(buffers)
    except RemoteProtocolError as error:
        raise RemoteProtocolError(f"that is no value: {error}") from error
    if type(answer) is dict and all(type(name) is str for name in answer) and list(answer) == list(names):
        return answer
    raise RemoteProtocolError("whose fields are not the output fields")


def error_text(summary: str, error: CellError | None, text: str) -> str:
    """Return an error's whole text: its summary, the traceback, then what was printed before."""
    parts = [summary]
    if error is not None and error.traceback:
        parts.append(error.traceback)
    if text:
        parts.append(f"Output before the error:\n{text}")
    return "\n".join(parts)
