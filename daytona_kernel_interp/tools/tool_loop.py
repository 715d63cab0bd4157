"""The event loop on which an async tool runs.

A tool may belong to an event loop, such as one that uses the session of an MCP server. ``async_tools`` of an
interpreter says which loop that is:

- ``"auto"``: the loop of the caller of ``aexecute``; for a call from a thread without a loop, the loop on which the
  interpreter was used last, if it runs and answers. Else a loop of the interpreter's own.
- ``"own"``: always the interpreter's own.
- An event loop: that one. A call that cannot run there raises an error within a second.
"""

from __future__ import annotations

import asyncio
import weakref
from dataclasses import dataclass

ANSWER_S = 0.5  # a loop that has not begun a call by then is blocked
AUTO, OWN = "auto", "own"

BLOCKED = (
    "the event loop of this async tool is blocked, possibly because it waits for this cell: use "
    "`await interpreter.aexecute(...)`, `await rlm.acall(...)` or `await dspy.asyncify(rlm)(...)`"
)
STOPPED = "the event loop of this async tool, async_tools=, does not run"


@dataclass(frozen=True)
class ToolLoop:
    """The loop for the async tools of one cell.

    Attributes:
        loop: An event loop.
        is_required: Whether a call must not run on another loop.
        is_blocked: Whether the loop waits for the cell, so that no call can run on it.
    """

    loop: asyncio.AbstractEventLoop
    is_required: bool = False
    is_blocked: bool = False


class LoopChoice:
    """The option ``async_tools`` of one interpreter, and the loop on which it was used last."""

    def __init__(self, option: str | asyncio.AbstractEventLoop) -> None:
        self._option = option
        self._last: weakref.ref[asyncio.AbstractEventLoop] | None = None
        self.note_use()

    def note_use(self) -> asyncio.AbstractEventLoop | None:
        """Remember and return the loop that runs in this thread, if one does."""
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            return None
        self._last = weakref.ref(running)
        return running

    def for_cell(self, *, awaited: bool) -> ToolLoop | None:
        """Return the loop for the tools of a cell that this thread runs; None: the interpreter's own.

        Args:
            awaited: Whether the loop of this thread, if there is one, is free while the cell runs.
        """
        running = self.note_use()
        if isinstance(self._option, asyncio.AbstractEventLoop):
            return ToolLoop(self._option, is_required=True, is_blocked=self._option is running and not awaited)
        if self._option == OWN:
            return None
        if running is not None:
            return ToolLoop(running) if awaited else None
        last = None if self._last is None else self._last()
        return ToolLoop(last) if last is not None and last.is_running() else None


def check_async_tools(option: object) -> None:
    """Check the option.

    Raises:
        TypeError: If it is neither a text nor an event loop.
        ValueError: If there is no such choice.
    """
    wanted = f"{AUTO!r}, {OWN!r} or an event loop"
    if isinstance(option, str):
        if option not in (AUTO, OWN):
            raise ValueError(f"async_tools must be {wanted}, not {option!r}.")
    elif not isinstance(option, asyncio.AbstractEventLoop):
        raise TypeError(f"async_tools must be {wanted}, not {option!r}.")
