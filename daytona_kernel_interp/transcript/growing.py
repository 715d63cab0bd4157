"""A notebook that grows: whole and valid at every instant, however its writer ends, at a cost that does not grow.

A notebook is one JSON document, so a cell cannot simply be appended: its end has to be written anew behind it, and a
SIGKILL in the middle of that write would leave a file that nothing opens. Hence two copies take turns. The one that
nobody sees gets what it lacks and the end of the document; then they exchange their names, which is atomic. Each cell
is written twice, whatever the length of the session.

Linux and macOS can exchange names (``renameat2``, ``renamex_np``). Elsewhere, or on a file system that cannot, the
seen copy gets a second name and the unseen one is renamed over it: five times slower on ext4, which then writes to disk
at once. Where there are no hard links either, the whole is copied. The unseen copy is ``.NAME.0`` or ``.NAME.1``.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_MAX_READS = 10
_AT_FDCWD = -100  # Linux, fcntl.h
_RENAME_EXCHANGE = 2  # Linux, fs.h; RENAME_SWAP of macOS's stdio.h is the same


class _Copy:
    """One of the two files: how far it has what is settled, and what of that it lacks."""

    def __init__(self, path: bytes) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self.settled = 0
        self.lacking: list[bytes] = []
        self._size = 0
        self._left = _state(os.fstat(self.descriptor))

    def write(self, passing: bytes) -> None:
        """Write what it lacks, and ``passing`` behind it."""
        settled = b"".join(self.lacking)
        _write_at(self.descriptor, settled + passing, self.settled)
        self.settled += len(settled)
        self.lacking.clear()
        size = self.settled + len(passing)
        if size < self._size:
            os.ftruncate(self.descriptor, size)
        self._size = size
        self._left = _state(os.fstat(self.descriptor))

    def is_as_left(self) -> bool:
        """Whether its name is still its own, and nobody else has written to it.

        Programs that save the notebook put another file in its place, or write into this one, as JupyterLab does.
        """
        try:
            return _state(os.stat(self.path)) == self._left
        except OSError:
            return False

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class GrowingFile:
    """A file to which text is appended, with an end that is always there. Not for two threads at once."""

    def __init__(self, path: Path) -> None:
        """Begin it; what was there is replaced by the first :meth:`put`."""
        self._path = os.fsencode(path)
        self._spares = tuple(os.fsencode(path.with_name(f".{path.name}.{turn}")) for turn in (0, 1))
        self._turn = 0
        self._hidden = _Copy(self._spares[0])
        self._seen: _Copy | None = None

    def put(self, settled: str, passing: str) -> None:
        """Append ``settled`` for good, and end the file with ``passing`` until the next time.

        Raises:
            OSError: If that cannot be written. What was there stays.
        """
        piece, hidden = settled.encode("utf-8"), self._hidden
        hidden.lacking.append(piece)
        if self._seen is not None:
            self._seen.lacking.append(piece)
        hidden.write(passing.encode("utf-8"))
        seen, self._seen = self._seen, hidden
        if seen is not None and _exchange(hidden.path, self._path):
            seen.path, hidden.path = hidden.path, self._path
        else:
            seen = self._second_name(seen)
            os.rename(hidden.path, self._path)
            hidden.path = self._path
        self._hidden = seen if seen is not None and seen.is_as_left() else self._copied(hidden, seen)

    def close(self) -> None:
        """Leave the file as it is, and remove the copy that nobody sees."""
        for copy in (self._hidden, self._seen):
            if copy is not None:
                copy.close()
        for spare in self._spares:
            _unlink(spare)

    def _second_name(self, seen: _Copy | None) -> _Copy | None:
        """Give the file that is about to lose its name another; None if there are no hard links here."""
        self._turn = 1 - self._turn
        if seen is not None:
            seen.path = self._spares[self._turn]
            _unlink(seen.path)
            with contextlib.suppress(OSError):
                os.link(self._path, seen.path)
        return seen

    def _copied(self, copy: _Copy, gone: _Copy | None) -> _Copy:
        """Return a second file with what is settled in ``copy``, in the place of one that is not ours any more."""
        if gone is not None:
            gone.close()
        path = self._spares[self._turn]
        _unlink(path)  # what somebody saved in its place is in ``copy``'s no longer, and not to be overwritten
        other = _Copy(path)
        at = 0
        while at < copy.settled:
            data = os.pread(copy.descriptor, min(1 << 20, copy.settled - at), at)
            _write_at(other.descriptor, data, at)
            at += len(data)
        other.settled = other._size = copy.settled
        return other


def read_whole(path: Path) -> bytes:
    """Return what is in a file, which may be growing: as it was at one instant.

    What has the name is not written to. But a slow reader can still be at it when it has lost the name, and is given
    what it lacks.

    Raises:
        OSError: If it cannot be read.
    """
    data = b""
    for _ in range(_MAX_READS):
        with open(path, "rb") as file:
            before = _state(os.fstat(file.fileno()))
            data = file.read()
            if _state(os.fstat(file.fileno())) == before:
                break
    return data


def _state(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_size, found.st_mtime_ns


def _unlink(path: bytes) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _write_at(descriptor: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, at)
        view, at = view[written:], at + written


def _exchange(one: bytes, other: bytes) -> bool:
    """Exchange the names of two files, and return whether that can be done here."""
    exchange = _exchanger()
    return exchange is not None and exchange(one, other) == 0


@functools.cache
def _exchanger() -> Callable[[bytes, bytes], int] | None:
    try:
        library = ctypes.CDLL(None)
        if sys.platform == "darwin":
            swap = library.renamex_np
            return lambda one, other: int(swap(one, other, _RENAME_EXCHANGE))
        rename = library.renameat2  # glibc 2.28
        rename.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
        return lambda one, other: int(rename(_AT_FDCWD, one, _AT_FDCWD, other, _RENAME_EXCHANGE))
    except (OSError, AttributeError):
        return None
