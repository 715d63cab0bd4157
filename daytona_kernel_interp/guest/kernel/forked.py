"""Forked children of the kernel: what they print, and how they end.

A child has a copy of every lock as it was at the fork, also of those that a thread held which the child does not have.
So a child uses nothing that the parent's threads share: no buffer, no queue, no socket. What it prints goes to the
pipe behind file descriptor 1 or 2, as that of any other child process.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import NoReturn


class ChildOutput:
    """The text that this child has not written yet. Whole lines are written at once, so that children do not mix."""

    def __init__(self) -> None:
        self.reset()
        os.register_at_fork(after_in_child=self.reset)

    def reset(self) -> None:
        """Forget the parent's text and lock."""
        self._lock = threading.RLock()
        self._lines: dict[int, str] = {}

    def write(self, fd: int, text: str) -> None:
        """Write the lines that end with ``text``, and keep the rest."""
        with self._lock:
            lines, newline, rest = (self._lines.pop(fd, "") + text).rpartition("\n")
            self._lines[fd] = rest
            _write_all(fd, lines + newline)

    def flush(self, fd: int) -> None:
        """Write what is left."""
        with self._lock:
            _write_all(fd, self._lines.pop(fd, ""))


def _write_all(fd: int, text: str) -> None:
    data = memoryview(text.encode("utf-8", "backslashreplace"))
    while data:
        data = data[os.write(fd, data) :]


def end_child(error: BaseException | None) -> NoReturn:
    """End this process as Python ends a script: with 0, with 1 after an error, or as ``sys.exit`` says."""
    code: object = 0 if error is None else 1
    if isinstance(error, SystemExit):
        code = 0 if error.code is None else error.code
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code & 0xFF if isinstance(code, int) else 1)
