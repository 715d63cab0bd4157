"""The last cells of a session in short form, for monitors. Bounded and cheap enough to be always on. Sans-I/O."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from ..wire.inspect_messages import CODE_CHARS

if TYPE_CHECKING:
    from .output_collector import OutputCollector

MAX_STEPS = 50
STEP_CODE_CHARS = 2000
TAIL_CHARS = 1000


class CellHistory:
    """The last cells of one kernel. Changes are numbered, so that a client can ask for what is new."""

    def __init__(self) -> None:
        self._steps: deque[dict[str, Any]] = deque(maxlen=MAX_STEPS)
        self._cell: OutputCollector | None = None  # of the last step, while it runs
        self._code, self._started_at = "", 0.0
        self._count = 0
        self._changes = 0

    def begin(self, cell: OutputCollector, code: str, now: float) -> None:
        """Add a step for a cell that is being sent, unless it has no code and only moves a value or a file."""
        if not code:
            return
        self._count += 1
        self._cell, self._code, self._started_at = cell, code[:CODE_CHARS], now
        self._add({"number": self._count, "code": code[:STEP_CODE_CHARS], "state": "running", "took_s": None})

    def end(self, cell: OutputCollector, now: float) -> None:
        """Note the end of a cell, however it ended."""
        if cell is not self._cell:
            return
        self._cell = None
        step = {
            **self._steps.pop(),
            "took_s": now - self._started_at,
            "state": _state_of(cell),
            "tail": cell.tail(TAIL_CHARS),
        }
        if cell.error is not None:
            step["error"] = cell.error.summary[:TAIL_CHARS]
        self._add(step)

    def changes_since(self, change: int, now: float) -> dict[str, Any]:
        """Return the steps that changed after number ``change``, the running one as it is now, and the last number."""
        steps = [step for step in self._steps if step["change"] > change]
        if self._cell is not None:
            running = {**self._steps[-1], "took_s": now - self._started_at, "tail": self._cell.tail(TAIL_CHARS)}
            steps = [*(step for step in steps if step is not self._steps[-1]), running]
        return {"steps": steps, "change": self._changes}

    def running_cell(self, now: float) -> dict[str, object] | None:
        """Return the cell that runs, as an inspection has it, or None."""
        cell = self._cell
        if cell is None:
            return None
        number = self._count if cell.execution_count is None else cell.execution_count
        return {"cell": cell.msg_id, "code": self._code, "number": number, "elapsed_s": now - self._started_at}

    def _add(self, step: dict[str, Any]) -> None:
        self._changes += 1
        self._steps.append({**step, "change": self._changes})


def _state_of(cell: OutputCollector) -> str:
    if cell.submission is not None:
        return "submitted"
    if cell.error is not None:
        return "failed"
    return "done" if cell.finished else "ended"
