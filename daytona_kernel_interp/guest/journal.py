"""The kernel's journal: written here in the kernel, read here in the relay. Format: ``wire/journal.py``.

A message is recorded before it is handed to ZMQ, so whatever reached a host is in the journal, and what did not is too.
What was printed and not yet made into a message stands in shared memory that outlives the process.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import struct
import threading
from typing import TYPE_CHECKING, Any

from ..wire.errors import RemoteProtocolError
from ..wire.journal import (
    HEADER_BYTES,
    MAX_FRAMES,
    MAX_RECORD_BYTES,
    MAX_SEGMENTS,
    SEGMENT_BYTES,
    Record,
    RecordKind,
    RecordReader,
    encode_record,
    join_frames,
    split_frames,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

DELIMITER = b"<IDS|MSG>"
_READ_BYTES = 256 * 1024
_PENDING_FILE = "pending"
_PENDING_BYTES = 256 * 1024  # for each stream; 20 ms of prints
_STREAMS = ("stdout", "stderr")
_REPLY_FACTS = ("status", "execution_count", "ename")
_NO_TEXT = {"evalue": "(too large for the journal)", "traceback": []}
_SLOT = struct.Struct("!IB127s")  # bytes of text, length and bytes of the cell's msg_id


class JournalWriter:
    """Appends to a journal. Any thread may; a disk that is full costs the journal and nothing else."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self._folder = folder
        self._lock = threading.Lock()
        self._number = 0
        self._fd = -1
        self._size = 0
        self._gap = False
        self._running = b""  # msg_id of the cell that runs
        self._pid = os.getpid()

    def started(self, cell: str) -> None:
        """Record that the kernel took up a cell."""
        self._running = cell.encode("utf-8", "replace")
        self._write(Record(RecordKind.STARTED, self._running))

    def ended(self, cell: str, content: dict[str, Any], metadata: dict[str, Any]) -> None:
        """Record a cell's execute_reply."""
        payload = _ended(cell, content, metadata)
        if len(payload) > MAX_RECORD_BYTES:  # an error's text has no bound
            payload = _ended(cell, {**{name: content.get(name) for name in _REPLY_FACTS}, **_NO_TEXT}, {})
        self._write(Record(RecordKind.ENDED, payload))
        self._running = b""

    def published(self, frames: Sequence[Any]) -> None:
        """Record a message of iopub, given as its frames."""
        if os.getpid() != self._pid:
            return  # a forked child's messages pass through its parent
        views = [memoryview(frame).cast("B") for frame in frames]
        if sum(map(len, views)) <= MAX_RECORD_BYTES // 2 and len(views) <= MAX_FRAMES:
            self._write(Record(RecordKind.IOPUB, join_frames(views)))
            return
        start = next((i for i, frame in enumerate(views) if frame == DELIMITER), 0)
        payload = join_frames(views[: start + 5])
        fits = len(payload) <= MAX_RECORD_BYTES
        self._write(Record(RecordKind.OMITTED, payload) if fits else Record(RecordKind.GAP))

    def _write(self, record: Record) -> None:
        data = encode_record(record)
        with self._lock:
            try:
                if self._fd < 0 or self._size >= SEGMENT_BYTES:
                    self._next_segment()
                    if self._running and record.kind is not RecordKind.STARTED:
                        data = encode_record(Record(RecordKind.CONTINUED, self._running)) + data
                if self._gap:
                    data = encode_record(Record(RecordKind.GAP)) + data
                written = os.write(self._fd, data)
                self._size += written
                if written < len(data):
                    raise OSError("short write")
                self._gap = False
            except OSError:
                self._gap = True
                if self._fd >= 0:
                    os.close(self._fd)
                    self._fd = -1

    def _next_segment(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._number += 1
        self._fd = os.open(_segment(self._folder, self._number), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._size = 0
        with contextlib.suppress(OSError):
            os.unlink(_segment(self._folder, self._number - MAX_SEGMENTS - 1))


def _ended(cell: str, content: dict[str, Any], metadata: dict[str, Any]) -> bytes:
    facts = {"cell": cell, "content": content, "metadata": metadata}
    return json.dumps(facts, default=str).encode("utf-8", "backslashreplace")


class PendingText:
    """Text that was printed and is not published yet, in memory that a process's death does not take away."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        size = len(_STREAMS) * (_SLOT.size + _PENDING_BYTES)
        fd = os.open(folder / _PENDING_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(fd, size)
            self._memory = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        self._sizes = dict.fromkeys(_STREAMS, 0)

    def add(self, name: str, cell: str, text: str) -> None:
        """Add text; what finds no room is not covered."""
        data = text.encode("utf-8", "replace")
        start, size = self._start(name), self._sizes[name]
        if size + len(data) > _PENDING_BYTES:
            return
        self._memory[start + _SLOT.size + size : start + _SLOT.size + size + len(data)] = data
        self._resize(name, size + len(data), cell)  # last: until then the text is not there

    def size(self, name: str) -> int:
        """Return how many bytes stand there for a stream."""
        return self._sizes[name]

    def drop(self, name: str, size: int) -> None:
        """Drop the oldest ``size`` bytes; they were published."""
        start, rest = self._start(name) + _SLOT.size, self._sizes[name] - size
        if rest:
            self._memory.move(start, start + size, rest)
        (_, length, cell) = _SLOT.unpack_from(self._memory, self._start(name))
        self._resize(name, rest, cell[:length].decode("utf-8", "replace"))

    def _resize(self, name: str, size: int, cell: str) -> None:
        self._sizes[name] = size
        raw = cell.encode("utf-8", "replace")[:127]
        _SLOT.pack_into(self._memory, self._start(name), size, len(raw), raw)

    def _start(self, name: str) -> int:
        return _STREAMS.index(name) * (_SLOT.size + _PENDING_BYTES)


def read_pending(folder: Path) -> list[Record]:
    """Return what a kernel that is gone had printed and not published."""
    try:
        with (folder / _PENDING_FILE).open("rb") as file:
            data = file.read(len(_STREAMS) * (_SLOT.size + _PENDING_BYTES))
    except OSError:
        return []
    records = []
    for name, start in zip(_STREAMS, range(0, len(data) - _SLOT.size, _SLOT.size + _PENDING_BYTES), strict=False):
        size, length, cell = _SLOT.unpack_from(data, start)
        text = data[start + _SLOT.size :][: min(size, _PENDING_BYTES)]
        if text:
            facts = {
                "name": name,
                "cell": cell[:length].decode("utf-8", "replace"),
                "text": text.decode("utf-8", "replace"),
            }
            records.append(Record(RecordKind.PENDING, json.dumps(facts).encode()))
    return records


def read_journal(folder: Path, after: str | None, cell: str | None) -> Iterator[bytes]:
    """Yield the journal's records in pieces, from behind the message ``after``, else from where ``cell`` started.

    Without either it begins where the last cell started. Where the wanted place is not in the journal, a GAP comes
    first and then all there is.
    """
    segments = _segments(folder)
    position = _find(segments, after, cell)
    whole = not segments or segments[0] == _segment(folder, 1)
    if position is None and (not whole or after is not None or cell is not None):
        yield encode_record(Record(RecordKind.GAP))
    first, offset = position or (0, 0)
    for path in segments[first:]:
        yield from _read_segment(path, offset)
        offset = 0


def _find(segments: Sequence[Path], after: str | None, cell: str | None) -> tuple[int, int] | None:
    """Return the segment and offset to read from, or None."""
    found = None
    for index, path in enumerate(segments):
        offset = 0
        for record in _records(path):
            end = offset + HEADER_BYTES + len(record.payload)
            if after is not None:
                if record.kind in (RecordKind.IOPUB, RecordKind.OMITTED) and _is_message(record.payload, after):
                    return index, end
            elif record.kind is RecordKind.STARTED and cell in (None, record.payload.decode("utf-8", "replace")):
                found = (index, offset)
                if cell is not None:
                    return found
            offset = end
    return found


def _is_message(payload: bytes, msg_id: str) -> bool:
    try:
        frames = split_frames(payload)
        header = json.loads(frames[frames.index(DELIMITER) + 2])
        return bool(header["msg_id"] == msg_id)
    except (RemoteProtocolError, ValueError, IndexError, KeyError, TypeError, RecursionError):
        return False


def _records(path: Path) -> Iterator[Record]:
    reader = RecordReader()
    with contextlib.suppress(OSError, RemoteProtocolError):
        for piece in _pieces(path):
            yield from reader.feed(piece)


def _read_segment(path: Path, offset: int) -> Iterator[bytes]:
    """Yield a segment's whole records from ``offset`` on."""
    reader = RecordReader()
    try:
        for piece in _pieces(path, offset):
            if data := b"".join(encode_record(record) for record in reader.feed(piece)):
                yield data
    except (OSError, RemoteProtocolError):  # deleted meanwhile as the oldest, or spoiled
        yield encode_record(Record(RecordKind.GAP))


def _pieces(path: Path, offset: int = 0) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        while piece := file.read(_READ_BYTES):
            yield piece


def _segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.seg"))


def _segment(folder: Path, number: int) -> Path:
    return folder / f"{number:08}.seg"
