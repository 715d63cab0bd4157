"""The log of an image's build: logged line by line, and its end for the error if the build fails."""

from __future__ import annotations

import collections
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

_LINES = 15
_WIDTH = 240  # the kernel image's steps have up to 30,000 characters, and a build log repeats them


class BuildLog:
    """A callable that receives the pieces of a build log."""

    def __init__(self, on_line: Callable[[str], None] = lambda line: None) -> None:
        self._on_line = on_line
        self._last: collections.deque[str] = collections.deque(maxlen=_LINES)

    def __call__(self, text: str) -> None:
        """Log the lines of a piece."""
        for line in filter(None, map(str.rstrip, text.splitlines())):
            short = line if len(line) <= _WIDTH else f"{line[:_WIDTH]} ... ({len(line)} characters)"
            self._last.append(short)
            log.info("image: %s", short, extra={"progress": True})
            self._on_line(short)

    def end(self) -> str:
        """Return the last lines, to be appended to a sentence; an empty text if there are none."""
        return "\nThe last lines of its build:" + "".join(f"\n  {line}" for line in self._last) if self._last else ""
