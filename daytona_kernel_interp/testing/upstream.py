"""Forwarding of one request to a port of a sandbox and of its response, or of an upgraded connection."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import h11
from aiohttp import web

from .tube import Tube

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Sequence

    from .faults import Fault

# A request with a body up to this size is repeated if the connection is lost without a response.
REPLAYED_BYTES = 256 << 10
_HIGH_WATER = 1 << 20
_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding"
    b" upgrade expect".split()
)

Headers = list[tuple[bytes, bytes]]


class NoAnswer(Exception):
    """The error if the sandbox's side closed without a response."""


class Connection(asyncio.Protocol):
    """A connection to a port in a sandbox, read in pieces of any size."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._received = bytearray()
        self._news = asyncio.Event()
        self._can_write = asyncio.Event()
        self._can_write.set()
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Buffer received bytes."""
        self._received += data
        self._news.set()
        if len(self._received) > _HIGH_WATER:
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        """Make :meth:`write` wait."""
        self._can_write.clear()

    def resume_writing(self) -> None:
        """Make :meth:`write` continue."""
        self._can_write.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake all waiting calls."""
        self.lost = True
        self._news.set()
        self._can_write.set()

    def eof_received(self) -> None:
        """Handle EOF as a lost connection."""
        self.lost = True
        self._news.set()

    async def read(self) -> bytes:
        """Return received bytes; empty at EOF."""
        while not self._received and not self.lost:
            self._news.clear()
            await self._news.wait()
        return self.take()

    def take(self) -> bytes:
        """Return the bytes received so far."""
        data = bytes(self._received)
        self._received.clear()
        if not self.lost:
            self.transport.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        """Send bytes; wait while the write buffer is full."""
        if self.lost:
            raise NoAnswer
        self.transport.write(data)
        await self._can_write.wait()


@dataclass
class Forwarded:
    """A request on its way to a sandbox's port."""

    request: web.Request
    port: int
    target: str
    headers: Headers
    shape: Fault | None = None
    added: Sequence[tuple[str, str]] = ()  # headers for the response

    @property
    def body_bytes(self) -> int | None:
        """The length of the body, or None if it is unknown."""
        if not self.request.body_exists:
            return 0
        return self.request.content_length

    def lines(self) -> Headers:
        """Return the headers for the app in the sandbox."""
        kept = [(name, value) for name, value in self.headers if name.lower() not in _HOP_BY_HOP | {b"host"}]
        kept.insert(0, (b"Host", f"localhost:{self.port}".encode()))
        if not any(name.lower() == b"x-forwarded-host" for name, _ in kept):
            kept.append((b"X-Forwarded-Host", self.request.host.encode()))
        before = [value for name, value in kept if name.lower() == b"x-forwarded-for"]
        kept = [(name, value) for name, value in kept if name.lower() != b"x-forwarded-for"]
        kept.append((b"X-Forwarded-For", b", ".join([*before, (self.request.remote or "").encode()])))
        if self.is_upgrade:
            kept += [(b"Connection", b"Upgrade"), (b"Upgrade", self.request.headers["Upgrade"].encode())]
        elif self.body_bytes is None:
            kept.append((b"Transfer-Encoding", b"chunked"))
        return kept

    @property
    def is_upgrade(self) -> bool:
        """Whether the request upgrades to another protocol, e.g. a WebSocket."""
        return "upgrade" in self.request.headers.get("Connection", "").lower() and "Upgrade" in self.request.headers


async def forward(
    made: socket.socket, forwarded: Forwarded, body: bytes | None, tubes: set[Tube]
) -> web.StreamResponse:
    """Send a request over a connected socket and forward the response.

    ``body`` is the request's body if it was already read; otherwise it is streamed.

    Raises:
        NoAnswer: If the other side closed without a response.
    """
    _, connection = await asyncio.get_running_loop().create_connection(Connection, sock=made)
    try:
        parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        head = h11.Request(method=forwarded.request.method, target=forwarded.target, headers=forwarded.lines())
        await _send(connection, parser.send(head))
        async for piece in _body(forwarded.request, body):
            await _send(connection, parser.send(h11.Data(data=piece)))
        await _send(connection, parser.send(h11.EndOfMessage()))
        event = await _next(connection, parser)
        while isinstance(event, h11.InformationalResponse) and event.status_code != 101:
            event = await _next(connection, parser)
        if isinstance(event, h11.InformationalResponse):
            return await _join(connection, parser, event, forwarded, tubes)
        assert isinstance(event, h11.Response)
        return await _answer(connection, parser, event, forwarded)
    except h11.RemoteProtocolError as error:
        raise NoAnswer from error
    finally:
        connection.transport.close()


