"""The emulator's ends of pipes to processes in a sandbox."""

from __future__ import annotations

import asyncio
import os


async def reader_of(fd: int, line_bytes: int = 1 << 20) -> tuple[asyncio.StreamReader, asyncio.ReadTransport]:
    """Return a reader of a pipe and the transport to close; they own ``fd``."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(line_bytes, loop=loop)
    pipe = os.fdopen(fd, "rb", 0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader, loop=loop), pipe)
    return reader, transport


async def writer_of(fd: int) -> asyncio.WriteTransport:
    """Return a transport that writes to a pipe and owns ``fd``."""
    transport, _ = await asyncio.get_running_loop().connect_write_pipe(asyncio.Protocol, os.fdopen(fd, "wb", 0))
    return transport


def drop(transport: asyncio.WriteTransport) -> None:
    """Close a transport at once and discard unwritten bytes; do nothing if it is closed."""
    if not transport.is_closing():
        transport.abort()
