"""The kernel's journal: written here in the kernel, read here in the relay. Format: ``wire/journal.py``.

A message is recorded before it is handed to ZMQ, so whatever reached a host is in the journal, and what did not is too.
What was printed and not yet made into a message stands in shared memory that outlives the process; there it ends in
the very instant in which its message is in the journal, so a death between the two neither loses nor doubles it.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...wire.journal import (
    HEADER_BYTES,
    MAX_FRAMES,
    MAX_RECORD_BYTES,
    MAX_SEGMENTS,
    SEGMENT_BYTES,
    JournalReader,
    JournalRecord,
    RecordKind,
    encode_record,
    join_frames,
    split_frames,
)
from ...wire.protocol_errors import RemoteProtocolError

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

# A stream's place in the shared memory: a ring of text, in front of it what stands in it. Text is counted in bytes from
# the kernel's start on.
_SPAN = struct.Struct("=QQ")  # from where to where its text is in the ring
_CLAIM = struct.Struct("=QIQ")  # up to where it is published, once a segment (its number) has so many bytes
_CELL = struct.Struct("=B127s")  # length and bytes of the cell's msg_id
_CLAIM_AT = _SPAN.size
_CELL_AT = _CLAIM_AT + _CLAIM.size
_RING_AT = _CELL_AT + _CELL.size
_STREAM_BYTES = _RING_AT + _PENDING_BYTES


class JournalWriter:
    """Appends to a journal. Any thread may; a disk that is full costs the journal and nothing else."""

    def __init__(self, folder: Path, pending: PendingText | None = None) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self._folder, self._pending = folder, pending
        self._lock = threading.Lock()
        self._number = 0
        self._fd = -1
        self._size = 0
        self._gap = False
        self._running = b""  # msg_id of the cell that runs
        self._pid = os.getpid()

    def cell_started(self, cell: str) -> None:
        """Record that the kernel took up a cell."""
        self._running = cell.encode("utf-8", "replace")
        self._write(JournalRecord(RecordKind.STARTED, self._running))

    def cell_ended(self, cell: str, content: dict[str, Any], metadata: dict[str, Any]) -> None:
        """Record a cell's execute_reply."""
        payload = _encode_reply(cell, content, metadata)
        if len(payload) > MAX_RECORD_BYTES:  # an error's text has no bound
            payload = _encode_reply(cell, {**{name: content.get(name) for name in _REPLY_FACTS}, **_NO_TEXT}, {})
        self._write(JournalRecord(RecordKind.ENDED, payload))
        self._running = b""

    def message_published(self, frames: Sequence[Any]) -> None:
        """Record a message of iopub, given as its frames; text that this thread announced is pending no longer."""
        if os.getpid() != self._pid:
            return  # a forked child's messages pass through its parent
        claim = None if self._pending is None else self._pending.take_publishing()
        views = [memoryview(frame).cast("B") for frame in frames]
        if sum(map(len, views)) <= MAX_RECORD_BYTES // 2 and len(views) <= MAX_FRAMES:
            self._write(JournalRecord(RecordKind.IOPUB, join_frames(views)), claim)
            return
        start = next((i for i, frame in enumerate(views) if frame == DELIMITER), 0)
        payload = join_frames(views[: start + 5])
        fits = len(payload) <= MAX_RECORD_BYTES
        self._write(JournalRecord(RecordKind.OMITTED, payload) if fits else JournalRecord(RecordKind.GAP), claim)

    def _write(self, record: JournalRecord, claim: PendingPublish | None = None) -> None:
        data = encode_record(record)
        with self._lock:
            try:
                if self._fd < 0 or self._size >= SEGMENT_BYTES:
                    self._next_segment()
                    if self._running and record.kind is not RecordKind.STARTED:
                        data = encode_record(JournalRecord(RecordKind.CONTINUED, self._running)) + data
                if self._gap:
                    data = encode_record(JournalRecord(RecordKind.GAP)) + data
                if claim is not None and self._pending is not None:
                    self._pending.claim(claim, self._number, self._size + len(data))
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


def _encode_reply(cell: str, content: dict[str, Any], metadata: dict[str, Any]) -> bytes:
    facts = {"cell": cell, "content": content, "metadata": metadata}
    return json.dumps(facts, default=str).encode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class PendingPublish:
    """A thread is about to publish a stream's text up to ``end``."""

    thread: int
    name: str
    end: int


