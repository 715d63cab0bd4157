"""Local ends of a stream: a connected socket, or a pipe within the process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Protocol

from ..wire.frames import MAX_PAYLOAD_BYTES


class LocalEnd(Protocol):
    """What a pump reads from and writes to."""

    async def read(self) -> bytes:
        """Return the next bytes, at most one frame's payload; empty at the end."""

    async def write(self, data: bytes) -> None:
        """Write all of ``data``; returns when the reader behind it keeps up."""

    async def write_eof(self) -> None:
        """Say that nothing more will be written."""

    def close(self) -> None:
        """Close the end once what was written has been taken; for a stream that ended well."""

    def abort(self) -> None:
        """Drop the end at once; whoever is behind it sees it close."""


class SocketEnd:
    """A connected TCP or unix socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        sock = writer.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def read(self) -> bytes:
        """Return the next bytes; a reset by the other side counts as its end."""
        try:
            return await self._reader.read(MAX_PAYLOAD_BYTES)
        except OSError:
            return b""

    async def write(self, data: bytes) -> None:
        """Write ``data``; bytes for a socket that is gone are dropped, as TCP would."""
        with contextlib.suppress(OSError):
            self._writer.write(data)
            await self._writer.drain()

    async def write_eof(self) -> None:
        """Half-close the socket."""
        with contextlib.suppress(OSError):
            self._writer.write_eof()

    def close(self) -> None:
        """Close the socket; what is buffered is still sent."""
        self._writer.close()

    def abort(self) -> None:
        """Close the socket without waiting for anything."""
        self._writer.transport.abort()


class PipeEnd:
    """One end of a pipe inside the process; :func:`pipe` makes two."""

    def __init__(self, inbox: asyncio.Queue[bytes], outbox: asyncio.Queue[bytes]) -> None:
        self._inbox, self._outbox = inbox, outbox
        self._ended = False

    async def read(self) -> bytes:
        """Return what the other end wrote last; empty once it ended."""
        if self._ended:
            return b""
        data = await self._inbox.get()
        self._ended = not data
        return data

    async def write(self, data: bytes) -> None:
        """Hand ``data`` over in pieces of a frame; waits while the other end is 64 pieces behind."""
        for start in range(0, len(data), MAX_PAYLOAD_BYTES):
            await self._outbox.put(data[start : start + MAX_PAYLOAD_BYTES])

    async def write_eof(self) -> None:
        """End what the other end reads."""
        await self._outbox.put(b"")

    def close(self) -> None:
        """Nothing to do: both directions have ended."""

    def abort(self) -> None:
        """End both directions, even if the other end is behind."""
        for queue in (self._inbox, self._outbox):
            while queue.full():
                queue.get_nowait()
            queue.put_nowait(b"")


def pipe() -> tuple[PipeEnd, PipeEnd]:
    """Return two connected ends: what one writes, the other reads."""
    forth: asyncio.Queue[bytes] = asyncio.Queue(64)
    back: asyncio.Queue[bytes] = asyncio.Queue(64)
    return PipeEnd(forth, back), PipeEnd(back, forth)
