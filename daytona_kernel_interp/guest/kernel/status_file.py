"""The board: what a kernel leaves in a file for its relay to read when the kernel itself cannot speak.

Two slots, each written in one go at a fixed place, a few microseconds a cell: what is running, and the last summary. A
checksum tells half of one. What is read may be anything: code in the sandbox can write there too.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_RUNNING_BYTES = 64 * 1024
_SUMMARY_BYTES = 700 * 1024
_ATTEMPTS = 5


class StatusFile:
    """The kernel's end. A disk that is full costs the board and nothing else."""

    def __init__(self, path: Path) -> None:
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        except OSError:
            self._fd = -1
        self._pid = os.getpid()

    def write_running(self, cell: dict[str, Any] | None) -> None:
        """Say which cell runs, if one does."""
        self._write(0, _RUNNING_BYTES, {"running": cell, "at": time.monotonic()})

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Say what the namespace holds."""
        self._write(_RUNNING_BYTES, _SUMMARY_BYTES, {"summary": summary, "at": time.monotonic()})

    def _write(self, at: int, limit: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode("ascii")
        data = b"%08x %s\n" % (zlib.crc32(data), data)
        if self._fd < 0 or len(data) > limit or os.getpid() != self._pid:
            return
        try:
            os.pwrite(self._fd, data, at)
        except OSError:
            return


def read_status(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what stands in the slots, ``running`` and ``summary`` with ``at``; an empty dict where nothing does."""
    return _read(path, 0, _RUNNING_BYTES), _read(path, _RUNNING_BYTES, _SUMMARY_BYTES)


def _read(path: Path, at: int, limit: int) -> dict[str, Any]:
    for _ in range(_ATTEMPTS):  # the kernel may just be writing
        try:
            with open(path, "rb", opener=_open_regular_file) as file:
                file.seek(at)
                checksum, _, data = file.read(limit).partition(b"\n")[0].partition(b" ")
            if not data:
                return {}
            if int(checksum, 16) == zlib.crc32(data):
                content = json.loads(data)
                return content if isinstance(content, dict) else {}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError):
            continue
    return {}


def _open_regular_file(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
