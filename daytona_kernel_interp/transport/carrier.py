"""Move one stream between its local end and its current WebSocket."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..wire.frames import MAX_PAYLOAD_BYTES
from ..wire.hello import CloseCode, close_reason
from ..wire.keepalive import ACK_DELAY_S
from ..wire.protocol_errors import RemoteProtocolError, WindowOverrun

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..wire.stream import Received, Stream
    from .local_socket import LocalEnd
    from .websocket import Socket

FINISHED = 1000  # RFC 6455 §7.4.1


class Carrier:
    """The asyncio shell of one stream, for the stream's whole life.

    All work is done in callbacks of the local end and of the socket, in the order of their events. When a socket is
    replaced, each byte is therefore either written to the local end or still unacknowledged at the peer.
    """

    def __init__(self, stream: Stream, on_end: Callable[[], None]) -> None:
        """Create the carrier; ``on_end`` is called once when the stream ends, for any reason."""
        self.stream = stream
        self.socket: Socket | None = None
        self._loop = asyncio.get_running_loop()
        self._on_end = on_end
        self._local: LocalEnd | None = None
        self._early: list[Received] = []  # received before the local end was connected
        self._eof_written = False
        self._paused = False
        self._ack_timer: asyncio.TimerHandle | None = None
        self.ended = False

    def connect(self, local: LocalEnd) -> None:
        """Connect the stream to its local end."""
        self._local = local
        local.open(self)
        for received in self._early:
            self._deliver(received)
        self._early = []
        self._update()

    def attach(self, socket: Socket) -> None:
        """Carry the stream on ``socket`` from now on; ``Stream.attach`` was called before."""
        self.socket = socket
        self._update()

    def detach(self) -> None:
        """Stop using the socket: it is lost or being replaced."""
        self.socket = None

    def end(self, code: int = FINISHED, reason: str = "") -> None:
        """End the stream: close the socket with ``code``; close the local end, or abort it if unfinished."""
        if self.ended:
            return
        self.ended = True
        if self._ack_timer is not None:
            self._ack_timer.cancel()
        if self.socket is not None:
            self.socket.begin_close(code, reason)
            self.socket = None
        if self._local is not None:
            if self.stream.finished:
                self._local.close()
            else:
                self._local.abort()
        self._on_end()

    # --- the socket's events ----------------------------------------------------------------------------

    def message(self, data: bytes | None) -> None:
        """Process one message of the socket."""
        try:
            if data is None:
                raise RemoteProtocolError("a text message on a stream; only binary messages are allowed")
            for received in self.stream.receive(data):
                self._deliver(received)
        except RemoteProtocolError as error:
            code = CloseCode.WINDOW_OVERRUN if isinstance(error, WindowOverrun) else CloseCode.BAD_HELLO
            self.end(code, close_reason(error))
            return
        self._update()

    def flush(self) -> None:
        """Send frames while the socket is writable."""
        socket = self.socket
        while socket is not None and socket.writable and (frame := self.stream.next_frame()) is not None:
            socket.post(frame)

    # --- the local end's events ----------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Queue bytes that the local end has read."""
        if self.ended:
            return
        for start in range(0, len(data), MAX_PAYLOAD_BYTES):
            self.stream.write(data[start : start + MAX_PAYLOAD_BYTES])
        if not self.stream.window_open and not self._paused and self._local is not None:
            self._paused = True
            self._local.pause()
        self.flush()

    def feed_eof(self) -> None:
        """Handle the end of the local end's input."""
        if not self.ended:
            self.stream.finish()
            self._update()

    def local_drained(self) -> None:
        """Handle that the local end's write buffer is empty; the bytes can be acknowledged."""
        if not self.ended:
            self._update()

    def local_failed(self, error: Exception) -> None:
        """End the stream because the local end has failed."""
        self.end(CloseCode.PORT_REFUSED, close_reason(error))

    # --- within -----------------------------------------------------------------------------------------------

    def _deliver(self, received: Received) -> None:
        if self._local is None:
            self._early.append(received)
        elif received.finished:
            self._eof_written = True
            self._local.write_eof()
        else:
            self._local.write(received.payload)

    def _update(self) -> None:
        """Update acks, window and end after an event."""
        if self.ended:
            return
        self._ack_delivered()
        if self._paused and self.stream.window_open and self._local is not None:
            self._paused = False
            self._local.resume()
        self.flush()
        if self._ack_timer is None and (self.stream.ack_owed or self.stream.undelivered):
            self._ack_timer = self._loop.call_later(ACK_DELAY_S, self._send_ack)
        if self.stream.finished and not self.stream.ack_owed:
            self.end()

    def _ack_delivered(self) -> None:
        if self._local is None:
            return
        pending = self._local.pending
        if pending and self._eof_written:
            pending += 1  # the end is delivered together with the last byte
        size = self.stream.undelivered - pending
        if size > 0:
            self.stream.delivered(size)

    def _send_ack(self) -> None:
        self._ack_timer = None
        self._ack_delivered()
        if self.stream.ack_owed:
            self.stream.want_ack()
        self._update()
