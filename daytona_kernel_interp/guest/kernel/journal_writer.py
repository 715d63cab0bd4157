"""The kernel's journal, as the kernel writes it; ``guest.relay.journal_reader`` reads it. Format: ``wire/journal.py``.

A host whose link could not resume reads from the journal what it missed, so every message must be in it: a message is
recorded before it is given to ZMQ. What the journal must survive is the death of the kernel at any instruction.

*Records.* One ``write`` appends one record, so a record in the file is complete or the last one. Segments are deleted
from the oldest on; the first record of a new segment says which cell is running. A record that could not be written
leaves a gap, and a GAP record precedes the next one. The cell never sees an error.

*Text that is in no message yet.* Printed text waits up to 20 ms in a buffer of the process. ``PendingText`` has a copy
in a mapped file, which the operating system keeps when the process is killed. Publishing takes three steps::

    1. announce   this thread publishes the stream's text up to position `end`
    2. claim      before the record is written: the text up to `end` counts as published
                  as soon as segment N has S bytes, which is what the write below makes true
    3. write      the record of the message, then `published` moves the start of the text

A reader compares the claim with the size of the segment. If the process dies before step 3, the text is pending and in
no record; after it, in a record and not pending. There is no moment in which text is lost or repeated.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...wire.journal import (
    MAX_FRAMES,
    MAX_RECORD_BYTES,
    MAX_SEGMENTS,
    SEGMENT_BYTES,
    JournalRecord,
    RecordKind,
    encode_record,
    join_frames,
)
from ..journal_files import (
    CELL,
    CELL_OFFSET,
    CLAIM,
    CLAIM_OFFSET,
    MESSAGE_DELIMITER,
    PENDING_BYTES,
    PENDING_FILE,
    PIPE_READ_BYTES,
    READ_OFFSET,
    RING_OFFSET,
    SPAN,
    STREAM_BYTES,
    STREAMS,
    segment_path,
    stream_offset,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_to_json = json.dumps  # as it is before any cell: code may replace it
_REPLY_FACTS = ("status", "execution_count", "ename")
_NO_TEXT = {"evalue": "(too large for the journal)", "traceback": []}


class JournalWriter:
    """Appends records to a journal. Thread-safe. After a write error, such as a full disk, the journal has a gap."""

    def __init__(self, folder: Path, pending: PendingText | None = None) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self._folder, self._pending = folder, pending
        self._lock = threading.Lock()
        self._number = 0
        self._fd = -1
        self._size = 0
        self._gap = False
        self._running = b""  # msg_id of the running cell
        self._pid = os.getpid()

    def cell_started(self, cell: str) -> None:
        """Record the start of a cell."""
        self._running = cell.encode("utf-8", "replace")
        self._write(JournalRecord(RecordKind.STARTED, self._running))

    def cell_ended(self, cell: str, content: Mapping[str, object], metadata: Mapping[str, object]) -> None:
        """Record a cell's execute_reply."""
        payload = _encode_reply(cell, content, metadata)
        if len(payload) > MAX_RECORD_BYTES:  # the text of an error is not bounded
            payload = _encode_reply(cell, {**{name: content.get(name) for name in _REPLY_FACTS}, **_NO_TEXT}, {})
        self._write(JournalRecord(RecordKind.ENDED, payload))
        self._running = b""

    def message_published(self, frames: Sequence[Any]) -> None:
        """Record an iopub message, given as its frames. Text that this thread has announced counts as published."""
        if os.getpid() != self._pid:
            return  # the parent publishes the messages of a forked child
        claim = None if self._pending is None else self._pending.take_publishing()
        views = [memoryview(frame).cast("B") for frame in frames]  # frames may be of any buffer type
        if sum(map(len, views)) <= MAX_RECORD_BYTES // 2 and len(views) <= MAX_FRAMES:
            self._write(JournalRecord(RecordKind.IOPUB, join_frames(views)), claim)
            return
        start = next((i for i, frame in enumerate(views) if frame == MESSAGE_DELIMITER), 0)
        payload = join_frames(views[: start + 5])  # up to the metadata: without content and buffers
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
                if claim is not None and self._pending is not None:  # before the write, which makes it true
                    self._pending.claim(claim, self._number, self._size + len(data))
                written = os.write(self._fd, data)
                self._size += written
                if written < len(data):
                    raise OSError("short write")
                self._gap = False
            except OSError:
                # The segment may end in a part of a record, after which nothing can be read: begin another one.
                self._gap = True
                if self._fd >= 0:
                    os.close(self._fd)
                    self._fd = -1

    def _next_segment(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._number += 1
        self._fd = os.open(segment_path(self._folder, self._number), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._size = 0
        with contextlib.suppress(OSError):
            os.unlink(segment_path(self._folder, self._number - MAX_SEGMENTS - 1))


def _encode_reply(cell: str, content: Mapping[str, object], metadata: Mapping[str, object]) -> bytes:
    facts = {"cell": cell, "content": content, "metadata": metadata}
    return _to_json(facts, default=str).encode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class PendingPublish:
    """An announcement: ``thread`` publishes a stream's text up to ``end`` next."""

    thread: int
    name: str
    end: int


class PendingText:
    """Printed text that is not published yet, in memory that outlives the process. Layout: ``guest/journal_files.py``.

    Positions count the bytes of a stream since the kernel started. Callers hold a lock for the stream.

    Raises:
        OSError: If the disk has no room for it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        size = len(STREAMS) * STREAM_BYTES
        fd = os.open(folder / PENDING_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            # Reserve the blocks: on a full disk, a first write to a page of a file with holes is SIGBUS, not an error.
            reserve = getattr(os, "posix_fallocate", lambda fd, offset, size: os.ftruncate(fd, size))
            reserve(fd, 0, size)
            self._memory = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        self._starts = dict.fromkeys(STREAMS, 0)
        self._ends = dict.fromkeys(STREAMS, 0)
        self._cells = dict.fromkeys(STREAMS, b"")
        self._overflowed: set[str] = set()
        self._publishing: PendingPublish | None = None

    def add(self, name: str, cell: str, text: str) -> None:
        """Add text. After text that finds no room, further text is ignored until :meth:`end_offset`."""
        data = text.encode("utf-8", "replace")
        start, end = self._starts[name], self._ends[name]
        if name in self._overflowed or end - start + len(data) > PENDING_BYTES:
            # Positions must stay those of the stream: text after a hole would get the positions of the missing text.
            self._overflowed.add(name)
            return
        base, place = stream_offset(name), end % PENDING_BYTES
        first = data[: PENDING_BYTES - place]
        ring = base + RING_OFFSET
        self._memory[ring + place : ring + place + len(first)] = first
        self._memory[ring : ring + len(data) - len(first)] = data[len(first) :]
        raw = cell.encode("utf-8", "replace")[:127]
        if raw != self._cells[name]:
            self._cells[name] = raw
            CELL.pack_into(self._memory, base + CELL_OFFSET, len(raw), raw)
        self._ends[name] = end + len(data)
        SPAN.pack_into(self._memory, base, start, end + len(data))  # last: only then the text counts

    def read_pipe(self, name: str, fd: int, most: int) -> bytes:
        """Read at most ``most`` bytes of a stream's pipe into this memory, and return them.

        The process may die before it has processed them. They stay in this memory until :meth:`pipe_read_done`.
        """
        at = stream_offset(name) + READ_OFFSET
        with memoryview(self._memory) as memory, memory[at : at + min(most, PIPE_READ_BYTES)] as room:
            size = os.readv(fd, [room])
        return self._memory[at : at + size]

    def pipe_read_done(self, name: str, size: int) -> None:
        """Drop the ``size`` bytes read from a stream's pipe: :meth:`add` has been called with their text."""
        at = stream_offset(name) + READ_OFFSET
        self._memory[at : at + size] = bytes(size)

    def start(self, name: str) -> int:
        """Return the position from which a stream's text is not published."""
        return self._starts[name]

    def end_offset(self, name: str) -> int:
        """Return the end of a stream's text. Call it when all of the stream's text is taken out to be published."""
        self._overflowed.discard(name)
        return self._ends[name]

    def begin_publish(self, name: str, end: int) -> None:
        """Announce that this thread publishes a stream's text up to ``end`` next."""
        self._publishing = PendingPublish(threading.get_ident(), name, min(end, self._ends[name]))

    def take_publishing(self) -> PendingPublish | None:
        """Return and remove this thread's announcement."""
        announced = self._publishing
        if announced is None or announced.thread != threading.get_ident():
            return None
        self._publishing = None
        return announced

    def claim(self, publishing: PendingPublish, segment: int, size: int) -> None:
        """Let the text count as published once the journal's ``segment`` has ``size`` bytes."""
        CLAIM.pack_into(self._memory, stream_offset(publishing.name) + CLAIM_OFFSET, publishing.end, segment, size)

    def published(self, name: str, end: int) -> None:
        """Drop a stream's text up to ``end``, which is published."""
        self._starts[name] = max(self._starts[name], min(end, self._ends[name]))
        SPAN.pack_into(self._memory, stream_offset(name), self._starts[name], self._ends[name])
