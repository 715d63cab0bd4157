"""The WebSockets that carry streams, based on the `websockets` library.

`websockets` does the handshake, the framing, TLS and proxies. Its ``send()`` and ``recv()`` cost a task switch and
three coroutines per message, so they are bypassed: messages are handed over as they are parsed, and written without
waiting while the transport is writable. All private names of the library that this needs are used in this module only.

A peer may be hostile. The library limits the size of a message, but not the number of its fragments, nor of pings,
which cost the event loop as much as messages. Both are limited while a chunk is parsed, because one chunk can have
100,000 of them. A peer that does not close after a protocol error is cut off.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Protocol

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import InvalidStatus, ProtocolError
from websockets.frames import DATA_OPCODES, Frame, Opcode
from websockets.protocol import State

from ..wire.frames import MAX_FRAME_BYTES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from websockets.http11 import Request, Response

__all__ = ["PEER_AT_FAULT", "InvalidStatus", "Socket", "SocketSink", "connect_socket", "serve_sockets"]

# At level DEBUG websockets logs the headers of an upgrade, which contain secrets.
_silent_logger = logging.getLogger(f"{__name__}.websockets")
_silent_logger.setLevel(logging.INFO)

LOST = 1006  # RFC 6455 §7.4.1: closed without a close frame
# RFC 6455 §7.4.1: codes with which websockets closes a connection itself: protocol error, invalid text, too large.
PEER_AT_FAULT = frozenset({1002, 1007, 1009})
_WRITE_BUFFER_BYTES = 512 * 1024  # two frames: the next is ready while one is written
_CLOSE_S = 1.0
# A proxy may split a message; one with a buffer of 1 KiB or more stays below this number.
_FRAGMENTS, _FRAGMENT_BYTES = 64, 1024
_CONTROL_FRAMES = 256  # in one chunk of at most 256 KiB; a peer sends one ping in several seconds


class SocketSink(Protocol):
    """The receiver of a socket's events."""

    def message(self, socket: Socket, data: bytes | None) -> None:
        """Process one binary message; None stands for a text message."""

    def writable(self, socket: Socket) -> None:
        """Note that the socket is writable again."""

    def lost(self, socket: Socket, code: int, reason: str) -> None:
        """Note that the socket is closed: the peer's close code, one of :data:`PEER_AT_FAULT`, or :data:`LOST`."""


class Socket(Protocol):
    """One WebSocket, as the carriers of streams use it."""

    heard_at: float  # loop time of the last received byte

    @property
    def writable(self) -> bool:
        """Whether :meth:`post` may be called: the socket is open and its buffer is not full."""

    def post(self, message: bytes) -> None:
        """Send one binary message without waiting."""

    def begin_close(self, code: int, reason: str = "") -> None:
        """Start the closing handshake with a close code."""

    def abort(self) -> None:
        """Drop the connection at once."""


