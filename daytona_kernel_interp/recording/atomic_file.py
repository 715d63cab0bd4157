"""A notebook that grows: whole and valid at every instant, however its writer ends, at a cost that does not grow.

A notebook is one JSON document, so a cell cannot simply be appended: its end has to be written anew behind it, and a
SIGKILL in the middle of that write would leave a file that nothing opens. Hence two copies take turns. The one that
nobody sees gets what it lacks and the end of the document; then they exchange their names, which is atomic. Each cell
is written twice, whatever the length of the session.

Linux and macOS can exchange names (``renameat2``, ``renameatx_np``). Elsewhere, or on a file system that cannot, the
seen copy gets a second name and the unseen one is renamed over it: five times slower on ext4, which then writes to disk
at once. Where there are no hard links either, the whole is copied. The unseen copy is ``.NAME.0`` or ``.NAME.1``.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_MAX_READS = 10
_RENAME_EXCHANGE = 2  # Linux, fs.h; RENAME_SWAP of macOS's stdio.h is the same


class _FileCopy:
    """One of the two files: how far it has what is settled, and what of that it lacks."""

    def __init__(self, folder: int, name: bytes) -> None:
        self._folder, self.name = folder, name
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self.descriptor = os.open(name, flags, 0o666, dir_fd=folder)
        self.committed_bytes = 0
        self.pending: list[bytes] = []
        self._inode, self._size = os.fstat(self.descriptor).st_ino, 0

    def write(self, tail: bytes) -> None:
        """Write what it lacks, and ``tail`` behind it."""
        data = b"".join([*self.pending, tail])
        _write_at(self.descriptor, data, self.committed_bytes)
        size = self.committed_bytes + len(data)
        self.committed_bytes = size - len(tail)
        self.pending.clear()
        if size < self._size:
            os.ftruncate(self.descriptor, size)
        self._size = size

    def is_unchanged(self) -> bool:
        """Whether its name is still its own, and nobody else has written to it.

        Programs that save the notebook put another file in its place, or write all of it anew into this one, as
        JupyterLab does. A text that somebody put in the place of one of the same length may stay.
        """
        try:
            found = os.stat(self.name, dir_fd=self._folder)
        except OSError:
            return False
        return found.st_size == self._size and found.st_ino == self._inode

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class AtomicFile:
    """A file to which text is appended, with an end that is always there. Not for two threads at once."""

    def __init__(self, path: Path) -> None:
        """Begin it; what was there is replaced by the first :meth:`put`."""
        self._name = os.fsencode(path.name)
        self._spares = tuple(os.fsencode(f".{path.name}.{turn}") for turn in (0, 1))
        self._turn = 0
        # Open, so that its path, which may be long, is looked up once; O_PATH, as one may write where one may not list.
        self._folder = os.open(path.parent, getattr(os, "O_PATH", os.O_RDONLY) | os.O_CLOEXEC)
        try:
            self._spare = _FileCopy(self._folder, self._spares[0])
        except OSError:
            os.close(self._folder)
            raise
        self._visible: _FileCopy | None = None

    def put(self, committed: str, tail: str) -> None:
        """Append ``committed`` for good, and end the file with ``tail`` until the next time.

        Raises:
            OSError: If that cannot be written. What was there stays.
        """
        piece, hidden, seen = committed.encode("utf-8"), self._spare, self._visible
        hidden.pending.append(piece)
        if seen is not None:
            seen.pending.append(piece)
        hidden.write(tail.encode("utf-8"))
        self._visible = hidden
        if seen is not None and _exchange(self._folder, hidden.name, self._name):
            seen.name, hidden.name = hidden.name, self._name
        else:
            seen = self._second_name(seen)
            os.rename(hidden.name, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            hidden.name = self._name
        self._spare = seen if seen is not None and seen.is_unchanged() else self._copied(hidden, seen)

    def close(self) -> None:
        """Leave the file as it is, and remove the copy that nobody sees. Calling it again does nothing."""
        if self._folder < 0:
            return
        for copy in (self._spare, self._visible):
            if copy is not None:
                copy.close()
        for spare in self._spares:
            self._unlink(spare)
        os.close(self._folder)
        self._folder = -1

    def _second_name(self, seen: _FileCopy | None) -> _FileCopy | None:
        """Give the file that is about to lose its name another; None if there are no hard links here."""
        self._turn = 1 - self._turn
        if seen is not None:
            seen.name = self._spares[self._turn]
            self._unlink(seen.name)
            with contextlib.suppress(OSError):
                os.link(self._name, seen.name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        return seen

    def _copied(self, copy: _FileCopy, gone: _FileCopy | None) -> _FileCopy:
        """Return a second file with what is settled in ``copy``, in the place of one that is not ours any more."""
        if gone is not None:
            gone.close()
        name = self._spares[self._turn]
        self._unlink(name)  # what somebody saved in its place is in ``copy``'s no longer, and not to be overwritten
        other = _FileCopy(self._folder, name)
        at = 0
        while at < copy.committed_bytes:
            data = os.pread(copy.descriptor, min(1 << 20, copy.committed_bytes - at), at)
            if not data:
                raise OSError(errno.EIO, "another program cut it off")
            _write_at(other.descriptor, data, at)
            at += len(data)
        other.committed_bytes = other._size = copy.committed_bytes
        return other

    def _unlink(self, name: bytes) -> None:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self._folder)


def read_file(path: Path) -> bytes:
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


def _write_at(descriptor: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, at)
        view, at = view[written:], at + written


def _exchange(folder: int, one: bytes, other: bytes) -> bool:
    """Exchange the names of two files in a folder, and return whether that can be done here."""
    exchange = _exchanger()
    return exchange is not None and exchange(folder, one, folder, other, _RENAME_EXCHANGE) == 0


@functools.cache
def _exchanger() -> Callable[[int, bytes, int, bytes, int], int] | None:
    try:
        library = ctypes.CDLL(None)
        # Numbers and bytes need no argtypes, which would take a third of the call's time.
        return library.renameatx_np if sys.platform == "darwin" else library.renameat2  # glibc 2.28
    except (OSError, AttributeError):
        return None
