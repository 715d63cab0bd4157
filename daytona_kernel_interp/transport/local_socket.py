"""The local ends of a stream: a connected socket, or a function in this process."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Protocol, cast

from ..wire.protocol_errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..wire.zmtp import AcceptingEnd, ConnectingEnd


class LocalInput(Protocol):
    """The receiver of a local end's bytes; implemented by the carrier."""

    def feed(self, data: bytes) -> None:
        """Accept bytes that the end has read."""

    def feed_eof(self) -> None:
        """Accept the end of input, or the loss of the end."""

    def local_drained(self) -> None:
        """Note that the end's write buffer is empty."""

    def local_failed(self, error: Exception) -> None:
        """Note that the end has failed; the stream ends."""


class LocalEnd(Protocol):
    """The local end as a carrier uses it."""

    def open(self, feed: LocalInput) -> None:
        """Start reading; ``feed`` receives what is read."""

    def write(self, data: bytes) -> None:
        """Write ``data`` without waiting; what cannot be written at once counts as pending."""

    @property
    def pending(self) -> int:
        """Number of bytes that are buffered and not yet accepted by the end's peer."""

    def write_eof(self) -> None:
        """Signal that nothing more will be written."""

    def pause(self) -> None:
        """Read no further for now."""

    def resume(self) -> None:
        """Read on."""

    def close(self) -> None:
        """Close the end after its buffer is written; for a stream that finished normally."""

    def abort(self) -> None:
        """Close the end at once and drop its buffer."""


class SocketEnd(asyncio.Protocol):
    """A TCP or unix socket, connected now or later; bytes written before then are buffered.

    ``handshake`` is done before the connection's bytes belong to the stream.
    """

    def __init__(self, handshake: AcceptingEnd | ConnectingEnd | None = None) -> None:
        self._handshake = handshake
        self._feed: LocalInput | None = None
        self._transport: asyncio.Transport | None = None
        self._early_data = bytearray()
        self._paused = self._eof = self._lost = False

    # --- LocalEnd -----------------------------------------------------------------------------------

    def open(self, feed: LocalInput) -> None:
        """Start reading; ``feed`` receives what is read."""
        self._feed = feed
        if self._transport is not None and not self._paused:
            self._transport.resume_reading()

    def write(self, data: bytes) -> None:
        """Write ``data``; bytes for a closed socket are dropped, as TCP does."""
        if self._transport is None:
            if not self._lost:
                self._early_data += data
            return
        try:
            self._transport.write(data if self._handshake is None else self._handshake.send(data))
        except RemoteProtocolError as error:
            if self._feed is not None:
                self._feed.local_failed(error)

    @property
    def pending(self) -> int:
        """Number of bytes that the operating system has not accepted yet."""
        if self._transport is None:
            return len(self._early_data)
        held = 0 if self._handshake is None else self._handshake.held
        return 0 if self._lost else self._transport.get_write_buffer_size() + held

    def write_eof(self) -> None:
        """Half-close the socket."""
        self._eof = True
        self._write_eof()

    def _write_eof(self) -> None:
        held = 0 if self._handshake is None else self._handshake.held
        if self._transport is not None and not self._transport.is_closing() and not held:
            self._transport.write_eof()

    def pause(self) -> None:
        """Read no further for now."""
        self._paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        self._paused = False
        if self._transport is not None:
            self._transport.resume_reading()

    def close(self) -> None:
        """Close the socket after its buffer is sent."""
        self._feed = None
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close the socket at once and drop its buffer."""
        self._feed, self._lost, self._early_data = None, True, bytearray()
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.Protocol -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport and write the buffered bytes."""
        self._transport = transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.set_write_buffer_limits(high=0)  # so that resume_writing() means: the buffer is empty
        if self._lost:
            transport.abort()
            return
        if self._handshake is not None:
            transport.write(self._handshake.opening)
        early, self._early_data = self._early_data, bytearray()
        if early:
            self.write(bytes(early))
        if self._eof:
            self._write_eof()
        if self._feed is None or self._paused:
            transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._stay_paused)
        if self._feed is not None:
            self._feed.local_drained()

    def _stay_paused(self) -> None:
        # Python 3.10 starts reading after connection_made() even if that paused it.
        if self._transport is not None and (self._feed is None or self._paused):
            self._transport.resume_reading()
            self._transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        """Forward what was read."""
        if self._feed is None:
            return
        if self._handshake is not None:
            try:
                data = self._handshake.receive(data)
            except RemoteProtocolError as error:
                self._feed.local_failed(error)
                return
            if self._handshake.held and (released := self._handshake.release()) and self._transport is not None:
                self._transport.write(released)
                if self._eof:
                    self._write_eof()
                if not self.pending:
                    self._feed.local_drained()
        if data:
            self._feed.feed(data)

    def eof_received(self) -> bool:
        """Forward the end of input; the other direction stays open."""
        if self._feed is not None:
            self._feed.feed_eof()
        return True

    def resume_writing(self) -> None:
        """Report that the buffer is empty, in a later callback.

        asyncio's transport closes twice if it is closed from within this method (3.11, ``_write_ready``).
        """
        asyncio.get_running_loop().call_soon(self._report_drained)

    def _report_drained(self) -> None:
        if self._feed is not None:
            self._feed.local_drained()

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end; a reset counts as one. The buffer is dropped."""
        self._lost = True
        if self._feed is not None:
            self._feed.local_drained()
            self._feed.feed_eof()


class FunctionEnd:
    """A local end inside the process: received bytes go to a function, :meth:`send` writes to the peer."""

    def __init__(self, on_data: Callable[[bytes], None], on_end: Callable[[], None] = lambda: None) -> None:
        self._on_data, self._on_end = on_data, on_end
        self._feed: LocalInput | None = None
        self._early_data: list[bytes] = []
        self.paused = False
        self.pending = 0

    def open(self, feed: LocalInput) -> None:
        """Start; forward what was sent before."""
        self._feed = feed
        for data in self._early_data:
            feed.feed(data)
        self._early_data = []

    def send(self, data: bytes) -> None:
        """Send ``data`` to the peer."""
        if self._feed is None:
            self._early_data.append(data)
        else:
            self._feed.feed(data)

    def send_eof(self) -> None:
        """Signal that nothing more will be sent."""
        if self._feed is not None:
            self._feed.feed_eof()

    def write(self, data: bytes) -> None:
        """Pass ``data`` to the function."""
        self._on_data(data)

    def write_eof(self) -> None:
        """Report the end of the peer's input."""
        self._on_end()

    def pause(self) -> None:
        """Note that the window is full; senders of bulk data check :attr:`paused`."""
        self.paused = True

    def resume(self) -> None:
        """Note that the window is open."""
        self.paused = False

    def close(self) -> None:
        """Close the end."""
        self._feed = None

    def abort(self) -> None:
        """Close the end and report it to the owner."""
        if self._feed is not None:
            self._feed = None
            self._on_end()
