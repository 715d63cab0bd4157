"""A stream: ordered bytes in both directions between one local socket and its counterpart at the peer.

Sans-I/O, and the same class at both ends. A stream outlives the WebSockets that carry it; the time on one WebSocket is
an *attachment*. The shell passes bytes from its local socket to :meth:`Stream.write`, sends the frames of
:meth:`Stream.next_frame` while its WebSocket is writable, passes every received message to :meth:`Stream.receive`,
writes the resulting bytes to its local socket, and calls :meth:`Stream.delivered` when that has accepted them.

Sent bytes are kept until the peer acknowledges them. After a WebSocket is lost, both ends exchange the offsets they
have received (the hellos), and :meth:`Stream.attach` continues from there: no byte is lost and none is delivered twice.

Backpressure is end to end. An ack covers what reached the peer's *local socket*, and a sender with ``window_bytes``
unacked bytes stops reading its own (:attr:`Stream.window_open`): neither a slow reader nor an outage can fill more than
one window of memory.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .frames import MAX_PAYLOAD_BYTES, Frame, FrameType, decode, encode
from .protocol_errors import LocalProtocolError, RemoteProtocolError, WindowOverrun

if TYPE_CHECKING:
    from collections.abc import Iterator

# 100 MB/s at a round trip of 160 ms; also the most that one direction of a stream holds in memory.
WINDOW_BYTES = 16 * 1024 * 1024

_NO_BYTES = b""


@dataclass(frozen=True)
class Received:
    """Bytes for the local socket, in order; an empty payload with ``finished`` is its end."""

    payload: bytes = b""
    finished: bool = False


class Stream:
    """One end of a stream: offsets, acks, resending and window."""

    def __init__(self, *, window_bytes: int = WINDOW_BYTES, answers: bool = False) -> None:
        """Create a stream; with ``answers`` a keepalive ACK gets an ACK in reply (the relay's end)."""
        self._window_bytes, self._answers = window_bytes, answers
        self._ack_step = max(1, min(window_bytes // 8, 1024 * 1024))
        self._written = 0  # offset after the last byte from the local socket
        self._acked = 0  # the peer's local socket has received everything below
        self._received = 0  # expected offset of the peer's next byte
        self._delivered = 0  # this end's local socket has received everything below
        self._ack_sent = 0  # last ack sent in this attachment
        self._unacked: deque[tuple[int, bytes]] = deque()  # (offset after it, payload) of what is unacked; FIN is empty
        self._next = 0  # index in _kept of what this attachment sends next
        self._ack_wanted = False
        self._finished = False
        self._peer_finished = False

    @property
    def received(self) -> int:
        """The offset below which the peer's bytes were received; sent in a hello."""
        return self._received

    @property
    def window_open(self) -> bool:
        """Whether the local socket may be read: fewer than ``window_bytes`` bytes are unacked."""
        return self._written - self._acked < self._window_bytes

    @property
    def unacked(self) -> bool:
        """Whether sent bytes are not acknowledged yet."""
        return self._acked < self._written

    @property
    def ack_owed(self) -> bool:
        """Whether an ack to the peer is due; the next frame within 50 ms carries it, else an ACK of its own."""
        return self._delivered > self._ack_sent

    @property
    def undelivered(self) -> int:
        """Number of received bytes that the local socket has not accepted yet."""
        return self._received - self._delivered

    @property
    def both_finished(self) -> bool:
        """Whether both local sockets have reached EOF; acks may still be missing."""
        return self._finished and self._peer_finished

    @property
    def finished(self) -> bool:
        """Whether both directions have ended and every sent byte is acknowledged."""
        return self._finished and self._peer_finished and not self.unacked and self._delivered == self._received

    def write(self, payload: bytes) -> None:
        """Queue bytes from the local socket; :meth:`next_frame` sends them.

        Raises:
            LocalProtocolError: If the stream was finished, or the payload is empty or exceeds one frame.
        """
        if self._finished or not payload:
            raise LocalProtocolError("write after finish" if self._finished else "write of an empty payload")
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise LocalProtocolError(f"a frame carries at most {MAX_PAYLOAD_BYTES} bytes, not {len(payload)}")
        self._written += len(payload)
        self._unacked.append((self._written, payload))

    def finish(self) -> None:
        """End this direction after EOF of the local socket. A second call does nothing."""
        if not self._finished:
            self._finished = True
            self._written += 1
            self._unacked.append((self._written, _NO_BYTES))

    def delivered(self, size: int) -> None:
        """Note that ``size`` more received bytes reached the local socket; an ack may become due.

        Raises:
            LocalProtocolError: If ``size`` exceeds what was received.
        """
        if self._delivered + size > self._received:
            raise LocalProtocolError("delivered more than was received")
        self._delivered += size
        due = self._delivered - self._ack_sent
        at_end = self._peer_finished and due and self._delivered == self._received
        if due >= self._ack_step or at_end:
            self._ack_wanted = True

    def want_ack(self) -> None:
        """Make :meth:`next_frame` send an ACK: one is due, or it serves as a keepalive."""
        self._ack_wanted = True

    def next_frame(self) -> bytes | None:
        """Return the next frame of this attachment, or None if there is nothing to send."""
        if self._next < len(self._unacked):
            end, payload = self._unacked[self._next]
            self._next += 1
            kind = FrameType.DATA if payload else FrameType.FIN
            return self._encode(kind, end - max(1, len(payload)), payload)
        if self._ack_wanted:
            return self._encode(FrameType.ACK, self._written, _NO_BYTES)
        return None

    def receive(self, message: bytes) -> Iterator[Received]:
        """Process one WebSocket message and yield the bytes for the local socket.

        Bytes received before are trimmed, so a repeated frame is harmless; a gap is an error.

        Raises:
            RemoteProtocolError: If the frame leaves a gap, acks what was never sent, or follows a FIN.
            WindowOverrun: If the peer sent more than the window.
        """
        frame = decode(message)
        if self._answers and frame.type is FrameType.ACK and frame.ack <= self._acked:
            self._ack_wanted = True
        self._take_ack(frame.ack)
        if frame.type is FrameType.DATA:
            yield from self._take_data(frame)
        elif frame.type is FrameType.FIN:
            yield from self._take_fin(frame)
        elif frame.type is FrameType.HELLO:
            raise RemoteProtocolError("a second HELLO")

    def attach(self, peer_received: int) -> None:
        """Begin an attachment with a peer that has received everything below ``peer_received``.

        The remaining bytes are sent again, from the start of the frame in which the peer stopped.

        Raises:
            RemoteProtocolError: If the offset lies beyond what was written, or below what the peer has acked.
        """
        if not self._acked <= peer_received <= self._written:
            raise RemoteProtocolError(
                f"the peer resumes at offset {peer_received}; kept are {self._acked} to {self._written}"
            )
        self._next = 0
        while self._next < len(self._unacked) and self._unacked[self._next][0] <= peer_received:
            self._next += 1
        self._ack_sent, self._ack_wanted = 0, self._delivered > 0

    def _encode(self, kind: FrameType, offset: int, payload: bytes) -> bytes:
        self._ack_sent, self._ack_wanted = self._delivered, False
        return encode(Frame(kind, offset, self._delivered, payload))

    def _take_ack(self, ack: int) -> None:
        if ack > self._written:
            raise RemoteProtocolError(f"ack {ack} lies beyond the {self._written} bytes sent")
        if ack <= self._acked:
            return
        self._acked = ack
        while self._unacked and self._unacked[0][0] <= ack:
            self._unacked.popleft()
            self._next = max(0, self._next - 1)

    def _take_data(self, frame: Frame) -> Iterator[Received]:
        self._check_gap(frame)
        payload = frame.payload[self._received - frame.offset :]
        if payload:
            if self._peer_finished:
                raise RemoteProtocolError("data after FIN")
            if self.undelivered + len(payload) > self._window_bytes + MAX_PAYLOAD_BYTES:
                raise WindowOverrun(f"the peer sent more than the window of {self._window_bytes} bytes")
            self._received += len(payload)
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
