"""The WebSockets that carry streams, on the `websockets` library.

`websockets` does the handshake, the framing, TLS and proxies. Its own ``send()`` and ``recv()`` cost a task switch and
three coroutines a message, so messages go past them: handed over as they are parsed, and written without a wait while
the transport takes them. Everything of the library's that this touches stands in this module.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any, Protocol

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import InvalidStatus
from websockets.frames import DATA_OPCODES, Frame, Opcode
from websockets.protocol import State

from ..wire.frames import MAX_FRAME_BYTES

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Mapping

    from websockets.http11 import Request, Response

__all__ = ["PEER_AT_FAULT", "InvalidStatus", "Socket", "SocketSink", "connect_socket", "serve_sockets"]

# At level DEBUG websockets logs the headers of an upgrade, and ours hold secrets.
_silent_logger = logging.getLogger(f"{__name__}.websockets")
_silent_logger.setLevel(logging.INFO)

LOST = 1006  # RFC 6455 §7.4.1: closed without a close frame
# RFC 6455 §7.4.1, with which websockets closes by itself: no WebSocket, no text, a message beyond MAX_FRAME_BYTES.
PEER_AT_FAULT = frozenset({1002, 1007, 1009})
_WRITE_BUFFER_BYTES = 512 * 1024  # two frames: while one is written the next is ready
_CLOSE_S = 1.0


class SocketSink(Protocol):
    """Who gets what a socket brings."""

    def message(self, socket: Socket, data: bytes | None) -> None:
        """Take one binary message; None stands for a message that was text."""

    def writable(self, socket: Socket) -> None:
        """The socket takes messages again."""

    def lost(self, socket: Socket, code: int, reason: str) -> None:
        """The socket is closed, with the peer's close code, one of :data:`PEER_AT_FAULT`, or :data:`LOST`."""


class Socket(Protocol):
    """One WebSocket: everything that carries streams over it needs."""

    heard_at: float  # when the last byte came, on the loop's clock

    @property
    def writable(self) -> bool:
        """Whether :meth:`post` may be called: it is open, and the peer keeps up."""

    def post(self, message: bytes) -> None:
        """Send one binary message, without waiting."""

    def begin_close(self, code: int, reason: str = "") -> None:
        """Begin to close it with a close code."""

    def abort(self) -> None:
        """Drop it at once."""


class _DirectConnection:
    """Mixed into websockets' connections."""

    loop: asyncio.AbstractEventLoop
    protocol: Any
    transport: asyncio.Transport
    paused: bool

    def __init__(self, *args: Any, sink: SocketSink | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sink = sink
        self.heard_at = 0.0
        self._parts: list[bytes] = []
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
        super().data_received(data)  # type: ignore[misc]

    def resume_writing(self) -> None:
        super().resume_writing()  # type: ignore[misc]
        # Not from within: asyncio's transport closes twice if a write from here fails (3.11, `_write_ready`).
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

    # --- websockets' Connection --------------------------------------------------------------------

    def process_event(self, event: Any) -> None:
        if self.sink is None or not isinstance(event, Frame) or event.opcode not in DATA_OPCODES:
            super().process_event(event)  # type: ignore[misc]
            return
        if event.opcode is Opcode.TEXT:
            self.sink.message(self, None)
            return
        self._parts.append(bytes(event.data))
        if event.fin:  # a proxy may cut messages into fragments
            data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self._parts = []
            self.sink.message(self, data)


class _Client(_DirectConnection, ClientConnection):
    pass


class _Server(_DirectConnection, ServerConnection):
    pass


class _Connect(connect):
    """Takes a redirect as the refusal that it is: it leads to a login page, and our headers are for nobody else."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def connect_socket(
    url: str, headers: Mapping[str, str], sink: SocketSink, *, timeout_s: float, host: str | None = None
) -> Socket:
    """Dial ``url``, at ``host`` if given; from the end of the handshake on ``sink`` gets what comes.

    Raises:
        OSError, asyncio.TimeoutError: If it cannot be reached.
        websockets.exceptions.InvalidHandshake: If the upgrade was refused; ``InvalidStatus`` has the response.
    """
    direct = host is not None or url.startswith(("ws://127.0.0.1:", "ws://[::1]:", "ws://localhost:"))
    elsewhere: dict[str, Any] = {} if host is None else {"host": host}
    return await _Connect(  # type: ignore[return-value]
        url,
        additional_headers=dict(headers),
        compression=None,
        max_size=MAX_FRAME_BYTES,
        ping_interval=None,  # a ping waits behind a blocked send, so it proves nothing
        open_timeout=timeout_s,
        close_timeout=_CLOSE_S,
        write_limit=_WRITE_BUFFER_BYTES,
        proxy=None if direct else True,
        logger=_silent_logger,
        create_connection=functools.partial(_Client, sink=sink),  # type: ignore[arg-type]
        **elsewhere,
    )


async def serve_sockets(
    port: int,
    handler: Callable[[Any], Awaitable[None]],
    check: Callable[[ServerConnection, Request], Response | None],
    host: str = "127.0.0.1",
) -> Server:
    """Serve on ``host``; ``handler`` gets each socket whose upgrade ``check`` passed, and sets its ``sink``."""
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
