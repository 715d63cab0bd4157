"""How a call of ``execute`` ended, from what its caller got and what became of the cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from ..codec import values
from ..errors import CellNotRun, KernelDied
from .model import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..client.execution import ExecutionResult
    from ..client.output_collector import OutputCollector
    from .model import ValueRef

    Buffers = Sequence[values.Buffer]

Ending = Literal["ok", "error", "interrupted", "timeout", "died", "not_run", "unknown"]


def ending_of(
    cell: OutputCollector | None,
    result: ExecutionResult | None,
    error: BaseException | None,
    *,
    shut_down: bool = False,
) -> Ending:
    """Return what became of a cell.

    Args:
        cell: What is known of it; None if no request was sent.
        result: Of a cell that ended with its kernel alive.
        error: What its caller got.
        shut_down: Whether the session was shut down while it ran.
    """
    if result is not None:
        if result.cell.submission is None and result.timed_out:
            return "timeout"
        if result.cell.submission is None and result.interrupted and (result.cell.error or not result.cell.replied):
            return "interrupted"
        return "ok" if error is None else "error"
    cause = None if error is None else error.__cause__
    if cell is None or isinstance(cause, CellNotRun):
        return "not_run"
    if isinstance(cause, KernelDied) or shut_down:
        return "died"
    return "unknown" if isinstance(error, Exception) else "interrupted"  # a cancelled call's cell is interrupted


def outcome_of(
    given: Any,
    error: BaseException | None,
    cell: OutputCollector | None,
    ending: Ending,
    keep: Callable[[Buffers], ValueRef],
) -> Outcome:
    """Return how the call ended for its caller; ``keep`` takes the encoding of the value that it got, if it got one."""
    if error is not None:
        return Outcome("raised", ending, error=error_name(error), text=str(error))
    if cell is not None and cell.submission is not None:
        return Outcome("submitted", ending, keep(cell.submission))
    try:
        buffers = values.dumps(given, max_bytes=None)
    except values.UnsupportedValue:
        buffers = values.dumps(str(given), max_bytes=None)
    return Outcome("returned", ending, keep(buffers))


def error_name(error: BaseException) -> str:
    """Return the class of an error as recordings name it: DSPy's own class where the error derives from one."""
    classes = type(error).__mro__
    return next((cls.__name__ for cls in classes if cls.__module__.startswith("dspy.")), classes[0].__name__)