class PendingText:
    """Text that was printed and is not published yet, in memory that a process's death does not take away.

    A stream's text is counted in bytes from the kernel's start on. Who adds, takes and publishes text of a stream does
    so under a lock of that stream.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        size = len(_STREAMS) * _STREAM_BYTES
        fd = os.open(folder / _PENDING_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(fd, size)
            self._memory = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        self._starts = dict.fromkeys(_STREAMS, 0)
        self._ends = dict.fromkeys(_STREAMS, 0)
        self._cells = dict.fromkeys(_STREAMS, b"")
        self._overflowed: set[str] = set()
        self._publishing: PendingPublish | None = None

    def add(self, name: str, cell: str, text: str) -> None:
        """Add text. What finds no room is not covered, nor is what follows until :meth:`end_offset`."""
        data = text.encode("utf-8", "replace")
        start, end = self._starts[name], self._ends[name]
        if name in self._overflowed or end - start + len(data) > _PENDING_BYTES:
            self._overflowed.add(name)
            return
        base, place = _base(name), end % _PENDING_BYTES
        first = data[: _PENDING_BYTES - place]
        ring = base + _RING_AT
        self._memory[ring + place : ring + place + len(first)] = first
        self._memory[ring : ring + len(data) - len(first)] = data[len(first) :]
        raw = cell.encode("utf-8", "replace")[:127]
        if raw != self._cells[name]:
            self._cells[name] = raw
            _CELL.pack_into(self._memory, base + _CELL_AT, len(raw), raw)
        self._ends[name] = end + len(data)
        _SPAN.pack_into(self._memory, base, start, end + len(data))  # last: until then the text is not there

    def start(self, name: str) -> int:
        """Return from where on a stream's text is not published."""
        return self._starts[name]

    def end_offset(self, name: str) -> int:
        """Return up to where a stream's text stands here, as all there is of it is taken to be published."""
        self._overflowed.discard(name)
        return self._ends[name]

    def begin_publish(self, name: str, end: int) -> None:
        """Say that what this thread publishes next is a stream's text up to ``end``."""
        self._publishing = PendingPublish(threading.get_ident(), name, min(end, self._ends[name]))

    def take_publishing(self) -> PendingPublish | None:
        """Return what this thread announced, once."""
        announced = self._publishing
        if announced is None or announced.thread != threading.get_ident():
            return None
        self._publishing = None
        return announced

    def claim(self, publishing: PendingPublish, segment: int, size: int) -> None:
        """Have it that the text is published as soon as the journal's ``segment`` has ``size`` bytes."""
        _CLAIM.pack_into(self._memory, _base(publishing.name) + _CLAIM_AT, publishing.end, segment, size)

    def published(self, name: str, end: int) -> None:
        """Drop a stream's text up to ``end``: it is published."""
        self._starts[name] = max(self._starts[name], min(end, self._ends[name]))
        _SPAN.pack_into(self._memory, _base(name), self._starts[name], self._ends[name])


def _base(name: str) -> int:
    return _STREAMS.index(name) * _STREAM_BYTES


def read_pending(folder: Path) -> list[JournalRecord]:
    """Return what a kernel that is gone had printed and not published."""
    try:
        with (folder / _PENDING_FILE).open("rb") as file:
            data = file.read(len(_STREAMS) * _STREAM_BYTES)
    except OSError:
        return []
    records = []
    for name in _STREAMS:
        if text := _pending_text(folder, stream := data[_base(name) :][:_STREAM_BYTES]):
            length, cell = _CELL.unpack_from(stream, _CELL_AT)
            facts = {
                "name": name,
                "cell": cell[:length].decode("utf-8", "replace"),
                "text": text.decode("utf-8", "replace"),
            }
            records.append(JournalRecord(RecordKind.PENDING, json.dumps(facts).encode()))
    return records


def _pending_text(folder: Path, stream: bytes) -> bytes:
    """Return the text in one stream's part of the memory; code in the sandbox may have written anything there."""
    if len(stream) < _STREAM_BYTES:
        return b""
    start, end = _SPAN.unpack_from(stream)
    claimed, segment, size = _CLAIM.unpack_from(stream, _CLAIM_AT)
    if claimed > start and _size(_segment(folder, segment)) >= size:
        start = claimed
    if not start < end <= start + _PENDING_BYTES:
        return b""
    ring, place = stream[_RING_AT:], start % _PENDING_BYTES
    return (ring[place:] + ring[:place])[: end - start]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def read_journal(folder: Path, after: str | None, cell: str | None) -> Iterator[bytes]:
    """Yield the journal's records in pieces, from behind the message ``after``, else from where ``cell`` started.

    Without either it begins where the last cell started. Where the wanted place is not in the journal, a GAP comes
    first and then all there is.
    """
    segments = _segments(folder)
    position = _find(segments, after, cell)
    whole = not segments or segments[0] == _segment(folder, 1)
    if position is None and (not whole or after is not None or cell is not None):
        yield encode_record(JournalRecord(RecordKind.GAP))
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


def _records(path: Path) -> Iterator[JournalRecord]:
    reader = JournalReader()
    with contextlib.suppress(OSError, RemoteProtocolError):
        for piece in _pieces(path):
            yield from reader.feed(piece)


def _read_segment(path: Path, offset: int) -> Iterator[bytes]:
    """Yield a segment's whole records from ``offset`` on."""
    reader = JournalReader()
    try:
        for piece in _pieces(path, offset):
            if data := b"".join(encode_record(record) for record in reader.feed(piece)):
                yield data
    except (OSError, RemoteProtocolError):  # deleted meanwhile as the oldest, or spoiled
        yield encode_record(JournalRecord(RecordKind.GAP))


def _pieces(path: Path, offset: int = 0) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        while piece := file.read(_READ_BYTES):
            yield piece


def _segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.seg"))


def _segment(folder: Path, number: int) -> Path:
    return folder / f"{number:08}.seg"
