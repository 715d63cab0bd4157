"""A dialled stream against relays that misbehave, over real WebSockets."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from daytona_kernel_interp.errors import KernelError, SandboxFailed, SandboxGone, TunnelLost
from daytona_kernel_interp.sandboxes.base import RelayAddress, ServiceRefused
from daytona_kernel_interp.transport.local_socket import FunctionEnd
from daytona_kernel_interp.transport.websocket import serve_sockets
from daytona_kernel_interp.tunnel import dialer
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
        self.refuse: int | None = None  # the status with which upgrades are refused
        self.refusals: asyncio.Queue[int] = asyncio.Queue()
        self.accepted, self.received = asyncio.Event(), asyncio.Event()
        self._after_hello = after_hello

    async def serve(self, connection: Any) -> None:
        self.dials += 1
        self.accepted.set()
        hello = parse_host_hello(connection.request.headers[HELLO_HEADER])
        admitted = self.streams.admit(RELAY_CHANNEL, hello)
        assert isinstance(admitted, Admitted)
        await connection.send(encode(self.streams.hello_frame(admitted.stream)))
        await self._after_hello(connection)
        with contextlib.suppress(Exception):
            async for _ in connection:
                self.received.set()

    def check(self, connection: Any, request: Any) -> Any:
        if self.refuse is None:
            return None
        self.refusals.put_nowait(self.refuse)
        return connection.respond(self.refuse, "no\n")


async def never() -> None:
    """Know nothing about the relay's address."""


@contextlib.asynccontextmanager
async def dialled(
    relay: FakeRelay,
    restart: Callable[[RelayAddress], Awaitable[RelayAddress | None]] = lambda address: never(),
    final: frozenset[int] = frozenset(),
) -> AsyncIterator[tuple[DialedStream, asyncio.Future[KernelError]]]:
    """Dial ``relay``; the future has the reason for the stream's end."""
    gone: asyncio.Future[KernelError] = asyncio.get_running_loop().create_future()
    server = await serve_sockets(0, relay.serve, relay.check)
    port = server.sockets[0].getsockname()[1]
    address = RelayAddress(f"ws://127.0.0.1:{port}", "secret", final_refusals=final)
    dialler = Dialer(address, lambda: restart(address), TIMES, Entropy())
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


# --- refusals ---------------------------------------------------------------------------------------------------


async def confirm(address: RelayAddress) -> RelayAddress:
    """Reach the service, which says that the sandbox runs and has this address."""
    return address


async def fail(address: RelayAddress) -> RelayAddress:
    """Not reach the service."""
    raise SandboxFailed("the request for the sandbox failed")


async def refuse_key(address: RelayAddress) -> RelayAddress:
    """Reach the service, which refuses the key."""
    raise ServiceRefused("the service does not accept the key")


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the second refusal that counts end the link."""
    monkeypatch.setattr(dialer, "_REFUSED_TIMEOUT_S", 0.0)
    monkeypatch.setattr(dialer, "_NOT_FOUND_TIMEOUT_S", 0.0)


async def lose_first(relay: FakeRelay, stream: DialedStream, status: int) -> None:
    """Attach the stream, then lose its socket and refuse further dials."""
    await asyncio.wait_for(stream.opened, 10)
    relay.refuse = status
    relay.accepted.clear()
    socket = stream.carrier.socket
    assert socket is not None
    socket.abort()


@pytest.mark.usefixtures("no_patience")
@pytest.mark.parametrize("status", [307, 401, 403, 404])
@pytest.mark.parametrize("restart", [never, fail], ids=["unknown", "service out of reach"])
async def test_a_refusal_that_the_service_does_not_confirm_is_an_outage(
    status: int, restart: Callable[..., Awaitable[RelayAddress | None]], caplog: pytest.LogCaptureFixture
) -> None:
    """A proxy refuses good tokens while its backends are away; the link is resumed, with a line at begin and end."""
    relay = FakeRelay(lambda connection: asyncio.sleep(0))
    known = (lambda address: never()) if restart is never else restart
    async with dialled(relay, known) as (stream, gone):
        await lose_first(relay, stream, status)
        for _ in range(4):
            await asyncio.wait_for(relay.refusals.get(), 10)
        relay.refuse = None
        await asyncio.wait_for(relay.accepted.wait(), 10)
        stream.carrier.feed_eof()  # the relay's answer to the last byte shows that the stream is attached again
        await asyncio.wait_for(relay.received.wait(), 10)
        assert not gone.done()
    lines = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert [line.split(",")[0] for line in lines] == (
        [] if restart is never else ["the relay cannot be reached", "the relay is reached again"]
    )


@pytest.mark.usefixtures("no_patience")
@pytest.mark.parametrize("status", [307, 401, 403, 404])
@pytest.mark.parametrize("restart", [confirm, refuse_key])
async def test_a_refusal_that_the_service_confirms_ends_the_link(
    status: int, restart: Callable[[RelayAddress], Awaitable[RelayAddress | None]]
) -> None:
    """The service is there and says that this address is the right one, or that the key is none."""
    relay = FakeRelay(lambda connection: asyncio.sleep(0))
    async with dialled(relay, restart) as (stream, gone):
        await lose_first(relay, stream, status)
        error = await asyncio.wait_for(gone, 10)
        assert isinstance(error, TunnelLost)
        assert f"HTTP {status}" in str(error)


@pytest.mark.usefixtures("no_patience")
async def test_without_a_service_the_address_says_which_refusals_count() -> None:
    """A relay behind another proxy: 401 and 403 are final, 307 and 404 may be an outage."""
    final = frozenset({401, 403})
    for status in (307, 401, 403, 404):
        relay = FakeRelay(lambda connection: asyncio.sleep(0))
        async with dialled(relay, final=final) as (stream, gone):
            await lose_first(relay, stream, status)
            if status in final:
                assert isinstance(await asyncio.wait_for(gone, 10), TunnelLost)
                continue
            for _ in range(4):
                await asyncio.wait_for(relay.refusals.get(), 10)
            assert not gone.done()


async def test_each_stream_learns_that_the_sandbox_is_gone() -> None:
    """The first request raises ``SandboxGone``; a later stream of the same dialer fails with it without a request."""
    answers = [SandboxGone("the sandbox was deleted")]

    async def restart(address: RelayAddress) -> None:
        if answers:
            raise answers.pop()

    relay = FakeRelay(lambda connection: asyncio.sleep(0))
    async with dialled(relay, restart) as (stream, gone):
        await lose_first(relay, stream, 502)
        assert isinstance(await asyncio.wait_for(gone, 10), SandboxGone)
        later: asyncio.Future[KernelError] = asyncio.get_running_loop().create_future()
        other = DialedStream(stream._dialer, RELAY_CHANNEL, "", lambda _, error: later.set_result(error))
        assert isinstance(await asyncio.wait_for(later, 10), SandboxGone)
        other.close()
        await other.wait_closed()
