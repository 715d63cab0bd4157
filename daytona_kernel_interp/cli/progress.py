"""What the command line shows of work that may take minutes: a line that tells the time, and the log as it comes."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Self

_TICK_S = 1.0
_CLEAR = "\r\x1b[K"
_LOGGER = "daytona_kernel_interp.sandboxes.daytona"


class Progress:
    """Writes lines; on a terminal there is one more below them that says what is done, and for how long."""

    def __init__(self, task: str, file: TextIO) -> None:
        self.task = task
        self._file, self.live = file, file.isatty()
        self._started_at = time.monotonic()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)

    def __enter__(self) -> Self:
        if self.live:
            self._ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self.live:
            self._ticker.join()
            self._write(_CLEAR)

    def line(self, text: str) -> None:
        """Show a line of the log."""
        self._write(f"{_CLEAR}{text}\n{self._status()}" if self.live else f"{text}\n")

    def _tick(self) -> None:
        while not self._over.wait(_TICK_S):  # what is over in a moment shows nothing
            self._write(f"{_CLEAR}{self._status()}")

    def _status(self) -> str:
        seconds = int(time.monotonic() - self._started_at)
        return f"{self.task} ... {seconds // 60}:{seconds % 60:02d}"

    def _write(self, text: str) -> None:
        with self._lock, contextlib.suppress(BrokenPipeError):
            self._file.write(text)
            self._file.flush()


class _ProgressHandler(logging.Handler):
    """Has a progress say what the log said last."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(logging.INFO)
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        self._progress.task = record.getMessage()


@contextlib.contextmanager
def show_start_progress(file: TextIO) -> Iterator[None]:
    """On a terminal, show what a start at Daytona does, if it takes longer than a moment."""
    progress = Progress("starting", file)
    if not progress.live:
        yield
        return
    logger, handler = logging.getLogger(_LOGGER), _ProgressHandler(progress)
    level = logger.level
    logger.setLevel(min(level or logging.INFO, logging.INFO))
    logger.addHandler(handler)
    try:
        with progress:
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
