"""What the command line shows of work that takes minutes: a line that tells the time, and the log as it comes."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from typing_extensions import Self

_TICK_S = 1.0
_CLEAR = "\r\x1b[K"


class BuildLog:
    """Writes lines; on a terminal there is one more below them that says how long it has been going on."""

    def __init__(self, what: str, file: TextIO) -> None:
        self._what, self._file, self._live = what, file, file.isatty()
        self._begun = time.monotonic()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)

    def __enter__(self) -> Self:
        if self._live:
            self._ticker.start()
        else:
            self.line(f"{self._what} ...")
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._live:
            self._ticker.join()
            self._write(_CLEAR)

    def line(self, text: str) -> None:
        """Show a line of the log."""
        self._write(f"{_CLEAR}{text}\n{self._status()}" if self._live else f"{text}\n")

    def _tick(self) -> None:
        while not self._over.is_set():
            self._write(f"{_CLEAR}{self._status()}")
            self._over.wait(_TICK_S)

    def _status(self) -> str:
        seconds = int(time.monotonic() - self._begun)
        return f"{self._what} ... {seconds // 60}:{seconds % 60:02d}"

    def _write(self, text: str) -> None:
        with self._lock:
            self._file.write(text)
            self._file.flush()
