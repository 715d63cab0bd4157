"""Names of websockets that ``transport.websocket`` uses beyond its documented API, and peers that are hostile."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import inspect
import re
from typing import TYPE_CHECKING, Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol
from websockets.version import version as websockets_version

from daytona_kernel_interp.transport.websocket import connect_socket, serve_sockets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daytona_kernel_interp.transport.websocket import Socket

pytestmark = pytest.mark.python

METHODS = [
    *((owner, name) for owner in (ClientConnection, ServerConnection) for name in ("process_event", "data_received")),
    (Connection, "connection_lost"),
    (Connection, "resume_writing"),
    (connect, "process_redirect"),
    (Protocol, "recv_frame"),
    (Protocol, "send_binary"),
    (Protocol, "data_to_send"),
    (Protocol, "state"),
]
# Set by the constructor or by asyncio's connection_made, so the classes do not have them.
ATTRIBUTES = [
    *((Connection, name) for name in ("protocol", "transport", "loop", "paused")),
    *((Protocol, name) for name in ("close_rcvd", "close_sent")),
]


@pytest.mark.parametrize(("owner", "name"), METHODS, ids=lambda value: getattr(value, "__name__", value))
def test_the_class_has_the_name(owner: type, name: str) -> None:
    """An upgrade that removes a name fails here, with the name."""
    assert callable(getattr(owner, name, None)) or isinstance(getattr(owner, name, None), property), (
        f"{owner.__name__} of websockets {websockets_version} has no {name}"
    )


@pytest.mark.parametrize(("owner", "name"), ATTRIBUTES, ids=lambda value: getattr(value, "__name__", value))
def test_the_class_sets_the_attribute(owner: type, name: str) -> None:
    """An upgrade that removes an attribute of the instances fails here, with the name."""
    assert re.search(rf"\bself\.{name}\b[^=\n]*=[^=]", inspect.getsource(owner)), (
        f"{owner.__name__} of websockets {websockets_version} sets no {name}"
    )


@pytest.mark.parametrize("name", ["opcode", "data", "fin"])
def test_a_frame_has_the_field(name: str) -> None:
    """An upgrade that removes a field of a frame fails here, with the name."""
    assert name in Frame.__dataclass_fields__, f"Frame of websockets {websockets_version} has no {name}"


@pytest.mark.parametrize("name", ["PING", "TEXT"])
def test_an_opcode_has_the_name(name: str) -> None:
    """An upgrade that removes an opcode fails here, with the name."""
    assert hasattr(Opcode, name)


# --- hostile peers, through real sockets -----------------------------------------------------------------

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3
_REQUEST = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
BINARY, CONTINUED, FIN, PING, PONG = 0x02, 0x00, 0x80, 0x89, 0x8A


class Sink:
    """Collects what a socket receives."""

    def __init__(self) -> None:
        self.messages: list[bytes | None] = []
        self.came = asyncio.Event()
        self.lost_with: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()

    def message(self, socket: Socket, data: bytes | None) -> None:
        self.messages.append(data)
        self.came.set()

    def writable(self, socket: Socket) -> None: ...

    def lost(self, socket: Socket, code: int, reason: str) -> None:
        self.lost_with.set_result((code, reason))


def frame(first: int, payload: bytes = b"", *, masked: bool = False) -> bytes:
    """Return one frame; its mask is zero, so that the payload stays as it is."""
    size = len(payload)
    head = bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big")
    return bytes([first, head[0] | (0x80 if masked else 0)]) + head[1:] + (bytes(4) if masked else b"") + payload


class Peer:
    """A peer that writes any bytes once the upgrade is done, and reads nothing after it."""

    def __init__(self, *, is_server: bool) -> None:
        self.is_server = is_server
        self.sink = Sink()
        self._stack = contextlib.AsyncExitStack()
        self._upgraded: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Peer:
        if self.is_server:
            server = await asyncio.start_server(self._upgrade, "127.0.0.1", 0)
            self._stack.callback(server.close)
            port = server.sockets[0].getsockname()[1]
            socket: Any = await connect_socket(f"ws://127.0.0.1:{port}", {}, self.sink, timeout_s=10)
            self._stack.callback(socket.abort)
        else:

            async def handle(connection: Any) -> None:
                connection.sink = self.sink
                await connection.wait_closed()

            served = await serve_sockets(0, handle, lambda connection, request: None)
            self._stack.callback(served.close)
            port = next(iter(served.sockets)).getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(_REQUEST)
            await reader.readuntil(b"\r\n\r\n")
            self._upgraded.set_result(writer)
        return self

    async def __aexit__(self, *_: object) -> None:
        (await self._upgraded).transport.abort()
        await self._stack.aclose()

    async def _upgrade(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        key = re.search(rb"(?i)sec-websocket-key: (\S+)", request)
        assert key is not None
        accept = base64.b64encode(hashlib.sha1(key[1] + _GUID.encode()).digest()).decode()
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %s\r\n\r\n" % accept.encode()
        )
        self._upgraded.set_result(writer)

    def frame(self, first: int, payload: bytes = b"") -> bytes:
        """Return a frame as this side sends it."""
        return frame(first, payload, masked=not self.is_server)

    async def send(self, data: bytes) -> None:
        """Write bytes and wait until the transport takes more."""
        writer = await self._upgraded
        writer.write(data)
        await writer.drain()

    async def send_for_ever(self, data: bytes) -> None:
        """Write until the connection is gone, whatever the other end says."""
        with contextlib.suppress(ConnectionError):
            while True:
                await self.send(data)


def without_end(peer: Peer, kind: str) -> Iterator[bytes]:
    """Yield the beginning, and what follows it again and again."""
    start = peer.frame(BINARY, b"x" if kind == "one byte" else b"")
    repeated = {
        "empty": peer.frame(CONTINUED),
        "one byte": peer.frame(CONTINUED, b"x"),
        "with pings": peer.frame(CONTINUED) + peer.frame(PING),
        "pings": peer.frame(PING, b"x" * 100),
        "pongs": peer.frame(PONG),
    }[kind]
    yield b"" if kind in ("pings", "pongs") else start
    yield repeated * 20_000


@pytest.mark.parametrize("is_server", [True, False], ids=["relay", "host"])
@pytest.mark.parametrize("kind", ["empty", "one byte", "with pings", "pings", "pongs"])
async def test_a_flood_without_a_message_closes_the_connection(kind: str, is_server: bool) -> None:
    """With 1002, although the peer neither reads nor closes; no message is made of it."""
    async with Peer(is_server=is_server) as peer:
        start, repeated = without_end(peer, kind)
        await peer.send(start)
        flood = asyncio.ensure_future(peer.send_for_ever(repeated))
        code, _ = await asyncio.wait_for(peer.sink.lost_with, 20)
        await asyncio.wait_for(flood, 20)
        assert (code, peer.sink.messages) == (1002, [])


@pytest.mark.parametrize("is_server", [True, False], ids=["relay", "host"])
@pytest.mark.parametrize(("pieces", "size"), [(64, 0), (64, 1), (200, 1024), (60, 4096), (1, 60_000)])
async def test_a_message_in_pieces_arrives(pieces: int, size: int, is_server: bool) -> None:
    """A proxy may split messages, and send pings in between; each message begins anew."""
    async with Peer(is_server=is_server) as peer:
        data = b"x" * size
        rest = (peer.frame(CONTINUED, data) + peer.frame(PING)) * (pieces - 1)
        message = peer.frame(BINARY, data) + rest + peer.frame(CONTINUED | FIN, b"end")
        for _ in range(3):
            await peer.send(message)
        while len(peer.sink.messages) < 3:
            peer.sink.came.clear()
            await asyncio.wait_for(peer.sink.came.wait(), 10)
        assert peer.sink.messages == [data * pieces + b"end"] * 3
