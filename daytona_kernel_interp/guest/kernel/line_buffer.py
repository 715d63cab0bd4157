"""Redrawn and very long lines of a cell's output, reduced before they count against the cell's limit. Sans-I/O.

A terminal shows a line as its last carriage return left it. The model's text does the same: a progress bar that is
redrawn a thousand times counts once, in its last state. So a redrawn line is held back until it ends. A client sees
some of its states in the meantime, up to ``REDRAWN_CHARS`` per cell.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

REDRAWN_CHARS = 32 * 1024  # of intermediate states per cell; less than what the host allows above the limit
REDRAW_S = 0.1
_STATE_CHARS = 4096  # a longer line is no progress bar and is not held back
_HELD_CHARS = 64 * 1024  # kept of a long line beside its tail, so that not every write cuts it again


class RedrawBuffer:
    """Holds back the redrawn lines of one stream."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.pending = False  # whether the current line is a redrawn one
        self._again = False  # whether the next text replaces the state
        self._state = ""
        self._begun = False  # whether part of the line was returned
        self._left = REDRAWN_CHARS
        self._shown_at = float("-inf")

    def feed(self, text: str) -> str:
        """Add ``text``. Return the lines that ended, and the current line unless it is redrawn."""
        if not self.pending and "\r" not in text:
            self._begun = text[-1] != "\n" if text else self._begun
            return text
        out: list[str] = []
        for number, line in enumerate(text.split("\n")):
            if number:
                self._settle(out)
                out.append("\n")
                self._begun = False
            first, *states = line.split("\r")
            self._add(first, out)
            for state in states:
                self.pending = self._again = True
                self._add(state, out)
        return "".join(out)

    def finish(self) -> str:
        """Return the line that is held back."""
        out: list[str] = []
        self._settle(out)
        return "".join(out)

    def current_state(self) -> str:
        """Return the current state of a redrawn line, or "" if one was returned less than ``REDRAW_S`` ago."""
        size = len(self._state)
        if not (0 < size < self._left and self._clock() - self._shown_at >= REDRAW_S):
            return ""
        self._left -= size + 1
        self._shown_at = self._clock()
        shown = "\r" * self._begun + self._state
        self._begun = True
        return shown

    def _add(self, text: str, out: list[str]) -> None:
        if not text:
            return
        if not self.pending:
            out.append(text)
            self._begun = True
            return
        self._state, self._again = text if self._again else self._state + text, False
        if len(self._state) > _STATE_CHARS:
            self._settle(out)

    def _settle(self, out: list[str]) -> None:
        if self._state:
            out += ["\r"] * self._begun + [self._state]
            self._begun = True
        self.pending = self._again = False
        self._state = ""


class LongLineLimiter:
    """Leaves out the middle of lines longer than ``limit``, for one stream. ``note`` makes the text in its place."""

    def __init__(self, limit: int | None, note: Callable[[int], str]) -> None:
        self._limit, self._note = limit, note
        self._size = 0  # of the current line, as far as it was returned
        self._held: list[str] = []
        self._held_size = self._left_out = 0

    def feed(self, text: str) -> str:
        """Add ``text``. Return the text to send; the second half of a long line waits for the line's end."""
        if self._limit is None:
            return text
        if not self._held and self._size + len(text) <= self._limit // 2:
            if text[-1:] == "\n":  # by far the most frequent case
                self._size = 0
            else:
                end = text.rfind("\n")
                self._size = self._size + len(text) if end < 0 else len(text) - end - 1
            return text
        out: list[str] = []
        for start in range(0, len(text), 1 << 20):  # in pieces: of 1 GB there is no second copy
            for number, line in enumerate(text[start : start + (1 << 20)].split("\n")):
                if number:
                    out.append(self.finish() + "\n")
                    self._size = 0
                self._add(line, out)
        return "".join(out)

    def finish(self) -> str:
        """Return the text that is held back: the note on the part left out, and the end of the line."""
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
