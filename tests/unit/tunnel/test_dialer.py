"""A dialled stream against relays that misbehave, over real WebSockets."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from daytona_kernel_interp.errors import KernelError, TunnelLost
from daytona_kernel_interp.sandboxes.base import RelayAddress
from daytona_kernel_interp.transport.local_socket import FunctionEnd
from daytona_kernel_interp.transport.websocket import serve_sockets
from daytona_kernel_interp.tunnel.dialer import DialedStream, Dialer
from daytona_kernel_interp.tunnel.entropy import Entropy
from daytona_kernel_interp.wire.frames import MAX_FRAME_BYTES, Frame, FrameType, decode, encode
from daytona_kernel_interp.wire.hello import HELLO_HEADER, RELAY_CHANNEL, CloseCode, parse_host_hello
from daytona_kernel_interp.wire.keepalive import Admitted, LinkTimings, RelayStreams

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

Handler = Any
TIMES = LinkTimings(resume_lifetime_s=2.0)


class FakeRelay:
    """A fake relay that sends a hello and then runs a function of the test."""

    def __init__(self, after_hello: Callable[[Any], Awaitable[None]]) -> None:
        self.streams = RelayStreams(boot="b00t")
        self.dials = 0
        self._after_hello = after_hello

    async def serve(self, connection: Any) -> None:
        self.dials += 1
        hello = parse_host_hello(connection.request.headers[HELLO_HEADER])
        admitted = self.streams.admit(RELAY_CHANNEL, hello)
        assert isinstance(admitted, Admitted)
        await connection.send(encode(self.streams.hello_frame(admitted.stream)))
        await self._after_hello(connection)
        with contextlib.suppress(Exception):
            async for _ in connection:
                pass


@contextlib.asynccontextmanager
async def dialled(relay: FakeRelay) -> AsyncIterator[tuple[DialedStream, asyncio.Future[KernelError]]]:
    """Dial ``relay``; the future has the reason for the stream's end."""
    gone: asyncio.Future[KernelError] = asyncio.get_running_loop().create_future()

    async def never() -> None:
        return None

    server = await serve_sockets(0, relay.serve, lambda connection, request: None)
    port = server.sockets[0].getsockname()[1]
    dialler = Dialer(RelayAddress(f"ws://127.0.0.1:{port}", "secret"), never, TIMES, Entropy())
    stream = DialedStream(dialler, RELAY_CHANNEL, "", lambda _, error: gone.set_result(error))
    stream.connect(FunctionEnd(lambda data: None))
    try:
        yield stream, gone
    finally:
        stream.close()
        await stream.wait_closed()
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(
    "message",
    [bytes(MAX_FRAME_BYTES + 1), b"garbage", "text", encode(Frame(FrameType.DATA, 99, 0, b"gap"))],
    ids=["oversized", "garbage", "text", "gap"],
)
async def test_a_relay_that_breaks_the_protocol_is_dialled_once(message: bytes | str) -> None:
    """A protocol error is not dialled again, because it would occur again."""
    relay = FakeRelay(lambda connection: connection.send(message))
    async with dialled(relay) as (stream, gone):
        if isinstance(message, bytes) and len(message) > MAX_FRAME_BYTES:
            assert isinstance(await asyncio.wait_for(gone, 10), TunnelLost)
        await asyncio.wait_for(stream.wait_closed(), 10)
        assert stream.carrier.ended
        assert relay.dials == 1


async def test_a_lost_socket_is_dialled_again() -> None:
    """Non-final close codes and resets are faults of the network."""
    relay: FakeRelay
    third = asyncio.Event()

    async def lose(connection: Any) -> None:
        if relay.dials == 1:
            await connection.close(1012)  # service restart
        elif relay.dials == 2:
            connection.transport.abort()
        else:
            third.set()

    relay = FakeRelay(lose)
    async with dialled(relay) as (_, gone):
        await asyncio.wait_for(third.wait(), 10)
        assert not gone.done()


async def test_a_stream_that_ended_on_both_sides_needs_no_last_word() -> None:
    """The relay removed the stream after the last ack; a lost close is not an error."""

    async def finish(connection: Any) -> None:
        if relay.dials == 1:
            await connection.send(encode(Frame(FrameType.FIN, 0, 0, b"")))
            while decode(await connection.recv()).type is not FrameType.FIN:
                pass
            connection.transport.abort()

    relay = FakeRelay(finish)
    serve = relay.serve

    async def refuse(connection: Any) -> None:
        if relay.dials >= 1:
            await connection.close(CloseCode.UNKNOWN_STREAM)
        else:
            await serve(connection)

    relay.serve = refuse  # type: ignore[method-assign]
    async with dialled(relay) as (stream, gone):
        await asyncio.wait_for(stream.opened, 10)
        stream.carrier.feed_eof()
        await asyncio.wait_for(stream.wait_closed(), 10)
        assert stream.carrier.ended
        assert not gone.done()
