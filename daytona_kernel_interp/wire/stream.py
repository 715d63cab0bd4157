"""A stream: ordered bytes each way between one local socket and its counterpart on the far side.

Sans-I/O: a shell reads its local socket into :meth:`Stream.write`, sends what :meth:`Stream.frames_to_send`
returns, hands every received WebSocket message to :meth:`Stream.receive`, writes the bytes that come back to its
local socket, and then says :meth:`Stream.delivered`. The same class plays both ends.

Backpressure is end to end. The ack says what reached the far *local socket*, and a sender with
``window_bytes`` unacked stops reading its own (:attr:`Stream.window_open`): a slow reader fills no memory on the way.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import LocalProtocolError, RemoteProtocolError
from .frames import MAX_PAYLOAD_BYTES, Frame, FrameType, decode, encode

if TYPE_CHECKING:
    from collections.abc import Iterator

# 100 MB/s at a round trip of 160 ms; also the most that one stream holds in memory.
WINDOW_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Received:
    """Bytes in order, for the local socket; an empty payload with ``finished`` ends it."""

    payload: bytes = b""
    finished: bool = False


class Stream:
    """Offsets, acks and window of one stream, seen from one end."""

    def __init__(self, *, window_bytes: int = WINDOW_BYTES) -> None:
        self._window_bytes = window_bytes
        self._ack_step = max(1, min(window_bytes // 8, 1024 * 1024))
        self._sent = 0  # offset after the last byte handed out
        self._acked = 0  # the peer's local socket has everything below
        self._received = 0  # expected offset of the peer's next byte
        self._delivered = 0  # our local socket has everything below
        self._ack_sent = 0  # last ack that went out
        self._queue: deque[bytes] = deque()
        self._finished = False
        self._peer_finished = False

    @property
    def window_open(self) -> bool:
        """Whether the local socket may be read: fewer than ``window_bytes`` are unacked."""
        return self._sent - self._acked < self._window_bytes

    @property
    def finished(self) -> bool:
        """Whether both directions have ended and every byte of ours is acked."""
        return self._finished and self._peer_finished and self._acked == self._sent

    @property
    def has_frames(self) -> bool:
        """Whether :meth:`frames_to_send` would return any."""
        return bool(self._queue)

    def write(self, payload: bytes) -> None:
        """Queue bytes that the local socket gave; they go out with the next :meth:`frames_to_send`.

        Raises:
            LocalProtocolError: If the stream was finished, or the payload is empty or exceeds one frame.
        """
        if self._finished or not payload:
            raise LocalProtocolError("write after finish" if self._finished else "write of nothing")
        self._push(FrameType.DATA, payload, len(payload))

    def finish(self) -> None:
        """End our direction; the local socket gave EOF. Saying it twice changes nothing."""
        if not self._finished:
            self._finished = True
            self._push(FrameType.FIN, b"", 1)

    def delivered(self, size: int) -> None:
        """Note that ``size`` more received bytes reached the local socket; an ack may become due.

        Raises:
            LocalProtocolError: If more is claimed than was received.
        """
        if self._delivered + size > self._received:
            raise LocalProtocolError("delivered more than was received")
        self._delivered += size
        due = self._delivered - self._ack_sent
        if due >= self._ack_step or (self._peer_finished and due and self._delivered == self._received):
            self._push(FrameType.ACK, b"", 0)

    def receive(self, message: bytes) -> Iterator[Received]:
        """Take one WebSocket message and yield what it brings for the local socket.

        Bytes that came before are trimmed, so a repeated frame does no harm; a gap cannot be mended.

        Raises:
            RemoteProtocolError: If the frame leaves a gap, acks what was never sent, or follows a FIN.
        """
        frame = decode(message)
        self._take_ack(frame.ack)
        if frame.type is FrameType.DATA:
            yield from self._take_data(frame)
        elif frame.type is FrameType.FIN:
            yield from self._take_fin(frame)
        elif frame.type is FrameType.HELLO:
            raise RemoteProtocolError("a second HELLO")

    def frames_to_send(self) -> list[bytes]:
        """Return the queued frames in order, and forget them."""
        frames = list(self._queue)
        self._queue.clear()
        return frames

    def _push(self, kind: FrameType, payload: bytes, length: int) -> None:
        self._queue.append(encode(Frame(kind, self._sent, self._delivered, payload)))
        self._sent += length
        self._ack_sent = self._delivered

    def _take_ack(self, ack: int) -> None:
        if ack > self._sent:
            raise RemoteProtocolError(f"ack {ack} lies beyond the {self._sent} bytes sent")
        self._acked = max(self._acked, ack)

    def _take_data(self, frame: Frame) -> Iterator[Received]:
        self._check_gap(frame)
        payload = frame.payload[self._received - frame.offset :]
        if payload:
            if self._peer_finished:
                raise RemoteProtocolError("data after FIN")
            self._received += len(payload)
            if self._received - self._delivered > self._window_bytes + MAX_PAYLOAD_BYTES:
                raise RemoteProtocolError(f"the peer sent more than the window of {self._window_bytes} bytes")
            yield Received(payload)

    def _take_fin(self, frame: Frame) -> Iterator[Received]:
        self._check_gap(frame)
        if frame.offset == self._received and not self._peer_finished:
            self._peer_finished = True
            self._received += 1
            yield Received(finished=True)

    def _check_gap(self, frame: Frame) -> None:
        if frame.offset > self._received:
            raise RemoteProtocolError(f"gap: expected offset {self._received}, got {frame.offset}")
