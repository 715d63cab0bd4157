"""Tests of ``wire.frames``."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daytona_kernel_interp.wire.frames import (
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    MAX_PAYLOAD_BYTES,
    WIRE_VERSION,
    Frame,
    FrameType,
    decode,
    encode,
)
from daytona_kernel_interp.wire.protocol_errors import LocalProtocolError, RemoteProtocolError

U64 = 2**64 - 1

# These bytes are of wire versions 1 and 2: frames did not change. A change to any of them is another version.
GOLDEN = [
    (Frame(FrameType.DATA, 0, 0, b"x"), "00 0000000000000000 0000000000000000 78"),
    (Frame(FrameType.DATA, 0x0102030405060708, 9, b"\0\xff"), "00 0102030405060708 0000000000000009 00ff"),
    (Frame(FrameType.ACK, 5, U64), "01 0000000000000005 ffffffffffffffff"),
    (Frame(FrameType.FIN, 2**40, 1), "02 0000010000000000 0000000000000001"),
    (Frame(FrameType.HELLO, 0, 0, b"{}"), "03 0000000000000000 0000000000000000 7b7d"),
]


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    """Draw a frame that the format allows."""
    kind = draw(st.sampled_from(FrameType))
    has_payload = kind in (FrameType.DATA, FrameType.HELLO)
    payload = draw(st.binary(min_size=1, max_size=64)) if has_payload else b""
    offset = draw(st.integers(0, U64 - max(len(payload), 1)))
    return Frame(kind, offset, draw(st.integers(0, U64)), payload)


def test_version_is_the_one_that_the_golden_bytes_pin() -> None:
    """A new wire version requires new golden bytes."""
    assert WIRE_VERSION == 2


@pytest.mark.parametrize(("frame", "text"), GOLDEN)
def test_golden_bytes(frame: Frame, text: str) -> None:
    """This wire version has exactly these bytes, in both directions."""
    data = bytes.fromhex(text)
    assert encode(frame) == data
    assert decode(data) == frame


@given(frames())
def test_what_is_encoded_decodes_to_itself(frame: Frame) -> None:
    """A frame is equal after encoding and decoding."""
    assert decode(encode(frame)) == frame


_HEADERS = st.builds(struct.Struct("!BQQ").pack, st.integers(0, 5), st.integers(0, U64), st.integers(0, U64))


@given(st.one_of(st.binary(max_size=64), st.builds(bytes.__add__, _HEADERS, st.binary(max_size=8))))
@example(b"")
@example(bytes(HEADER_BYTES))
def test_any_bytes_are_one_frame_or_refused(data: bytes) -> None:
    """Any bytes decode to the only frame with these bytes, or raise RemoteProtocolError."""
    try:
        frame = decode(data)
    except RemoteProtocolError:
        return
    assert encode(frame) == data


@pytest.mark.parametrize("kind", [FrameType.DATA, FrameType.HELLO])
def test_the_largest_payload_passes(kind: FrameType) -> None:
    """A payload of exactly the limit is encoded and decoded."""
    frame = Frame(kind, 0, 0, bytes(MAX_PAYLOAD_BYTES))
    assert decode(encode(frame)) == frame


def test_a_larger_payload_is_our_fault_when_sent() -> None:
    """One byte over the limit cannot be encoded."""
    with pytest.raises(LocalProtocolError, match=str(MAX_PAYLOAD_BYTES)):
        encode(Frame(FrameType.DATA, 0, 0, bytes(MAX_PAYLOAD_BYTES + 1)))


@pytest.mark.parametrize("size", [0, 1, HEADER_BYTES - 1, MAX_FRAME_BYTES + 1])
def test_a_frame_of_an_impossible_size_is_refused(size: int) -> None:
    """Frames that are shorter than a header or longer than the limit are refused because of their size."""
    with pytest.raises(RemoteProtocolError, match=f"this one {size}"):
        decode(bytes(size))


@pytest.mark.parametrize("kind", [4, 5, 128, 255])
def test_reserved_types_are_refused(kind: int) -> None:
    """An unknown type is refused, and the error names it."""
    with pytest.raises(RemoteProtocolError, match=f"type {kind} "):
        decode(bytes([kind]) + bytes(HEADER_BYTES - 1))


@pytest.mark.parametrize(
    ("kind", "payload"),
    [(FrameType.DATA, b""), (FrameType.HELLO, b""), (FrameType.ACK, b"x"), (FrameType.FIN, b"x")],
)
def test_a_payload_where_none_belongs_is_refused(kind: FrameType, payload: bytes) -> None:
    """DATA and HELLO have a payload; ACK and FIN have none."""
    with pytest.raises(RemoteProtocolError, match=f"{kind.name} frame with {len(payload)} bytes"):
        decode(bytes([kind]) + bytes(HEADER_BYTES - 1) + payload)


@pytest.mark.parametrize(("offset", "fits"), [(U64 - 2, True), (U64 - 1, False), (U64, False)])
def test_an_offset_leaves_room_for_its_payload(offset: int, fits: bool) -> None:
    """No frame ends after the largest 64-bit offset."""
    data = struct.pack("!BQQ", FrameType.DATA, offset, 0) + b"xy"
    if fits:
        assert decode(data).offset == offset
    else:
        with pytest.raises(RemoteProtocolError, match="no room"):
            decode(data)
