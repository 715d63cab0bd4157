"""What the end of a cell means to its caller: the value to return, the error to raise, or a ``CellResult``."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

from ..client.cell_result import CellResult
from ..client.outputs import CellError
from ..codec import values
from ..wire.protocol_errors import RemoteProtocolError
from .dspy_compat import CodeExecutionError, CodeInterpreterError, FinalOutput
from .options import check_output_fields

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..client.execution_result import ExecutionResult
    from ..client.output_collector import OutputCollector

BACKGROUND_NOTE = "[printed after an earlier cell had ended]\n"


def conclude(
    result: ExecutionResult,
    output_fields: Sequence[Mapping[str, object]] | None,
    execution_timeout: float | None,
    *,
    raw_only: bool,
) -> object:
    """Return what ``execute`` returns for a cell, or raise its error.

    Raises:
        SyntaxError: If the cell did not compile.
        CodeExecutionError: If it raised, or was interrupted.
        CodeInterpreterError: If the sandbox sent a malformed submission.
    """
    cell = result.cell
    if cell.submission is not None:
        return FinalOutput(submission_of(cell, output_fields))
    text = printed_text(result)
    error = error_of(result, execution_timeout)
    if error is None:
        return execute_result(cell, text, raw_only=raw_only)
    message = error_text(error.summary, error, text)
    if error is cell.error and is_syntax_error(cell):
        raise SyntaxError(f"Invalid Python syntax. {message}")
    raise CodeExecutionError(message)


def cell_result(
    result: ExecutionResult,
    output_fields: Sequence[Mapping[str, object]] | None,
    execution_timeout: float | None,
    duration_s: float,
) -> CellResult:
    """Return what ``run`` returns for a cell.

    Raises:
        CodeInterpreterError: If the sandbox sent a malformed submission.
    """
    cell = result.cell
    return CellResult(
        outputs=tuple(cell.outputs),
        value=_value_of(cell),
        error=error_of(result, execution_timeout),
        submission=None if cell.submission is None else submission_of(cell, output_fields),
        duration_s=duration_s,
    )


def error_of(result: ExecutionResult, execution_timeout: float | None) -> CellError | None:
    """Return the error that ended a cell, or None: its exception, or the interrupt with the reason for it."""
    cell = result.cell
    if cell.submission is not None:
        return None
    traceback = "" if cell.error is None else cell.error.traceback
    if result.timed_out:
        limit = "" if execution_timeout is None else f" after execution_timeout={execution_timeout:g} s"
        return CellError("TimeoutError", f"the cell was interrupted{limit}; variables kept", traceback)
    if result.interrupted and (cell.error is not None or not cell.replied):
        return CellError("KeyboardInterrupt", "the cell was interrupted; variables kept", traceback)
    return cell.error


def printed_text(result: ExecutionResult) -> str:
    """Return what the cell printed, after what threads of earlier cells printed since those ended."""
    late = result.background_output
    return (BACKGROUND_NOTE + late if late else "") + result.cell.text()


def execute_result(cell: OutputCollector, text: str, *, raw_only: bool) -> object:
    """Return what ``execute`` returns for a cell that ended without an error.

    The printed text. Without any, the value, or its repr where RLM would not show the value. With both, the text
    followed by the repr. With ``raw_only`` the value alone, if there is one: DSPy's Flex parses it.
    """
    shown = cell.value_text()
    if shown is None and cell.value is None:
        return text
    value = _value_of(cell)
    if raw_only:
        return value if value is not None else shown
    if text:
        return f"{text if text.endswith(chr(10)) else text + chr(10)}{shown}"
    return value if _visible(value) else shown


def is_syntax_error(cell: OutputCollector) -> bool:
    """Return whether the cell's own source does not compile; an ``exec`` that fails inside it does not count."""
    names = ("SyntaxError", "IndentationError", "TabError")
    return cell.error is not None and cell.failed_to_compile and cell.error.name in names


def submission_of(cell: OutputCollector, output_fields: Sequence[Mapping[str, object]] | None) -> dict[str, object]:
    """Return the output fields that the cell submitted.

    Raises:
        CodeInterpreterError: If the sandbox sent something else than these fields.
    """
    fields = check_output_fields(output_fields)
    names = ["output"] if not fields else [field.name for field in fields]
    try:
        return parse_submission(cell.submission or (), names)
    except RemoteProtocolError as error:
        raise CodeInterpreterError(f"The sandbox sent a malformed SUBMIT: {error}.") from error


def parse_submission(buffers: Sequence[values.Buffer], names: Sequence[str]) -> dict[str, object]:
    """Return the names and values of the submitted fields.

    Raises:
        RemoteProtocolError: If it is not a value, or its fields do not have these names in this order.
    """
    try:
        answer: object = values.loads(buffers)
    except RemoteProtocolError as error:
        raise RemoteProtocolError(f"it is not a value: {error}") from error
    if type(answer) is dict and all(type(name) is str for name in answer) and list(answer) == list(names):
        return answer
    raise RemoteProtocolError("its fields are not the output fields")


def error_text(summary: str, error: CellError | None, text: str) -> str:
    """Return the whole text of an error: its summary, the traceback, then what was printed before."""
    parts = [summary]
    if error is not None and error.traceback:
        parts.append(error.traceback)
    if text:
        parts.append(f"Output before the error:\n{text}")
    return "\n".join(parts)


def _value_of(cell: OutputCollector) -> object:
    value: object = None
    if cell.value is not None:
        with contextlib.suppress(RemoteProtocolError):
            value = values.loads(cell.value)
    return value


def _visible(value: object) -> bool:
    """Return whether RLM shows ``value`` as it is: it hides what is falsy, joins lists with newlines, sends UTF-8."""
    try:
        if not value or (isinstance(value, list) and not "".join(map(str, value))):
            return False
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (TypeError, ValueError, RecursionError):  # such as a data frame, which has no truth value
        return False
    return True
