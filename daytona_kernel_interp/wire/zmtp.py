"""ZMTP's handshake, answered at each end of a stream so that it costs no round trip through the link.

A ZMQ peer sends a greeting and a READY command and waits for the other's before its first message: two round trips on a
new connection. The host's end plays the kernel to the connecting client (:class:`AcceptingEnd`), the relay's end plays
the client to the kernel (:class:`ConnectingEnd`). The client's own READY travels as the stream's first bytes, because
it contains the client's identity; the kernel's greeting and READY end at the relay.

Both ends announce ZMTP 3.0, so both peers use 3.0 even if they support a later version (3.1 sends subscriptions as
commands, 3.0 as messages). Only the NULL mechanism is possible: CURVE authenticates the real peers.

Greeting (ZMTP 3.1 specification, 64 bytes): ``FF 00*8 7F``, version major and minor, mechanism in 20 bytes padded with
zeros, as-server, 31 zeros. A command: a flags byte (4, or 6 with a length of eight bytes), its length, then a name with
its length and properties; READY has ``Socket-Type``. A message is frames: a flags byte (1: more frames follow, 2: its
length has eight bytes), its length, and so many bytes.
"""

from __future__ import annotations

import struct

from .protocol_errors import RemoteProtocolError

GREETING_BYTES = 64
_GREETING = b"\xff" + bytes(8) + b"\x7f" + bytes((3, 0)) + b"NULL".ljust(20, b"\0") + bytes(32)
_MAX_READY_BYTES = 4096
_COMMAND, _LONG_COMMAND = 4, 6
_MORE, _LONG = 1, 2
_FRAME_BYTES = 256  # memory that a frame costs its receiver beside its bytes

# The kernel's socket type on each channel (Jupyter messaging spec, "Introduction").
SOCKET_TYPES = {"shell": b"ROUTER", "control": b"ROUTER", "stdin": b"ROUTER", "iopub": b"PUB", "hb": b"ROUTER"}


def ready(socket_type: bytes) -> bytes:
    """Return a READY command with ``socket_type``."""
    body = b"\x05READY\x0bSocket-Type" + struct.pack("!I", len(socket_type)) + socket_type
    return bytes((_COMMAND, len(body))) + body


