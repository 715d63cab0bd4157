"""The pump: moves one stream between its local end and its WebSocket."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from websockets.exceptions import ConnectionClosed

from ..wire.errors import RemoteProtocolError
from ..wire.hello import Close, close_reason

if TYPE_CHECKING:
    from ..wire.stream import Stream
    from .ends import LocalEnd


class Socket(Protocol):
    """The little of a WebSocket connection that a pump needs; `websockets` provides it."""

    async def send(self, message: bytes) -> None:
        """Send one binary message."""

    async def recv(self) -> bytes | str:
        """Return the next message, or raise ``ConnectionClosed``."""

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close with a close code."""


class Pump:
    """Runs one attachment of one stream until it ends or its socket is lost.

    Reading and sending are separate tasks and only the sender waits for the WebSocket: if both ends waited
    for each other to read, neither would.
    """

    def __init__(self, stream: Stream, local: LocalEnd, socket: Socket) -> None:
        self._stream, self._local, self._socket = stream, local, socket
        self._wake = asyncio.Event()  # something to send, or the window opened
        self._drained = asyncio.Event()

    async def run(self) -> None:
        """Pump until both sides finished (the socket is then closed with 1000) or the socket is gone.

        The local end is closed in every case, so whoever is behind it learns that the stream is over: after it took
        everything if the stream ended well, at once if not.
        """
        tasks = [asyncio.create_task(step()) for step in (self._read_local, self._send, self._receive)]
        try:
            # The reader ends at the local EOF, the sender when all is acked; only the receiver knows of a lost socket.
            await asyncio.wait([tasks[1], tasks[2]], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            if self._stream.finished:
                self._local.close()
            else:
                self._local.abort()
            await self._close(results)

    async def _close(self, results: list[BaseException | None]) -> None:
        for error in results:
            if isinstance(error, RemoteProtocolError):
                await self._socket.close(Close.BAD_HELLO, close_reason(error))
                return
            if isinstance(error, Exception) and not isinstance(error, ConnectionClosed):
                await self._socket.close(1011)
                raise error
        await self._socket.close()

    async def _read_local(self) -> None:
        while True:
            while not self._stream.window_open:
                self._drained.clear()
                await self._drained.wait()
            data = await self._local.read()
            if not data:
                self._stream.finish()
                self._wake.set()
                return
            self._stream.write(data)
            self._wake.set()

    async def _send(self) -> None:
        while True:
            while frames := self._stream.frames_to_send():  # an ack may become due while one is being sent
                for frame in frames:
                    await self._socket.send(frame)
            if self._stream.finished:
                return
            await self._wake.wait()
            self._wake.clear()

    async def _receive(self) -> None:
        while True:
            message = await self._socket.recv()
            if isinstance(message, str):
                raise RemoteProtocolError("a text message on a stream")
            for received in self._stream.receive(message):
                if received.finished:
                    await self._local.write_eof()
                    self._stream.delivered(1)
                else:
                    await self._local.write(received.payload)
                    self._stream.delivered(len(received.payload))
            if self._stream.window_open:
                self._drained.set()
            if self._stream.has_frames or self._stream.finished:
                self._wake.set()
