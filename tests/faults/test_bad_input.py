"""Invalid input to a relay: each connection gets its close code, and other connections are unaffected."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from daytona_kernel_interp.client.execution_result import ExecutionAborted
from daytona_kernel_interp.errors import KernelDied, SandboxFailed, TunnelLost
from daytona_kernel_interp.runtime.event_loop import io_loop
from daytona_kernel_interp.tunnel.tunnel import Tunnel
from daytona_kernel_interp.wire.frames import MAX_FRAME_BYTES, MAX_PAYLOAD_BYTES, Frame, FrameType, decode, encode
from daytona_kernel_interp.wire.hello import HELLO_HEADER, MAX_STREAMS, PATH_PREFIX, SECRET_HEADER, CloseCode, HostHello
from daytona_kernel_interp.wire.stream import WINDOW_BYTES
from tests.integration.driver import Driver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from .proxy import Proxy

TOO_BIG = 1009  # RFC 6455 §7.4.1; sent by websockets before the relay reads the message
MAX_GROWTH_BYTES = 64 * 1024 * 1024


@pytest.fixture(scope="module")
def session() -> Iterator[Driver]:
    driver = Driver()
    driver.run("cells = 0")
    yield driver
    driver.close()


@pytest.fixture(autouse=True)
def unharmed(session: Driver) -> Iterator[None]:
    """Provide a session and check afterwards that its streams still run cells."""
    before = session.value("cells")
    yield
    assert session.value("cells += 1\ncells") == before + 1


@pytest.fixture
async def streams(session: Driver) -> AsyncIterator[Streams]:
    async with contextlib.AsyncExitStack() as stack:
        yield Streams(session, stack)


class Streams:
    """A client that opens attachments at a session's relay."""

    def __init__(self, session: Driver, stack: contextlib.AsyncExitStack) -> None:
        self._session, self._stack = session, stack

    async def dial(self, hello: str, channel: str = "hb", secret: str | None = None) -> Any:
        address = self._session.session.sandbox.address
        headers = {SECRET_HEADER: secret or address.secret, HELLO_HEADER: hello}
        url = f"{address.url}{PATH_PREFIX}{channel}"
        return await self._stack.enter_async_context(connect(url, additional_headers=headers, proxy=None))

    async def attach(self, **facts: Any) -> tuple[Any, Frame]:
        """Return an attachment and the relay's hello."""
        socket = await self.dial(self.hello(**facts))
        return socket, decode(await socket.recv())

    def hello(self, **facts: Any) -> str:
        """Return a valid hello for a new stream, changed by ``facts``."""
        new = {"stream": secrets.token_hex(16), "resume": secrets.token_hex(32), "window": WINDOW_BYTES}
        return HostHello(**{**new, "kernel": self._session.session.kernel.id, **facts}).to_header()


async def closed(socket: Any) -> tuple[int, str]:
    """Return the code and reason with which the relay closes."""
    while socket.close_code is None:
        with contextlib.suppress(ConnectionClosed):
            await asyncio.wait_for(socket.recv(), 20)
    return socket.close_code, socket.close_reason


async def lives(socket: Any) -> bool:
    """Check whether an attachment is alive: the relay replies to an ACK without a new offset."""
    await socket.send(encode(Frame(FrameType.ACK, 0, 0)))
    return decode(await asyncio.wait_for(socket.recv(), 20)).type is FrameType.ACK


async def relay_of(session: Driver) -> psutil.Process:
    return psutil.Process(await asyncio.to_thread(session.value, "import os; os.getppid()"))


async def test_a_wrong_secret(streams: Streams) -> None:
    """The secret is checked before anything else."""
    with pytest.raises(InvalidStatus) as caught:
        await streams.dial("garbage", secret="guess")
    assert caught.value.response.status_code == 401


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        ("garbage", "the hello is not JSON"),
        ("x" * 5000, "a hello has at most 4096 characters"),
        ('{"version": 1}', "the peer speaks wire version 1, this side 2"),
        ('{"version": 2}', "hello without a stream id of 32 hex digits"),
        ('{"version": 2, "stream": "' + "0" * 32 + '"}', "hello without a resume secret of 64 hex digits"),
    ],
)
async def test_a_bad_hello(streams: Streams, hello: str, reason: str) -> None:
    """The relay closes with 4400 and the reason."""
    code, said = await closed(await streams.dial(hello))
    assert code == CloseCode.BAD_HELLO
    assert said.startswith(reason)