class MessageMeter:
    """Measures the messages in a stream and refuses one that is too large.

    ``ZMQ_MAXMSGSIZE`` limits each frame only, and libzmq delivers a message once it has all frames, of which a message
    can have any number.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._size = 0  # size of the current message, as far as its frames were announced
        self._skip = 0  # bytes of the current frame that have not arrived
        self._header = b""

    def receive(self, data: bytes) -> None:
        """Process the next bytes.

        Raises:
            RemoteProtocolError: If they announce a message that exceeds the limit.
        """
        place = 0
        while place < len(data):
            if self._skip:
                step = min(self._skip, len(data) - place)
                self._skip -= step
                place += step
                continue
            flags = (self._header or data[place : place + 1])[0]
            header_bytes = 9 if flags & _LONG else 2
            came = data[place : place + header_bytes - len(self._header)]
            self._header += came
            place += len(came)
            if len(self._header) == header_bytes:
                self._begin_frame()

    def _begin_frame(self) -> None:
        flags, size = self._header[0], int.from_bytes(self._header[1:], "big")
        self._header, self._skip = b"", size
        self._size += size + _FRAME_BYTES
        if self._size > self._limit_bytes:
            raise RemoteProtocolError(f"a message has more than {self._limit_bytes} bytes")
        if not flags & _MORE:
            self._size = 0


class AcceptingEnd:
    """The kernel's part of the handshake, towards a client of ``channel``.

    No message to the client may exceed ``limit_bytes``.
    """

    def __init__(self, channel: str, limit_bytes: int | None = None) -> None:
        self._meter = None if limit_bytes is None else MessageMeter(limit_bytes)
        self.opening = _GREETING + ready(SOCKET_TYPES[channel])  # to be written as soon as the client has connected
        self._greeting = b""

    def receive(self, data: bytes) -> bytes:
        """Process bytes of the client; return those that belong to the stream: everything after its greeting.

        Raises:
            RemoteProtocolError: If the client does not speak ZMTP 3 with the NULL mechanism.
        """
        missing = GREETING_BYTES - len(self._greeting)
        if missing > 0:
            self._greeting += data[:missing]
            if len(self._greeting) == GREETING_BYTES:
                check_greeting(self._greeting)
        return data[max(0, missing) :]

    def send(self, data: bytes) -> bytes:
        """Process bytes of the stream; return those that may be written. The client has sent its READY before.

        Raises:
            RemoteProtocolError: If they announce a message that is too large.
        """
        if self._meter is not None:
            self._meter.receive(data)
        return data

    def release(self) -> bytes:
        """Return what :meth:`send` kept back and may be written now."""
        return b""

    held = 0  # bytes that `send` holds


class ConnectingEnd:
    """The client's part of the handshake, towards the kernel. The stream's first bytes are the client's READY.

    Later bytes are held until the kernel's READY has arrived: libzmq treats a message that arrives before it has sent
    its own READY as a violation of the handshake and closes the connection.
    """

    opening = _GREETING

    def __init__(self) -> None:
        self._seen = b""
        self._left = -1  # bytes of the kernel's greeting and READY still to come; -1: not known yet
        self._held = bytearray()
        self._ready_sent = False

    @property
    def held(self) -> int:
        """The number of bytes that :meth:`send` holds."""
        return len(self._held)

    def send(self, data: bytes) -> bytes:
        """Process bytes of the stream; return those that may be written now.

        Raises:
            RemoteProtocolError: If they do not begin with a READY.
        """
        if self._left == 0 and not self._held:
            return data
        self._held += data
        if self._ready_sent:
            return b""
        size = _ready_size(self._held)
        if size < 0 or len(self._held) < size:
            return b""
        self._ready_sent = True
        if self._left == 0:  # the kernel was first and sends nothing more that would release the rest
            return self.release()
        first = bytes(self._held[:size])
        del self._held[:size]
        return first

    def release(self) -> bytes:
        """Return what :meth:`send` kept back and may be written now."""
        if self._left != 0 or not self._ready_sent:
            return b""
        rest, self._held = bytes(self._held), bytearray()
        return rest

    def receive(self, data: bytes) -> bytes:
        """Process bytes of the kernel; return those that belong to the stream: everything after its READY.

        Raises:
            RemoteProtocolError: If the kernel does not speak ZMTP 3 with the NULL mechanism, or answers with an ERROR.
        """
        if self._left == 0:
            return data
        self._seen += data
        if self._left < 0:
            self._read_header()
        if self._left < 0 or len(self._seen) < self._left:
            return b""
        rest = self._seen[self._left :]
        self._seen, self._left = b"", 0
        return rest

    def _read_header(self) -> None:
        if len(self._seen) < GREETING_BYTES:
            return
        check_greeting(self._seen[:GREETING_BYTES])
        size = _ready_size(self._seen[GREETING_BYTES:])
        if size > 0:
            self._left = GREETING_BYTES + size


def _ready_size(data: bytes | bytearray) -> int:
    """Return the size of the READY at the start of ``data``, or -1 if too few bytes have arrived.

    Raises:
        RemoteProtocolError: If ``data`` does not begin with a READY.
    """
    if data and data[0] not in (_COMMAND, _LONG_COMMAND):
        raise RemoteProtocolError("a ZMTP peer sent another command instead of READY")
    if not data or len(data) < (2 if data[0] == _COMMAND else 9):
        return -1
    start = 2 if data[0] == _COMMAND else 9
    size = data[1] if start == 2 else int.from_bytes(data[1:9], "big")
    if size > _MAX_READY_BYTES:
        raise RemoteProtocolError(f"a ZMTP peer's READY has {size} bytes")
    if len(data) < start + 6:
        return -1
    if data[start : start + 6] != b"\x05READY":
        raise RemoteProtocolError("a ZMTP peer refused the handshake")
    return start + size


def check_greeting(greeting: bytes) -> None:
    """Check that a peer speaks ZMTP 3 with the NULL mechanism.

    Raises:
        RemoteProtocolError: If not.
    """
    if greeting[0] != 0xFF or greeting[9] != 0x7F or greeting[10] < 3:
        raise RemoteProtocolError("the local peer does not speak ZMTP 3")
    if greeting[12:32].rstrip(b"\0") != b"NULL":
        raise RemoteProtocolError("only ZMTP's NULL mechanism is supported: disable CURVE")
