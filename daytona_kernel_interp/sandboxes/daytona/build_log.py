"""The log of an image's build: told line by line as it comes, and its end in the error if the build fails."""

from __future__ import annotations

import collections
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

_LINES = 15
_WIDTH = 240  # our own image's Dockerfile has files in it, as steps of 30,000 characters, which a build log repeats


class BuildLog:
    """Call it with each piece of the log."""

    def __init__(self, on_line: Callable[[str], None] = lambda line: None) -> None:
        self._on_line = on_line
        self._last: collections.deque[str] = collections.deque(maxlen=_LINES)

    def __call__(self, text: str) -> None:
        """Tell the lines of a piece."""
        for line in filter(None, map(str.rstrip, text.splitlines())):
            short = line if len(line) <= _WIDTH else f"{line[:_WIDTH]} ... ({len(line)} characters)"
            self._last.append(short)
            log.info("image: %s", short, extra={"progress": True})
            self._on_line(short)

    def end(self) -> str:
        """Return the last lines, to stand behind a sentence; nothing where there were none."""
        return "\nThe last lines of its build:" + "".join(f"\n  {line}" for line in self._last) if self._last else ""