async def send_and_drop(made: socket.socket, forwarded: Forwarded, body: bytes) -> None:
    """Send a request, wait for the first byte of the response, and close the connection."""
    _, connection = await asyncio.get_running_loop().create_connection(Connection, sock=made)
    parser = h11.Connection(h11.CLIENT)
    head = h11.Request(method=forwarded.request.method, target=forwarded.target, headers=forwarded.lines())
    for event in (head, h11.Data(data=body), h11.EndOfMessage()):
        await _send(connection, parser.send(event))
    await connection.read()
    connection.transport.abort()


async def _answer(
    connection: Connection, parser: h11.Connection, event: h11.Response, forwarded: Forwarded
) -> web.StreamResponse:
    shape, sent = forwarded.shape, 0
    response = web.StreamResponse(status=event.status_code, reason=event.reason.decode("latin-1"))
    for name, value in event.headers.raw_items():
        if name.lower() not in _HOP_BY_HOP:
            response.headers.add(name.decode("latin-1"), value.decode("latin-1"))
    for added, text in forwarded.added:
        response.headers.add(added, text)
    await response.prepare(forwarded.request)
    client = forwarded.request.transport
    if shape is not None and shape.cut_after_s is not None and client is not None:
        asyncio.get_running_loop().call_later(shape.cut_after_s, client.abort)
    while isinstance(piece := await _next(connection, parser), h11.Data):
        data = bytes(piece.data)
        if shape is not None:
            await asyncio.sleep(shape.delay_s + shape.buffer_s + len(data) / (shape.bytes_per_s or float("inf")))
            if shape.stall_after_bytes is not None and sent + len(data) > shape.stall_after_bytes:
                await response.write(data[: shape.stall_after_bytes - sent])
                await asyncio.Event().wait()
            if shape.cut_after_bytes is not None and sent + len(data) >= shape.cut_after_bytes:
                await response.write(data[: shape.cut_after_bytes - sent])
                if forwarded.request.transport is not None:
                    forwarded.request.transport.close()
                return response
        sent += len(data)
        await response.write(data)
    await response.write_eof()
    return response


async def _join(
    connection: Connection,
    parser: h11.Connection,
    event: h11.InformationalResponse,
    forwarded: Forwarded,
    tubes: set[Tube],
) -> web.StreamResponse:
    client = forwarded.request.transport
    if client is None:
        raise NoAnswer
    assert isinstance(client, asyncio.Transport)
    lines = [b"HTTP/1.1 101 Switching Protocols"]
    lines += [name + b": " + value for name, value in event.headers.raw_items()]
    first, _ = parser.trailing_data
    tube = Tube(client, connection.transport, forwarded.shape)
    client.write(b"\r\n".join([*lines, b"", b""]))
    if early := first + connection.take():
        tube.server.data_received(early)
    tubes.add(tube)
    try:
        await tube.closed
    finally:
        tubes.discard(tube)
        tube.abort()
    return web.Response()  # not sent: the web server's connection has ended


async def _body(request: web.Request, body: bytes | None) -> AsyncIterator[bytes]:
    if body is not None:
        if body:
            yield body
        return
    async for piece in request.content.iter_any():
        yield piece


async def _send(connection: Connection, data: bytes | None) -> None:
    if data:
        await connection.write(data)


async def _next(connection: Connection, parser: h11.Connection) -> h11.Event:
    while (event := parser.next_event()) is h11.NEED_DATA:
        data = await connection.read()
        if not data and parser.their_state is h11.SEND_RESPONSE:
            raise NoAnswer
        parser.receive_data(data)
    if isinstance(event, (type(h11.PAUSED), h11.ConnectionClosed)):
        raise NoAnswer
    assert isinstance(event, h11.Event)
    return event
