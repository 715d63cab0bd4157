"""The carrier: moves one stream between its local end and whichever WebSocket carries it now."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..wire.frames import MAX_PAYLOAD_BYTES
from ..wire.hello import CloseCode, close_reason
from ..wire.keepalive import ACK_DELAY_S
from ..wire.protocol_errors import RemoteProtocolError, WindowOverrun
from ..wire.stream import Received

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..wire.stream import Stream
    from .local_socket import LocalEnd
    from .websocket import Socket

FINISHED = 1000  # RFC 6455 §7.4.1


class Carrier:
    """The shell of one stream, for as long as the stream lives.

    Everything happens in callbacks of the local end and of the socket, in the order of their events, so nothing is
    ever half-written when a socket is replaced: the local end has its bytes or they still count as the peer's.
    """

    def __init__(self, stream: Stream, on_end: Callable[[], None]) -> None:
        """Make a carrier; ``on_end`` is called once, when the stream is over in whatever way."""
        self.stream = stream
        self.socket: Socket | None = None
        self._loop = asyncio.get_running_loop()
        self._on_end = on_end
        self._local: LocalEnd | None = None
        self._early_data = bytearray()  # came before there was a local end
        self._early_eof = False
        self._eof_written = False
        self._paused = False
        self._ack_timer: asyncio.TimerHandle | None = None
        self.ended = False

    def connect(self, local: LocalEnd) -> None:
        """Give the stream its local end."""
        self._local = local
        local.open(self)
        early, self._early_data = self._early_data, bytearray()
        if early:
            self._deliver(Received(bytes(early)))
        if self._early_eof:
            self._deliver(Received(finished=True))
        self._update()

    def attach(self, socket: Socket) -> None:
        """Carry the stream on ``socket`` from now on; the stream itself was attached before."""
        self.socket = socket
        self._update()

    def detach(self) -> None:
        """The socket is gone, or another takes its place."""
        self.socket = None

    def end(self, code: int = FINISHED, reason: str = "") -> None:
        """End the stream: the socket is closed with ``code``, the local end closed or, if unfinished, aborted."""
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
        """Take one message of the socket."""
        try:
            if data is None:
                raise RemoteProtocolError("a text message on a stream")
            for received in self.stream.receive(data):
                self._deliver(received)
        except RemoteProtocolError as error:
            code = CloseCode.WINDOW_OVERRUN if isinstance(error, WindowOverrun) else CloseCode.BAD_HELLO
            self.end(code, close_reason(error))
            return
        self._update()

    def flush(self) -> None:
        """Send what there is, as far as the socket takes it."""
        socket = self.socket
        while socket is not None and socket.writable and (frame := self.stream.next_frame()) is not None:
            socket.post(frame)

    # --- the local end's events ----------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take bytes that the local end read."""
        if self.ended:
            return
        if len(data) <= MAX_PAYLOAD_BYTES:
            self.stream.write(data)
        else:
            for start in range(0, len(data), MAX_PAYLOAD_BYTES):
                self.stream.write(data[start : start + MAX_PAYLOAD_BYTES])
        if not self.stream.window_open and not self._paused and self._local is not None:
            self._paused = True
            self._local.pause()
        self.flush()

    def feed_eof(self) -> None:
        """The local end has nothing more to say."""
        if not self.ended:
            self.stream.finish()
            self._update()

    def local_drained(self) -> None:
        """The local end has taken what was written."""
        if not self.ended:
            self._update()

    def local_failed(self, error: Exception) -> None:
        """The local end cannot be used."""
        self.end(CloseCode.PORT_REFUSED, close_reason(error))

    # --- within -----------------------------------------------------------------------------------------------

    def _deliver(self, received: Received) -> None:
        if self._local is None:
            self._early_data += received.payload
            self._early_eof = self._early_eof or received.finished
        elif received.finished:
            self._eof_written = True
            self._local.write_eof()
        else:
            self._local.write(received.payload)

    def _update(self) -> None:
        """Bring everything up to date after an event."""
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
            pending += 1  # the end is delivered with the last byte before it
        size = self.stream.undelivered - pending
        if size > 0:
            self.stream.delivered(size)

    def _send_ack(self) -> None:
        self._ack_timer = None
        self._ack_delivered()
        if self.stream.ack_owed:
            self.stream.want_ack()
        self._update()