class _DirectConnection:
    """The socket interface, mixed into the connections of `websockets`."""

    loop: asyncio.AbstractEventLoop
    protocol: Any
    transport: asyncio.Transport
    paused: bool

    def __init__(self, *args: Any, sink: SocketSink | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sink = sink
        self.heard_at = 0.0
        self._parts: list[bytes] = []
        self._fragments = self._fragment_bytes = 0  # of the message that is incomplete
        self._control_frames = 0  # of the chunk that is parsed
        self._process_frame = self.protocol.recv_frame
        self.protocol.recv_frame = self._check_frame
        self._cutting_off = False
        self._closing: asyncio.Task[None] | None = None

    # --- Socket ---------------------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        return self.protocol.state is State.OPEN and not self.paused and not self.transport.is_closing()

    def post(self, message: bytes) -> None:
        self.protocol.send_binary(message)
        for data in self.protocol.data_to_send():
            self.transport.write(data)

    def begin_close(self, code: int, reason: str = "") -> None:
        if self._closing is None:
            self._closing = self.loop.create_task(self.close(code, reason))  # type: ignore[attr-defined]

    def abort(self) -> None:
        self.transport.abort()

    # --- asyncio.Protocol ------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self.heard_at = self.loop.time()
        self._control_frames = 0
        super().data_received(data)  # type: ignore[misc]
        close_sent = self.protocol.close_sent
        if close_sent is not None and close_sent.code in PEER_AT_FAULT and not self._cutting_off:
            self._cutting_off = True
            self.loop.call_later(_CLOSE_S, self.abort)  # it may go on sending, and never close

    def resume_writing(self) -> None:
        super().resume_writing()  # type: ignore[misc]
        # In a later callback: asyncio's transport closes twice if a write from here fails (3.11, `_write_ready`).
        self.loop.call_soon(self._report_writable)

    def _report_writable(self) -> None:
        if self.sink is not None:
            self.sink.writable(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)  # type: ignore[misc]
        sink, self.sink = self.sink, None
        if sink is not None:
            close, close_sent = self.protocol.close_rcvd, self.protocol.close_sent
            if close is None and close_sent is not None and close_sent.code in PEER_AT_FAULT:
                close = close_sent
            sink.lost(self, LOST if close is None else int(close.code), "" if close is None else close.reason)

    # --- websockets' Protocol ----------------------------------------------------------------------

    def _check_frame(self, frame: Frame) -> None:
        """Process a frame, unless the peer sends too many that carry nothing.

        Raises:
            ProtocolError: If it does; the parser closes the connection with code 1002.
        """
        if frame.opcode not in DATA_OPCODES:
            self._control_frames += 1
            if self._control_frames > _CONTROL_FRAMES:
                raise ProtocolError("too many control frames")
            if frame.opcode is Opcode.PING and self.paused:
                return  # a peer that does not read gets no answers: they would fill the memory
        elif frame.fin:
            self._fragments = self._fragment_bytes = 0
        else:
            self._fragments += 1
            self._fragment_bytes += len(frame.data)
            if self._fragments > _FRAGMENTS + self._fragment_bytes // _FRAGMENT_BYTES:
                raise ProtocolError("too many fragments of one message")
        self._process_frame(frame)

    # --- websockets' Connection --------------------------------------------------------------------

    def process_event(self, event: Any) -> None:
        if self.sink is None or not isinstance(event, Frame) or event.opcode not in DATA_OPCODES:
            super().process_event(event)  # type: ignore[misc]
            return
        if event.opcode is Opcode.TEXT:
            self.sink.message(self, None)
            return
        self._parts.append(bytes(event.data))
        if event.fin:  # a proxy may split messages into fragments
            data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self._parts = []
            self.sink.message(self, data)


class _Client(_DirectConnection, ClientConnection):
    pass


class _Server(_DirectConnection, ServerConnection):
    pass


class _Connect(connect):
    """A connect that treats a redirect as a refusal: it leads to a login page, which must not get the headers."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def connect_socket(
    url: str, headers: Mapping[str, str], sink: SocketSink, *, timeout_s: float, host: str | None = None
) -> Socket:
    """Open a WebSocket to ``url``, connecting to ``host`` if given; ``sink`` receives its events.

    Raises:
        OSError: If the server cannot be reached.
        asyncio.TimeoutError: If it accepted the connection and did not answer.
        websockets.exceptions.InvalidHandshake: If the upgrade was refused; ``InvalidStatus`` has the response.
    """
    direct = host is not None or url.startswith(("ws://127.0.0.1:", "ws://[::1]:", "ws://localhost:"))
    elsewhere: dict[str, Any] = {} if host is None else {"host": host}
    connected = False

    def create_socket(*args: Any, **kwargs: Any) -> _Client:
        nonlocal connected
        connected = True
        return _Client(*args, sink=sink, **kwargs)

    connecting = _Connect(
        url,
        additional_headers=dict(headers),
        compression=None,
        max_size=MAX_FRAME_BYTES,
        ping_interval=None,  # a ping waits behind a blocked send, so it proves nothing about the peer
        open_timeout=timeout_s,
        close_timeout=_CLOSE_S,
        write_limit=_WRITE_BUFFER_BYTES,
        proxy=None if direct else True,
        logger=_silent_logger,
        create_connection=create_socket,  # type: ignore[arg-type]
        **elsewhere,
    )
    try:
        return await connecting  # type: ignore[return-value]
    except asyncio.TimeoutError as error:
        if connected:
            raise
        raise ConnectionError(f"no connection within {timeout_s:g} s") from error


async def serve_sockets(
    port: int,
    handler: Callable[[Any], Awaitable[None]],
    check: Callable[[ServerConnection, Request], Response | None],
    host: str = "127.0.0.1",
) -> Server:
    """Serve WebSockets on ``host``; ``handler`` gets each socket that ``check`` accepted, and sets its ``sink``."""
    return await serve(
        handler,
        host,
        port,
        process_request=check,
        compression=None,
        max_size=MAX_FRAME_BYTES,
        ping_interval=None,
        close_timeout=_CLOSE_S,
        write_limit=_WRITE_BUFFER_BYTES,
        logger=_silent_logger,
        create_connection=_Server,
    )
