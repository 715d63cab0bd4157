"""Local ends of a stream: a connected socket, or a function within the process."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Protocol, cast

from ..wire.protocol_errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable


class LocalInput(Protocol):
    """What an end gives its bytes to: a carrier."""

    def feed(self, data: bytes) -> None:
        """Take bytes that the end read."""

    def feed_eof(self) -> None:
        """The end has nothing more to say, or is gone."""

    def local_drained(self) -> None:
        """What was written to the end has been taken."""

    def local_failed(self, error: Exception) -> None:
        """The end cannot be used: the stream is over."""


class LocalEnd(Protocol):
    """What a carrier writes to."""

    def open(self, feed: LocalInput) -> None:
        """Begin: from now on ``feed`` gets what is read."""

    def write(self, data: bytes) -> None:
        """Write ``data``, without waiting; what is not taken at once counts as pending."""

    @property
    def pending(self) -> int:
        """Bytes written and not taken yet by whoever is behind the end."""

    def write_eof(self) -> None:
        """Say that nothing more will be written."""

    def pause(self) -> None:
        """Read no further for now."""

    def resume(self) -> None:
        """Read on."""

    def close(self) -> None:
        """Close the end once what was written has been taken; for a stream that ended well."""

    def abort(self) -> None:
        """Drop the end at once; whoever is behind it sees it close."""


class Handshake(Protocol):
    """What is said on a connection before its bytes belong to the stream; see ``wire.zmtp``."""

    @property
    def opening(self) -> bytes:
        """What is written at once."""

    def receive(self, data: bytes) -> bytes:
        """Take what came and return what belongs to the stream."""

    def send(self, data: bytes) -> bytes:
        """Take what is to be written and return what may be, by now."""

    def release(self) -> bytes:
        """Return what was kept back and may be written by now."""

    @property
    def held(self) -> int:
        """How many bytes are kept back."""


class SocketEnd(asyncio.Protocol):
    """A TCP or unix socket that is connected now or later; bytes written before then wait."""

    def __init__(self, handshake: Handshake | None = None) -> None:
        self._handshake = handshake
        self._feed: LocalInput | None = None
        self._transport: asyncio.Transport | None = None
        self._early_data = bytearray()
        self._paused = self._eof = self._lost = False

    # --- LocalEnd -----------------------------------------------------------------------------------

    def open(self, feed: LocalInput) -> None:
        """Begin: from now on ``feed`` gets what is read."""
        self._feed = feed
        if self._transport is not None and not self._paused:
            self._transport.resume_reading()

    def write(self, data: bytes) -> None:
        """Write ``data``; bytes for a socket that is gone are dropped, as TCP would."""
        if self._transport is None:
            if not self._lost:
                self._early_data += data
        elif self._handshake is None:
            self._transport.write(data)
        else:
            try:
                data = self._handshake.send(data)
            except RemoteProtocolError as error:
                if self._feed is not None:
                    self._feed.local_failed(error)
                return
            self._transport.write(data)

    @property
    def pending(self) -> int:
        """Bytes that the operating system has not taken yet."""
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
        """Close the socket; what is buffered is still sent."""
        self._feed = None
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close the socket without waiting for anything."""
        self._feed, self._lost, self._early_data = None, True, bytearray()
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.Protocol -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connected transport."""
        self._transport = transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.set_write_buffer_limits(high=0)  # resume_writing() then says: all of it was taken
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
        # Python 3.10 begins to read after connection_made(), whatever that asked for.
        if self._transport is not None and (self._feed is None or self._paused):
            self._transport.resume_reading()
            self._transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        """Pass on what was read."""
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
        """Pass on the end; the other direction stays open."""
        if self._feed is not None:
            self._feed.feed_eof()
        return True

    def resume_writing(self) -> None:
        """All of what was written has been taken.

        Told later: asyncio's transport closes twice if it is closed from within this (3.11, ``_write_ready``).
        """
        asyncio.get_running_loop().call_soon(self._report_drained)

    def _report_drained(self) -> None:
        if self._feed is not None:
            self._feed.local_drained()

    def connection_lost(self, exc: Exception | None) -> None:
        """A reset counts as the end; what was not taken never will be."""
        self._lost = True
        if self._feed is not None:
            self._feed.local_drained()
            self._feed.feed_eof()


class FunctionEnd:
    """An end inside the process: what comes goes to a function, :meth:`send` says something."""

    def __init__(self, on_data: Callable[[bytes], None], on_end: Callable[[], None] = lambda: None) -> None:
        self._on_data, self._on_end = on_data, on_end
        self._feed: LocalInput | None = None
        self._early_data: list[bytes] = []
        self.paused = False
        self.pending = 0

    def open(self, feed: LocalInput) -> None:
        """Begin; what was sent before goes out."""
        self._feed = feed
        for data in self._early_data:
            feed.feed(data)
        self._early_data = []

    def send(self, data: bytes) -> None:
        """Send ``data`` to the far side."""
        if self._feed is None:
            self._early_data.append(data)
        else:
            self._feed.feed(data)

    def send_eof(self) -> None:
        """Say that nothing more will be sent."""
        if self._feed is not None:
            self._feed.feed_eof()

    def write(self, data: bytes) -> None:
        """Give ``data`` to the function."""
        self._on_data(data)

    def write_eof(self) -> None:
        """Tell of the far side's end."""
        self._on_end()

    def pause(self) -> None:
        """Note that the window is full; whoever sends much looks at :attr:`paused`."""
        self.paused = True

    def resume(self) -> None:
        """Note that the window is open."""
        self.paused = False

    def close(self) -> None:
        """End it."""
        self._feed = None

    def abort(self) -> None:
        """End it; the function learns of it."""
        if self._feed is not None:
            self._feed = None
            self._on_end()
