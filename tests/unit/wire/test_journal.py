"""Tests of ``wire.journal``: the format of records, and input that is split, truncated or damaged."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.wire import journal
from daytona_kernel_interp.wire.journal import (
    HEADER_BYTES,
    MAX_FRAMES,
    MAX_RECORD_BYTES,
    JournalReader,
    JournalRecord,
    RecordKind,
    encode_record,
    join_frames,
    split_frames,
)
from daytona_kernel_interp.wire.protocol_errors import RemoteProtocolError
from tests.unit import strategies

pytestmark = pytest.mark.python

RECORDS = st.builds(JournalRecord, st.sampled_from(RecordKind), st.binary(max_size=40))


def read(pieces: list[bytes]) -> list[JournalRecord]:
    """Return the whole records in ``pieces``, up to where they are no journal any more."""
    reader, found = JournalReader(), []
    try:
        for piece in pieces:
            for record in reader.feed(piece):
                found.append(record)
    except RemoteProtocolError:
        pass
    return found


def test_golden_bytes() -> None:
    """These bytes are journal version 1."""
    assert encode_record(JournalRecord(RecordKind.STARTED, b"ab")) == b"DKJ\x01\x03\0\0\0\0\0\0\x02ab"
    assert encode_record(JournalRecord(RecordKind.LAST)) == b"DKJ\x01\x06\0\0\0\0\0\0\0"
    assert {kind.name: kind.value for kind in RecordKind} == {
        "IOPUB": 1,
        "OMITTED": 2,
        "STARTED": 3,
        "ENDED": 4,
        "PENDING": 5,
        "LAST": 6,
        "GAP": 7,
        "CONTINUED": 8,
    }
    assert join_frames([b"a", memoryview(b""), b"bc"]) == b"\0\0\0\x01a\0\0\0\0\0\0\0\x02bc"


def test_the_whole_is_bounded() -> None:
    """A journal has at most 64 MB plus the current segment."""
    assert journal.SEGMENT_BYTES * journal.MAX_SEGMENTS == 64 << 20


@given(records=st.lists(RECORDS, max_size=8), places=st.lists(st.integers(0, 500), max_size=8))
def test_records_survive_in_any_pieces(records: list[JournalRecord], places: list[int]) -> None:
    """Records are equal for all ways to split the bytes."""
    assert read(strategies.cut(b"".join(map(encode_record, records)), places)) == records


@given(records=st.lists(RECORDS, min_size=1, max_size=4))
def test_a_torn_record_is_none(records: list[JournalRecord]) -> None:
    """Truncated at any byte, a journal has its complete records, and the rest is ignored."""
    data = b"".join(map(encode_record, records))
    for place in range(len(data)):
        found = read([data[:place]])
        assert found == records[: len(found)]
        assert sum(HEADER_BYTES + len(record.payload) for record in found) <= place
        left = place - sum(HEADER_BYTES + len(record.payload) for record in found)
        assert left < HEADER_BYTES + len(records[len(found)].payload)


@given(
    records=st.lists(RECORDS, min_size=1, max_size=6),
    number=st.integers(0, 5),
    header=st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES),
    places=st.lists(st.integers(0, 500), max_size=4),
)
def test_a_spoiled_header_ends_the_journal(
    records: list[JournalRecord], number: int, header: bytes, places: list[int]
) -> None:
    """Records before garbage are read; after it, at most the record that the garbage's header describes."""
    number %= len(records)
    parts = [encode_record(record) for record in records]
    parts[number] = header + parts[number][HEADER_BYTES:]
    found = read(strategies.cut(b"".join(parts), places))
    assert found[:number] == records[:number]
    if header[:4] != b"DKJ\x01":
        assert len(found) == number


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_any_bytes_are_records_or_refused(pieces: list[bytes]) -> None:
    """Any bytes are records, not larger than the input, or raise RemoteProtocolError."""
    found = read(pieces)
    assert sum(len(encode_record(record)) for record in found) <= sum(map(len, pieces))


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (b"DKJ\x02\x01\0\0\0\0\0\0\0", "another version"),
        (b"GET / HTTP/1", "not a journal"),
        (b"DKJ\x01\x00\0\0\0\0\0\0\0", "unknown kind 0"),
        (b"DKJ\x01\x09\0\0\0\0\0\0\0", "unknown kind 9"),
        (b"DKJ\x01\x01\0\0\0" + struct.pack("!I", MAX_RECORD_BYTES + 1), f"record of {MAX_RECORD_BYTES + 1} bytes"),
        (b"DKJ\x01\x01\0\0\0\xff\xff\xff\xff", "record of 4294967295 bytes"),
    ],
)
def test_a_header_that_is_none_is_refused_at_once(header: bytes, why: str) -> None:
    """The header suffices: no bytes of a record that is too large are buffered."""
    with pytest.raises(RemoteProtocolError, match=why):
        list(JournalReader().feed(header))


def test_a_reader_holds_one_record_at_most() -> None:
    """A journal of any length is read in the memory of its largest record."""
    record = encode_record(JournalRecord(RecordKind.IOPUB, bytes(100_000)))
    reader = JournalReader()
    tracemalloc.start()
    try:
        for _ in range(300):
            for start in range(0, len(record), 30_000):
                list(reader.feed(record[start : start + 30_000]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000  # of 30 MB


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_frames_survive(frames: list[bytes]) -> None:
    """The frames of a message are equal after decoding, including empty ones; a truncated message is refused."""
    payload = join_frames(frames)
    assert split_frames(payload) == frames
    edges = {len(join_frames(frames[:count])) for count in range(len(frames) + 1)}
    for place in range(len(payload)):
        if place in edges:
            assert split_frames(payload[:place]) == frames[: len(split_frames(payload[:place]))]
        else:
            with pytest.raises(RemoteProtocolError, match="do not fit"):
                split_frames(payload[:place])


@given(st.binary(max_size=60))
def test_any_payload_is_frames_or_refused(payload: bytes) -> None:
    """Any payload has frames with exactly its bytes, or is refused."""
    try:
        frames = split_frames(payload)
    except RemoteProtocolError:
        return
    assert join_frames(frames) == payload


def test_a_flood_of_frames_is_refused() -> None:
    """An empty frame takes four bytes on the wire and much more memory."""
    assert len(split_frames(bytes(4 * MAX_FRAMES))) == MAX_FRAMES
    with pytest.raises(RemoteProtocolError, match="do not fit"):
        split_frames(bytes(4 * MAX_FRAMES + 4))
