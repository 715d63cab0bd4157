"""What becomes of lines before they count against a cell's output: redrawn ones are one line, endless ones are cut.

A terminal shows a line as its last carriage return left it. So does a model's text: a progress bar that is redrawn a
thousand times is to count once, in its last state, and so a redrawn line is held back until it ends. Whoever watches
sees states of it meanwhile, as far as ``REDRAWN_CHARS`` go.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

REDRAWN_CHARS = 32 * 1024  # of states in between that one cell may send: less than the host allows above the limit
REDRAW_S = 0.1
_STATE_CHARS = 4096  # a longer one is no progress bar, and is not held back
_HELD_CHARS = 64 * 1024  # how much more than its tail is kept of a long line, so that it is not cut at each write


class RedrawBuffer:
    """One stream's text, its redrawn lines held back. Sans-I/O."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.pending = False  # whether the line is a redrawn one
        self._again = False  # whether what comes replaces what there is
        self._state: list[str] = []
        self._size = 0
        self._begun = False  # whether something of the line went out
        self._left = REDRAWN_CHARS
        self._shown_at = float("-inf")

    def feed(self, text: str) -> str:
        """Return what is settled with ``text``: each line that ended, and the current one unless it is redrawn."""
        if not self.pending and "\r" not in text:
            self._begun = text[-1] != "\n" if text else self._begun
            return text
        out: list[str] = []
        line, *rest = text.split("\n")
        self._apply_line(line, out)
        for line in rest:
            self._settle(out)
            out.append("\n")
            self._begun = False
            self._apply_line(line, out)
        return "".join(out)

    def finish(self) -> str:
        """Return what is held back."""
        out: list[str] = []
        self._settle(out)
        return "".join(out)

    def current_state(self) -> str:
        """Return the state of the line that is held back, for who watches; "" if that was shown a moment ago."""
        if not (self._state and self._size < self._left and self._clock() - self._shown_at >= REDRAW_S):
            return ""
        self._left -= self._size + 1
        self._shown_at = self._clock()
        shown = "".join(["\r"] * self._begun + self._state)
        self._begun = True
        return shown

    def _apply_line(self, line: str, out: list[str]) -> None:
        first, *states = line.split("\r")
        self._add(first, out)
        for state in states:
            self.pending = self._again = True
            self._add(state, out)

    def _add(self, text: str, out: list[str]) -> None:
        if not text:
            return
        if not self.pending:
            out.append(text)
            self._begun = True
            return
        if self._again:
            self._state, self._size, self._again = [], 0, False
        self._state.append(text)
        self._size += len(text)
        if self._size > _STATE_CHARS:
            self._settle(out)

    def _settle(self, out: list[str]) -> None:
        if self._state:
            out += ["\r"] * self._begun + self._state
            self._begun = True
        self.pending = self._again = False
        self._state, self._size = [], 0


class LongLineLimiter:
    """One stream's text, its lines no longer than ``limit``: of a longer one the middle is left out. Sans-I/O."""

    def __init__(self, limit: int | None, note: Callable[[int], str]) -> None:
        self._limit, self._note = limit, note
        self._size = 0  # of the current line, as far as it went out
        self._held: list[str] = []
        self._held_size = self._left_out = 0

    def feed(self, text: str) -> str:
        """Return what can go out: of a line that gets long, its second half only once it has ended."""
        if self._limit is None:
            return text
        if not self._held and self._size + len(text) <= self._limit // 2:
            if text[-1:] == "\n":  # the most frequent one by far
                self._size = 0
            else:
                end = text.rfind("\n")
                self._size = self._size + len(text) if end < 0 else len(text) - end - 1
            return text
        out: list[str] = []
        for start in range(0, len(text), 1 << 20):  # in pieces: of 1 GB there is no second copy
            line, *rest = text[start : start + (1 << 20)].split("\n")
            self._add(line, out)
            for line in rest:
                out.append(self.finish() + "\n")
                self._size = 0
                self._add(line, out)
        return "".join(out)

    def finish(self) -> str:
        """Return what is held back: the note on what was left out, and the line's end."""
        half = (self._limit or 0) // 2
        tail = "".join(self._held)
        left_out = self._left_out + max(0, len(tail) - half)
        self._size += len(tail)
        self._held, self._held_size, self._left_out = [], 0, 0
        return f"{self._note(left_out)}{tail[len(tail) - half :]}" if left_out else tail

    def _add(self, text: str, out: list[str]) -> None:
        half = (self._limit or 0) // 2
        now, rest = text[: max(0, half - self._size)], text[max(0, half - self._size) :]
        out.append(now)
        self._size += len(now)
        if not rest:
            return
        self._held.append(rest)
        self._held_size += len(rest)
        if self._held_size > half + _HELD_CHARS:
            joined = "".join(self._held)
            self._left_out += len(joined) - half
            self._held, self._held_size = [joined[len(joined) - half :]], half
