"""Append to a file that is complete and valid at every instant, at a cost that does not grow with the file.

A notebook is one JSON document, so a cell cannot simply be appended: the end of the document must be written again
behind it, and a SIGKILL in the middle of that write would leave a file that no program opens. Hence there are two
copies. The spare copy receives the bytes that it lacks and the end of the document; then the copies exchange their
names, which is atomic. Each cell is written twice, independent of the length of the session.

Linux and macOS can exchange names (``renameat2``, ``renameatx_np``). On a system or file system that cannot, the
visible copy gets a second name and the spare copy is renamed over it. That is five times slower on ext4, which then
writes to disk at once. Without hard links, the whole file is copied. The spare copy is ``.NAME.0`` or ``.NAME.1``.
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
    """One of the two copies: its committed length, and the committed bytes that it has yet to write."""

    def __init__(self, folder: int, name: bytes) -> None:
        self._folder, self.name = folder, name
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self.descriptor = os.open(name, flags, 0o666, dir_fd=folder)
        self.committed_bytes = 0
        self.pending: list[bytes] = []
        self._inode, self._size = os.fstat(self.descriptor).st_ino, 0

    def write(self, tail: bytes) -> None:
        """Write the pending bytes, and ``tail`` behind them."""
        data = b"".join([*self.pending, tail])
        _write_at(self.descriptor, data, self.committed_bytes)
        size = self.committed_bytes + len(data)
        self.committed_bytes = size - len(tail)
        self.pending.clear()
        if size < self._size:
            os.ftruncate(self.descriptor, size)
        self._size = size

    def is_unchanged(self) -> bool:
        """Return whether no other program has replaced or changed the file.

        A program that saves the notebook puts another file in its place or, as JupyterLab does, writes all of it again
        into this one. Only inode and size are compared, so a change that keeps the length is not detected.
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
    """A file with appended text and a tail that always follows it. Not thread-safe."""

    def __init__(self, path: Path) -> None:
        """Open the spare copy; the first :meth:`put` replaces an existing file."""
        self._name = os.fsencode(path.name)
        self._spares = tuple(os.fsencode(f".{path.name}.{turn}") for turn in (0, 1))
        self._turn = 0
        # Kept open, so that a long path is resolved once. O_PATH needs no permission to list the folder.
        self._folder = os.open(path.parent, getattr(os, "O_PATH", os.O_RDONLY) | os.O_CLOEXEC)
        try:
            self._spare = _FileCopy(self._folder, self._spares[0])
        except OSError:
            os.close(self._folder)
            raise
        self._visible: _FileCopy | None = None

    def put(self, committed: str, tail: str) -> None:
        """Append ``committed``, and write ``tail`` behind it, which the next call replaces.

        Raises:
            OSError: If the file cannot be written. The visible file is not changed.
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
        """Close the file and remove the spare copy. Repeated calls do nothing."""
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
        """Give the visible copy a second name before it loses its own, and return it, if there is one."""
        self._turn = 1 - self._turn
        if seen is not None:
            seen.name = self._spares[self._turn]
            self._unlink(seen.name)
            with contextlib.suppress(OSError):
                os.link(self._name, seen.name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        return seen

    def _copied(self, copy: _FileCopy, gone: _FileCopy | None) -> _FileCopy:
        """Return a new spare copy with the committed bytes of ``copy``, in place of ``gone``."""
        if gone is not None:
            gone.close()
        name = self._spares[self._turn]
        self._unlink(name)  # another program may have saved a file under it, which must not be written to
        other = _FileCopy(self._folder, name)
        at = 0
        while at < copy.committed_bytes:
            data = os.pread(copy.descriptor, min(1 << 20, copy.committed_bytes - at), at)
            if not data:
                raise OSError(errno.EIO, "another program truncated it")
            _write_at(other.descriptor, data, at)
            at += len(data)
        other.committed_bytes = other._size = copy.committed_bytes
        return other

    def _unlink(self, name: bytes) -> None:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self._folder)


def read_file(path: Path) -> bytes:
    """Return the content of a file that may be growing, as it was at one instant.

    The visible copy is never written to. But it may become the spare copy, and be written to, while a slow reader still
    reads it; then the file is read again.

    Raises:
        OSError: If the file cannot be read.
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
    """Exchange the names of two files in a folder; return whether that succeeded."""
    exchange = _exchanger()
    return exchange is not None and exchange(folder, one, folder, other, _RENAME_EXCHANGE) == 0


@functools.cache
def _exchanger() -> Callable[[int, bytes, int, bytes, int], int] | None:
    try:
        library = ctypes.CDLL(None)
        # Without argtypes: int and bytes need none, and converting them takes a third of the call's time.
        return library.renameatx_np if sys.platform == "darwin" else library.renameat2  # glibc 2.28
    except (OSError, AttributeError):
        return None
