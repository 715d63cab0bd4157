"""The journal: a file in the sandbox of what a kernel published and how its cells ended.

The kernel writes it in its own iopub path, before a message goes to ZMQ; the relay reads it for a host whose link could
not resume. Code in the sandbox can change it, so it is not proof; messages in it keep their signatures.

A journal is a folder of segments, ``00000001.seg`` and so on; the oldest go when the whole exceeds its bound. A segment
is a sequence of records, each a 12-byte big-endian header and its payload:

====== ====== ===========================================================
offset  size   field
====== ====== ===========================================================
0       u32    magic, "DKJ" and the version
4       u8     kind (:class:`RecordKind`)
5       3      zero
8       u32    length of the payload in bytes
12      ...    payload
====== ====== ===========================================================

========= ========= =============================================================================
kind      name      payload
========= ========= =============================================================================
1         IOPUB     a message's frames as sent, each with its length (u32) before it
2         OMITTED   the same for a message too large to be kept, without its content and buffers
3         STARTED   ``msg_id`` of a cell, UTF-8: the cell was started
4         ENDED     JSON: ``cell`` (msg_id), ``content`` and ``metadata`` of its execute_reply
5         PENDING   text that was printed and not yet published when the kernel ended: JSON with
                    ``name`` (stdout, stderr), ``cell`` and ``text``; made by the relay
6         LAST      empty; made by the relay: the journal is complete up to here
7         GAP       empty; earlier records are missing in the journal
8         CONTINUED ``msg_id`` of the cell that ran when its segment began
========= ========= =============================================================================

A record truncated by a crash ends its segment.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from .protocol_errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MAGIC = int.from_bytes(b"DKJ\x01", "big")
_HEADER = struct.Struct("!IBxxxI")
HEADER_BYTES = _HEADER.size
_SIZE = struct.Struct("!I")

SEGMENT_BYTES = 8 << 20
MAX_SEGMENTS = 8  # 64 MB in total, plus the segment that is being written
MAX_RECORD_BYTES = 16 << 20
MAX_FRAMES = 4096


class RecordKind(IntEnum):
    """The kind of a record; see the table above."""

    IOPUB = 1
    OMITTED = 2
    STARTED = 3
    ENDED = 4
    PENDING = 5
    LAST = 6
    GAP = 7
    CONTINUED = 8


@dataclass(frozen=True)
class JournalRecord:
    """One record."""

    kind: RecordKind
    payload: bytes = b""


def encode_record(record: JournalRecord) -> bytes:
    """Return the bytes of ``record``."""
    return _HEADER.pack(_MAGIC, record.kind, len(record.payload)) + record.payload


def join_frames(frames: Sequence[bytes | memoryview]) -> bytes:
    """Return the payload of an IOPUB record for a message's frames."""
    parts: list[bytes | memoryview] = []
    for frame in frames:
        parts += (_SIZE.pack(len(frame)), frame)
    return b"".join(parts)


def split_frames(payload: bytes) -> list[bytes]:
    """Return the frames in an IOPUB record's payload.

    Raises:
        RemoteProtocolError: If the lengths do not match the payload.
    """
    frames: list[bytes] = []
    position = 0
    while position < len(payload):
        if position + _SIZE.size > len(payload) or len(frames) >= MAX_FRAMES:
            raise RemoteProtocolError("a journal record whose frames do not fit")
        (size,) = _SIZE.unpack_from(payload, position)
        position += _SIZE.size
        if position + size > len(payload):
            raise RemoteProtocolError("a journal record whose frames do not fit")
        frames.append(payload[position : position + size])
        position += size
    return frames


class JournalReader:
    """Splits bytes into records. Sans-I/O."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[JournalRecord]:
        """Yield the records that ``data`` completes.

        Raises:
            RemoteProtocolError: If the data is not a journal of this version, or a record is too large.
        """
        self._data += data
        position = 0
        try:
            while len(self._data) - position >= HEADER_BYTES:
                kind, size = self._header(position)
                end = position + HEADER_BYTES + size
                if end > len(self._data):
                    return
                yield JournalRecord(kind, bytes(self._data[position + HEADER_BYTES : end]))
                position = end
        finally:
            del self._data[:position]

    def _header(self, position: int) -> tuple[RecordKind, int]:
        magic, kind, size = _HEADER.unpack_from(self._data, position)
        if magic != _MAGIC:
            raise RemoteProtocolError("not a journal, or one of another version")
        if size > MAX_RECORD_BYTES:
            raise RemoteProtocolError(f"a journal record of {size} bytes")
        try:
            return RecordKind(kind), size
        except ValueError:
            raise RemoteProtocolError(f"a journal record of unknown kind {kind}") from None