async def test_no_websocket_at_all(session: Driver) -> None:
    """Bytes that are not HTTP get a response or a closed connection."""
    port = int(session.session.sandbox.address.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"\x00\xff" * 5000 + b"\r\n\r\n")
    await asyncio.wait_for(reader.read(), 20)
    writer.close()


async def test_a_replayed_generation(streams: Streams) -> None:
    """The replay gets 4409; the original attachment continues."""
    facts = {"stream": secrets.token_hex(16), "resume": secrets.token_hex(32), "generation": 2}
    socket, _ = await streams.attach(**facts)
    for generation in (1, 2):
        again = await streams.dial(streams.hello(**{**facts, "known": True, "generation": generation}))
        assert await closed(again) == (CloseCode.STALE_GENERATION, f"generation {generation} is not above 2")
    assert await lives(socket)


async def test_a_later_generation_takes_over(streams: Streams) -> None:
    """The earlier attachment of the stream gets 4001."""
    facts = {"stream": secrets.token_hex(16), "resume": secrets.token_hex(32)}
    first, _ = await streams.attach(**facts)
    second, _ = await streams.attach(**facts, known=True, generation=2)
    assert (await closed(first))[0] == CloseCode.SUPERSEDED
    assert await lives(second)


async def test_another_streams_secret(streams: Streams) -> None:
    """The relay closes with 4401: a stream's id is not sufficient to attach."""
    stream = secrets.token_hex(16)
    socket, _ = await streams.attach(stream=stream)
    thief = await streams.dial(streams.hello(stream=stream, known=True, generation=2))
    assert (await closed(thief))[0] == CloseCode.BAD_SECRET
    assert await lives(socket)


async def test_a_stream_that_the_relay_does_not_have(streams: Streams) -> None:
    """4404."""
    assert (await closed(await streams.dial(streams.hello(known=True, generation=2))))[0] == CloseCode.UNKNOWN_STREAM


async def test_resuming_from_the_future(streams: Streams) -> None:
    """An offset that was not reached gets 4400; the current attachment continues."""
    facts = {"stream": secrets.token_hex(16), "resume": secrets.token_hex(32)}
    socket, _ = await streams.attach(**facts)
    code, reason = await closed(await streams.dial(streams.hello(**facts, known=True, generation=2, received=10**9)))
    assert (code, reason) == (CloseCode.BAD_HELLO, "the peer resumes at offset 1000000000; kept are 0 to 0")
    assert await lives(socket)


@pytest.mark.parametrize(
    ("message", "code", "reason"),
    [
        (b"", CloseCode.BAD_HELLO, "a frame has 17 to"),
        (b"\xff" * 20, CloseCode.BAD_HELLO, "frame type 255 does not exist"),
        ("text", CloseCode.BAD_HELLO, "a text message"),
        (encode(Frame(FrameType.DATA, 1, 0, b"x")), CloseCode.BAD_HELLO, "gap: expected offset 0, got 1"),
        (encode(Frame(FrameType.DATA, 2**62, 0, b"x")), CloseCode.BAD_HELLO, "gap: expected offset 0"),
        (encode(Frame(FrameType.ACK, 0, 1)), CloseCode.BAD_HELLO, "ack 1 lies beyond the 0 bytes sent"),
        (encode(Frame(FrameType.HELLO, 0, 0, b"{}")), CloseCode.BAD_HELLO, "a second HELLO"),
        (bytes(MAX_FRAME_BYTES + 1), TOO_BIG, ""),
    ],
)
async def test_a_bad_frame(streams: Streams, message: bytes | str, code: int, reason: str) -> None:
    """The stream ends with a code and a reason; another stream of the same client continues."""
    bystander, _ = await streams.attach()
    socket, _ = await streams.attach()
    await socket.send(message)
    closed_with, said = await closed(socket)
    assert closed_with == code
    assert said.startswith(reason)
    assert await lives(bystander)


