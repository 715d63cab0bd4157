"""The frames of the link: one per binary WebSocket message.

Every frame is a 17-byte big-endian header and a payload:

====== ====== ===========================================================
offset  size   field
====== ====== ===========================================================
0       u8     type (:class:`FrameType`)
1       u64    offset: where the payload starts in the sender's stream, in bytes from 0
9       u64    ack: the sender has stored the peer's stream below this offset
17      ...    payload
====== ====== ===========================================================

====== ======= ==========================================================
type    name    meaning
====== ======= ==========================================================
0       DATA    1 to 256 KiB of the stream, starting at ``offset``
1       ACK     no payload; ``ack`` moved, or the sender is alive
2       FIN     no payload; takes one offset: the sender's stream has ended
3       HELLO   relay to host, first frame; payload is JSON (see :mod:`.hello`)
====== ======= ==========================================================

An ACK whose ``ack`` does not advance is a keepalive of the host: the relay replies with an ACK at once.

Versions: 1 had no resume. 2 has generations and resume secrets in the hellos, and ZMTP's handshake is no longer part of
a kernel channel's bytes (:mod:`.zmtp`).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from .protocol_errors import LocalProtocolError, RemoteProtocolError

WIRE_VERSION = 2

# Larger frames do not increase throughput, and an ack or a control message waits behind at most one frame.
MAX_PAYLOAD_BYTES = 256 * 1024

_HEADER = struct.Struct("!BQQ")
HEADER_BYTES = _HEADER.size
MAX_FRAME_BYTES = HEADER_BYTES + MAX_PAYLOAD_BYTES
_MAX_OFFSET = 2**64 - 1


class FrameType(IntEnum):
    """The first byte of a frame. 4 to 255 are reserved; receiving one is a protocol error."""

    DATA = 0
    ACK = 1
    FIN = 2
    HELLO = 3


@dataclass(frozen=True)
class Frame:
    """One frame, to be encoded or just decoded."""

    type: FrameType
    offset: int
    ack: int
    payload: bytes = b""


def encode(frame: Frame) -> bytes:
    """Return the bytes of ``frame``.

    Raises:
        LocalProtocolError: If the payload is larger than :data:`MAX_PAYLOAD_BYTES`.
    """
    if len(frame.payload) > MAX_PAYLOAD_BYTES:
        raise LocalProtocolError(f"a frame carries at most {MAX_PAYLOAD_BYTES} bytes, not {len(frame.payload)}")
    return _HEADER.pack(frame.type, frame.offset, frame.ack) + frame.payload


def decode(data: bytes) -> Frame:
    """Return the frame in ``data``, a complete WebSocket message.

    Raises:
        RemoteProtocolError: If ``data`` is not a frame of this version.
    """
    if not HEADER_BYTES <= len(data) <= MAX_FRAME_BYTES:
        raise RemoteProtocolError(f"a frame has {HEADER_BYTES} to {MAX_FRAME_BYTES} bytes, this one {len(data)}")
    kind, offset, ack = _HEADER.unpack_from(data)
    try:
        frame_type = FrameType(kind)
    except ValueError:
        raise RemoteProtocolError(f"frame type {kind} does not exist in wire version {WIRE_VERSION}") from None
    payload = data[HEADER_BYTES:]
    has_payload = frame_type in (FrameType.DATA, FrameType.HELLO)
    if bool(payload) != has_payload:
        raise RemoteProtocolError(f"{frame_type.name} frame with {len(payload)} bytes of payload")
    if offset + max(len(payload), 1) > _MAX_OFFSET:
        raise RemoteProtocolError(f"offset {offset} leaves no room for the frame")
    return Frame(frame_type, offset, ack, payload)
