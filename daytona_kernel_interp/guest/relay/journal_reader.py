"""Read a kernel's journal for a host, and the text that a dead kernel had printed and not published.

Code in the sandbox can write anything into these files. Whatever they contain, reading ends, takes memory in proportion
to their size, and yields whole records. ``wire.journal`` is the record format, ``guest.journal_files`` the files.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING

from ...wire.journal import (
    HEADER_BYTES,
    JournalReader,
    JournalRecord,
    RecordKind,
    encode_record,
    split_frames,
)
from ...wire.protocol_errors import RemoteProtocolError
from ..journal_files import (
    CELL,
    CELL_OFFSET,
    CLAIM,
    CLAIM_OFFSET,
    MESSAGE_DELIMITER,
    PENDING_BYTES,
    PENDING_FILE,
    READ_OFFSET,
    RING_OFFSET,
    SPAN,
    STREAM_BYTES,
    STREAMS,
    UNREAD_BYTES,
    segment_path,
    segment_paths,
    stream_offset,
    unread_path,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_READ_BYTES = 256 * 1024
_STARTS = (RecordKind.STARTED, RecordKind.CONTINUED)


class Journal:
    """The journal of one kernel, read from its folder. The kernel may write it at the same time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, after: str | None, cell: str | None) -> Iterator[bytes]:
        """Yield encoded records from after the message ``after``, or else from the start of ``cell``.

        With neither, start where the last cell started. Where the requested position is not in the journal, yield a
        GAP and then the whole journal.
        """
        segments = segment_paths(self._folder)
        position = _find(segments, after, cell)
        complete = not segments or segments[0] == segment_path(self._folder, 1)
        if position is None and (not complete or after is not None or cell is not None):
            yield encode_record(JournalRecord(RecordKind.GAP))
        first, offset = position or (0, 0)
        for path in segments[first:]:
            yield from _read_segment(path, offset)
            offset = 0

    def pending(self) -> list[JournalRecord]:
        """Return the text that the kernel printed and did not publish, as PENDING records.

        A stream has up to two: text that the process had not published, then output in its pipe that it had not read.
        Call it after the kernel has ended: text that a live kernel is publishing may be in both places.
        """
        data = _read_start(self._folder / PENDING_FILE, len(STREAMS) * STREAM_BYTES)
        records = []
        for name in STREAMS:
            part = data[stream_offset(name) :][:STREAM_BYTES]
            if text := self._pending_text(part):
                length, cell = CELL.unpack_from(part, CELL_OFFSET)
                records.append(_pending_record(name, cell[:length], text))
            if text := _read_start(unread_path(self._folder, name), UNREAD_BYTES):
                records.append(_pending_record(name, self._running_cell(), text))
        return records

    def save_unread(self, name: str, pipe_fd: int) -> bytes:
        """Save and return the output of a dead kernel's stream that no text was made of, from the pipe and its buffer.

        The pipe must not block. A process that left the kernel's group may still write to it.
        """
        buffer = _read_start(self._folder / PENDING_FILE, len(STREAMS) * STREAM_BYTES)[stream_offset(name) :]
        data = buffer[READ_OFFSET:STREAM_BYTES].rstrip(b"\0")
        with contextlib.suppress(OSError):
            while len(data) < UNREAD_BYTES and (piece := os.read(pipe_fd, _READ_BYTES)):
                data += piece
        if data:
            with contextlib.suppress(OSError):
                unread_path(self._folder, name).write_bytes(data)
        return data

    def _running_cell(self) -> bytes:
        """Return the id of the cell that started last."""
        for path in reversed(segment_paths(self._folder)):
            starts = [record.payload for record in _records(path) if record.kind in _STARTS]
            if starts:
                return starts[-1]
        return b""

    def _pending_text(self, part: bytes) -> bytes:
        """Return the text in one stream's part of the file."""
        if len(part) < STREAM_BYTES:
            return b""
        start, end = SPAN.unpack_from(part)
        claimed, segment, size = CLAIM.unpack_from(part, CLAIM_OFFSET)
        if claimed > start and _file_size(segment_path(self._folder, segment)) >= size:
            start = claimed
        if not start < end <= start + PENDING_BYTES:
            return b""
        ring, place = part[RING_OFFSET:READ_OFFSET], start % PENDING_BYTES
        return (ring[place:] + ring[:place])[: end - start]


def _find(segments: Sequence[Path], after: str | None, cell: str | None) -> tuple[int, int] | None:
    """Return the index of the segment and the offset to read from, or None if the journal has no such position."""
    found = None
    for index, path in enumerate(segments):
        offset = 0
        for record in _records(path):
            end = offset + HEADER_BYTES + len(record.payload)
            if after is not None:
                if record.kind in (RecordKind.IOPUB, RecordKind.OMITTED) and _has_id(record.payload, after):
                    return index, end
            elif record.kind is RecordKind.STARTED and cell in (None, record.payload.decode("utf-8", "replace")):
                found = (index, offset)
                if cell is not None:
                    return found
            offset = end
    return found


def _has_id(payload: bytes, msg_id: str) -> bool:
    """Return whether a recorded message has this ``msg_id``; the payload may be anything."""
    try:
        frames = split_frames(payload)
        header = json.loads(frames[frames.index(MESSAGE_DELIMITER) + 2])
        return bool(header["msg_id"] == msg_id)
    except (RemoteProtocolError, ValueError, IndexError, KeyError, TypeError, RecursionError):
        return False


def _records(path: Path) -> Iterator[JournalRecord]:
    """Yield a segment's records up to the first invalid byte."""
    reader = JournalReader()
    with contextlib.suppress(OSError, RemoteProtocolError):
        for piece in _pieces(path):
            yield from reader.feed(piece)


def _read_segment(path: Path, offset: int) -> Iterator[bytes]:
    """Yield a segment's complete records from ``offset`` on."""
    reader = JournalReader()
    try:
        for piece in _pieces(path, offset):
            if data := b"".join(encode_record(record) for record in reader.feed(piece)):
                yield data
    except (OSError, RemoteProtocolError):  # the kernel deleted it as the oldest, or its bytes are invalid
        yield encode_record(JournalRecord(RecordKind.GAP))


def _pieces(path: Path, offset: int = 0) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        while piece := file.read(_READ_BYTES):
            yield piece


def _read_start(path: Path, size: int) -> bytes:
    """Return at most ``size`` bytes of a file; none if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError:
        return b""


def _pending_record(name: str, cell: bytes, text: bytes) -> JournalRecord:
    content = {"name": name, "cell": cell.decode("utf-8", "replace"), "text": text.decode("utf-8", "replace")}
    return JournalRecord(RecordKind.PENDING, json.dumps(content).encode())


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