async def test_more_than_the_window(session: Driver, streams: Streams) -> None:
    """A sender that ignores the window gets 4413, and memory stays within the window."""
    relay = await relay_of(session)
    before = relay.memory_info().rss
    socket, _ = await streams.attach(kernel="never-started")  # no process reads the bytes
    payload = bytes(MAX_PAYLOAD_BYTES)
    with contextlib.suppress(ConnectionClosed):
        for number in range(2 * WINDOW_BYTES // MAX_PAYLOAD_BYTES):
            await socket.send(encode(Frame(FrameType.DATA, number * MAX_PAYLOAD_BYTES, 0, payload)))
    assert (await closed(socket))[0] == CloseCode.WINDOW_OVERRUN
    assert relay.memory_info().rss - before < MAX_GROWTH_BYTES


async def test_a_flood_of_streams(session: Driver, streams: Streams) -> None:
    """The 65th stream and later ones get 4429; others continue, and memory is limited."""
    relay = await relay_of(session)
    before = relay.memory_info().rss
    codes, opened = [], []
    for _ in range(2 * MAX_STREAMS):
        socket = await streams.dial(streams.hello())
        with contextlib.suppress(ConnectionClosed):
            await asyncio.wait_for(socket.recv(), 20)
        if socket.close_code is None:
            opened.append(socket)
        else:
            codes.append(socket.close_code)
    assert set(codes) == {CloseCode.TOO_MANY_STREAMS}
    assert MAX_STREAMS <= len(codes) < MAX_STREAMS + 10
    assert await lives(opened[0])
    assert await asyncio.to_thread(session.value, "cells") >= 0
    assert relay.memory_info().rss - before < MAX_GROWTH_BYTES


async def test_a_kernel_that_is_gone(streams: Streams) -> None:
    """The first byte of the stream finds a closed port: 4502."""
    driver = await asyncio.to_thread(Driver)
    try:
        with pytest.raises(ExecutionAborted):
            await asyncio.to_thread(driver.run, "import os; os._exit(1)")
        async with contextlib.AsyncExitStack() as stack:
            socket, _ = await Streams(driver, stack).attach()
            await socket.send(encode(Frame(FrameType.DATA, 0, 0, b"x")))
            code, reason = await closed(socket)
            assert code == CloseCode.PORT_REFUSED
            assert reason == "no such kernel"
        with pytest.raises(KernelDied):
            await asyncio.to_thread(driver.run, "1")
    finally:
        await asyncio.to_thread(driver.close)


def test_a_relay_that_vanishes(driver: Driver, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The running cell, the next one and a new client get one clear error each, with the address."""

    def vanish() -> None:
        proxy.refuse()
        proxy.cut()

    driver.tools["vanish"] = vanish
    with pytest.raises(ExecutionAborted) as caught:
        driver.run("print('before')\nvanish()\nimport time\nwhile True: time.sleep(0.01)")
    words = f"the relay at ws://127.0.0.1:{proxy.port} cannot be reached"
    assert isinstance(caught.value.error, TunnelLost)
    assert words in str(caught.value)
    assert caught.value.cell.text() == "before\n"
    with pytest.raises(TunnelLost, match=words):
        driver.run("1")
    monkeypatch.setattr("daytona_kernel_interp.tunnel.dialer.DIAL_S", 0.1)
    with pytest.raises(SandboxFailed, match=words):
        io_loop().run(Tunnel.open(driver.session.sandbox.address))


def test_a_relay_that_is_something_else(driver: Driver, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the port belongs to a kernel instead of a relay, there is one error and no endless dialling."""
    monkeypatch.setattr("daytona_kernel_interp.tunnel.dialer.DIAL_S", 0.5)
    code = "import json, ipykernel.connect as c; json.loads(c.get_connection_info())['shell_port']"
    proxy.lead_to(driver.value(code))
    with pytest.raises(SandboxFailed, match="cannot be reached"):
        io_loop().run(Tunnel.open(driver.session.sandbox.address))
