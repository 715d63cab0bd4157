"""Progress of work that may take minutes: a status line with the elapsed time, and log lines above it."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING, TextIO

from ..formatting import printable
from .terminal import write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Self

_TICK_S = 1.0
_CLEAR = "\r\x1b[K"


class Progress:
    """Writes lines to a file; on a terminal also a status line below them, with task and elapsed time."""

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
        """Write one line."""
        text = printable(text)
        self._write(f"{_CLEAR}{text}\n{self._status()}" if self.live else f"{text}\n")

    def _tick(self) -> None:
        while not self._over.wait(_TICK_S):  # a task that ends within the first second shows no status line
            self._write(f"{_CLEAR}{self._status()}")

    def _status(self) -> str:
        seconds = int(time.monotonic() - self._started_at)
        return f"{printable(self.task)} ... {seconds // 60}:{seconds % 60:02d}"

    def _write(self, text: str) -> None:
        with self._lock:
            write(self._file, text, raw=True)


class _ProgressHandler(logging.Handler):
    """Shows the newest log record that reports progress: one logged with ``extra={"progress": True}``."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(logging.INFO)
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "progress", False):
            self._progress.task = record.getMessage()


@contextlib.contextmanager
def show_start_progress(file: TextIO) -> Iterator[None]:
    """On a terminal, show the current step of a start at Daytona if it takes longer than a moment."""
    progress = Progress("starting", file)
    if not progress.live:
        yield
        return
    logger, handler = logging.getLogger("daytona_kernel_interp"), _ProgressHandler(progress)
    level = logger.level
    logger.setLevel(min(level or logging.INFO, logging.INFO))
    logger.addHandler(handler)
    try:
        with progress:
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
