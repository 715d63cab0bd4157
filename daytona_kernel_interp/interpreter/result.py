"""What the end of a cell means to its caller: the value to return, the error to raise, or a ``CellResult``."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

from ..client.cell_result import CellResult
from ..client.outputs import CellError
from ..codec import values
from ..formatting import printable
from ..wire.protocol_errors import RemoteProtocolError
from .dspy_compat import CodeExecutionError, CodeInterpreterError, FinalOutput
from .options import check_output_fields

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..client.execution_result import ExecutionResult
    from ..client.output_collector import OutputCollector
    from .options import CallSettings

_SYNTAX_ERRORS = ("SyntaxError", "IndentationError", "TabError")
BACKGROUND_NOTE = "[printed after an earlier cell had ended]\n"


def conclude(result: ExecutionResult, settings: CallSettings, *, raw_only: bool) -> object:
    """Return what ``execute`` returns for a cell, or raise its error.

    Raises:
        SyntaxError: If the cell did not compile.
        CodeExecutionError: If it raised, or was interrupted.
        CodeInterpreterError: If the sandbox sent a malformed submission.
    """
    cell = result.cell
    if cell.submission is not None:
        return FinalOutput(submission_of(cell, settings.output_fields))
    late = result.background_output
    text = (BACKGROUND_NOTE + late if late else "") + cell.text()
    error = error_of(result, settings.execution_timeout)
    if error is None:
        return execute_result(cell, text, raw_only=raw_only)
    message = error_text(error.summary, error.traceback, text)
    if error is cell.error and cell.failed_to_compile and error.name in _SYNTAX_ERRORS:
        raise SyntaxError(f"Invalid Python syntax. {message}")
    raise CodeExecutionError(message)


def cell_result(result: ExecutionResult, settings: CallSettings, duration_s: float) -> CellResult:
    """Return what ``run`` returns for a cell.

    Raises:
        CodeInterpreterError: If the sandbox sent a malformed submission.
    """
    cell = result.cell
    return CellResult(
        outputs=tuple(cell.outputs),
        value=_value_of(cell),
        error=error_of(result, settings.execution_timeout),
        submission=None if cell.submission is None else submission_of(cell, settings.output_fields),
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


def submission_of(cell: OutputCollector, output_fields: Sequence[Mapping[str, object]] | None) -> dict[str, object]:
    """Return the output fields that the cell submitted.

    Raises:
        CodeInterpreterError: If the sandbox sent something else than these fields, in their order.
    """
    fields = check_output_fields(output_fields)
    names = [field.name for field in fields] if fields else ["output"]
    try:
        answer: object = values.loads(cell.submission or ())
    except RemoteProtocolError as error:
        raise CodeInterpreterError(f"The sandbox sent a malformed SUBMIT: it is not a value: {error}.") from error
    if type(answer) is dict and all(type(name) is str for name in answer) and list(answer) == names:
        return answer
    raise CodeInterpreterError("The sandbox sent a malformed SUBMIT: its fields are not the output fields.")


def error_text(summary: str, traceback: str, printed: str) -> str:
    """Return the whole text of an error: its summary, the traceback, then what was printed before.

    Control characters are escaped: a traceback is written to a terminal more often than anything else.
    """
    before = f"Output before the error:\n{printed}" if printed else ""
    return printable("\n".join(part for part in (summary, traceback, before) if part))


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
