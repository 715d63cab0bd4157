"""Tests of ``link.pump`` and ``link.ends``: pumps joined by WebSockets made of queues."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK

from daytona_kernel_interp.link.ends import PipeEnd, SocketEnd, pipe
from daytona_kernel_interp.link.pump import Pump
from daytona_kernel_interp.wire.errors import LocalProtocolError
from daytona_kernel_interp.wire.frames import MAX_PAYLOAD_BYTES, Frame, FrameType, decode, encode
from daytona_kernel_interp.wire.hello import Close
from daytona_kernel_interp.wire.stream import Stream

if TYPE_CHECKING:
    from daytona_kernel_interp.link.ends import LocalEnd

LIMIT_S = 10.0  # no test comes near it; one that hangs fails by it


class FakeSocket:
    """One end of a WebSocket within the process."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[bytes | str | None] = asyncio.Queue()
        self.peer: FakeSocket | None = None
        self.sent: list[bytes] = []
        self.closed: tuple[int, str] | None = None
        self._over: ConnectionClosedOK | ConnectionClosedError | None = None

    async def send(self, message: bytes) -> None:
        if self._over is not None:
            raise self._over
        self.sent.append(message)
        if self.peer is not None:
            self.peer.inbox.put_nowait(message)

    async def recv(self) -> bytes | str:
        message = await self.inbox.get()
        if message is None:
            self._over = self._over or ConnectionClosedOK(None, None)
            raise self._over
        return message

    async def close(self, code: int = 1000, reason: str = "") -> None:
        if self.closed is None:
            self.closed = (code, reason)
            for end in (self, self.peer):
                if end is not None:
                    end.inbox.put_nowait(None)

    def lose(self) -> None:
        """Break the connection as a network does."""
        self._over = ConnectionClosedError(None, None)
        self.inbox.put_nowait(None)


def sockets() -> tuple[FakeSocket, FakeSocket]:
    near, far = FakeSocket(), FakeSocket()
    near.peer, far.peer = far, near
    return near, far


class FakeEnd:
    """A local end under the test's hand."""

    def __init__(self) -> None:
        self.source: asyncio.Queue[bytes] = asyncio.Queue()
        self.reads, self.got, self.eof, self.aborted, self.closed = 0, b"", False, False, False
        self.may_write = asyncio.Event()
        self.may_write.set()

    async def read(self) -> bytes:
        data = await self.source.get()
        self.reads += 1
        return data

    async def write(self, data: bytes) -> None:
        await self.may_write.wait()
        self.got += data

    async def write_eof(self) -> None:
        self.eof = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True


async def read_all(end: LocalEnd) -> bytes:
    data = b""
    while piece := await end.read():
        data += piece
    return data


async def ended(*pumps: asyncio.Task[None]) -> None:
    """Wait for pumps that must end, and raise what they raised."""
    await asyncio.wait_for(asyncio.gather(*pumps), LIMIT_S)


async def settle() -> None:
    """Let everything that can go on go on."""
    for _ in range(200):
        await asyncio.sleep(0)


def start(stream: Stream, end: LocalEnd, connection: FakeSocket) -> asyncio.Task[None]:
    return asyncio.create_task(Pump(stream, end, connection).run())


@settings(max_examples=25)
@given(
    forth=st.lists(st.integers(1, 3000), max_size=5),
    back=st.lists(st.integers(1, 3000), max_size=5),
    window_bytes=st.integers(1, 4000),
)
def test_both_directions_arrive_whole(forth: list[int], back: list[int], window_bytes: int) -> None:
    """Each side reads what the other wrote, then its end; both pumps end and close their sockets normally."""

    async def carry(sizes: list[int], mark: bytes, end: PipeEnd) -> bytes:
        for size in sizes:
            await end.write(mark * size)
        await end.write_eof()
        return await read_all(end)

    async def scenario() -> None:
        (host, host_end), (guest, guest_end) = pipe(), pipe()
        connections = sockets()
        pumps = [
            start(Stream(window_bytes=window_bytes), end, connection)
            for end, connection in zip((host_end, guest_end), connections, strict=True)
        ]
        results = asyncio.gather(carry(forth, b"f", host), carry(back, b"b", guest))
        at_host, at_guest = await asyncio.wait_for(results, LIMIT_S)
        assert at_host == b"b" * sum(back)
        assert at_guest == b"f" * sum(forth)
        await ended(*pumps)
        assert {code for code, _ in (c.closed or (1000, "") for c in connections)} == {1000}

    asyncio.run(scenario())


async def test_an_end_of_one_direction_leaves_the_other_open() -> None:
    """A half-closed connection is carried as such."""
    (host, host_end), (guest, guest_end) = pipe(), pipe()
    near, far = sockets()
    pumps = start(Stream(), host_end, near), start(Stream(), guest_end, far)
    await host.write_eof()
    assert await asyncio.wait_for(guest.read(), LIMIT_S) == b""
    await guest.write(b"still here")
    assert await asyncio.wait_for(host.read(), LIMIT_S) == b"still here"
    assert not any(pump.done() for pump in pumps)
    await guest.write_eof()
    await ended(*pumps)


async def test_a_slow_reader_stops_the_sender() -> None:
    """While the far local socket takes nothing, the near one is read up to the window and no further."""
    source, sink = FakeEnd(), FakeEnd()
    near, far = sockets()
    pumps = start(Stream(window_bytes=1000), source, near), start(Stream(window_bytes=1000), sink, far)
    for number in range(100):
        source.source.put_nowait(bytes([number]) * 100)
    sink.may_write.clear()
    await settle()
    assert source.reads == 10
    sink.may_write.set()
    await settle()
    assert source.reads == 100
    assert sink.got == b"".join(bytes([number]) * 100 for number in range(100))
    source.source.put_nowait(b"")
    sink.source.put_nowait(b"")
    await ended(*pumps)
    assert (source.eof, sink.eof) == (True, True)


async def test_a_lost_socket_ends_the_pump() -> None:
    """The local end is aborted, so whoever is behind it learns; the pump itself raises nothing."""
    end, connection = FakeEnd(), FakeSocket()
    pump = start(Stream(), end, connection)
    connection.lose()
    await ended(pump)
    assert end.aborted


async def test_the_last_ack_goes_out_before_the_close() -> None:
    """A peer whose FIN came while we were sending hears that it arrived: its stream ended well too."""

    class Slow(FakeSocket):
        def __init__(self) -> None:
            super().__init__()
            self.gate = asyncio.Event()

        async def send(self, message: bytes) -> None:
            await super().send(message)
            await self.gate.wait()

    end, connection = FakeEnd(), Slow()
    end.source.put_nowait(b"")
    pump = start(Stream(), end, connection)
    await settle()  # our FIN is on its way
    connection.inbox.put_nowait(encode(Frame(FrameType.FIN, 0, 1)))
    await settle()
    connection.gate.set()
    await ended(pump)
    assert decode(connection.sent[-1]).ack == 1


async def test_a_socket_that_cannot_send_ends_the_pump() -> None:
    """A loss that the sender notices first is the same loss."""
    end, connection = FakeEnd(), FakeSocket()
    pump = start(Stream(), end, connection)
    connection._over = ConnectionClosedError(None, None)
    end.source.put_nowait(b"x")
    await ended(pump)
    assert end.aborted


async def test_what_arrived_before_the_loss_is_delivered() -> None:
    """Frames that were received reach the local end before it is aborted."""
    end, connection = FakeEnd(), FakeSocket()
    connection.inbox.put_nowait(encode(Frame(FrameType.DATA, 0, 0, b"last words")))
    pump = start(Stream(), end, connection)
    connection.lose()
    await ended(pump)
    assert (end.got, end.aborted) == (b"last words", True)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ("text", "a text message"),
        (b"", "a frame has 17"),
        (encode(Frame(FrameType.DATA, 5, 0, b"x")), "gap"),
        (encode(Frame(FrameType.ACK, 0, 1)), "ack 1"),
        (encode(Frame(FrameType.HELLO, 0, 0, b"{}")), "HELLO"),
        (b"\xff" + bytes(16), "type 255"),
    ],
)
async def test_a_peer_that_breaks_the_protocol_is_told(message: bytes | str, why: str) -> None:
    """The socket is closed with our code and the reason, the local end is aborted, and nothing is raised."""
    end, connection = FakeEnd(), FakeSocket()
    connection.inbox.put_nowait(message)
    await ended(start(Stream(), end, connection))
    assert connection.closed is not None
    code, reason = connection.closed
    assert code == Close.BAD_HELLO
    assert why in reason
    assert len(reason.encode()) <= 123  # RFC 6455 §5.5: what a close frame holds
    assert end.aborted


async def test_a_fault_of_ours_is_raised() -> None:
    """A core driven against its rules is a bug: the peer is told 1011 and the caller gets the error."""

    class Broken(FakeEnd):
        async def write(self, data: bytes) -> None:
            raise LocalProtocolError("a bug")

    end, connection = Broken(), FakeSocket()
    connection.inbox.put_nowait(encode(Frame(FrameType.DATA, 0, 0, b"x")))
    with pytest.raises(LocalProtocolError, match="a bug"):
        await ended(start(Stream(), end, connection))
    assert connection.closed == (1011, "")
    assert end.aborted


async def test_a_cancelled_pump_leaves_nothing() -> None:
    """Local end and socket are closed, and no task goes on."""
    before = asyncio.all_tasks()
    end, connection = FakeEnd(), FakeSocket()
    pump = start(Stream(), end, connection)
    await settle()
    pump.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await pump
    assert end.aborted
    assert connection.closed == (1000, "")
    assert asyncio.all_tasks() == before


# --- local ends --------------------------------------------------------------------------------------


async def test_a_pipe_cuts_at_a_frame() -> None:
    """What is written whole is read in pieces that one frame carries."""
    near, far = pipe()
    await near.write(bytes(2 * MAX_PAYLOAD_BYTES + 1))
    await near.write_eof()
    sizes = [len(await far.read()) for _ in range(4)]
    assert sizes == [MAX_PAYLOAD_BYTES, MAX_PAYLOAD_BYTES, 1, 0]
    assert await far.read() == b""


async def test_an_aborted_pipe_ends_both_readers() -> None:
    """Even where the other side is far behind, each reader comes to an end."""
    near, far = pipe()
    for _ in range(64):
        await near.write(b"x")
    near.abort()
    for end in (near, far):
        await asyncio.wait_for(read_all(end), LIMIT_S)


async def socket_end() -> tuple[SocketEnd, socket.socket]:
    """Return a local end and the socket behind it."""
    ours, theirs = socket.socketpair()
    for one in (ours, theirs):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    theirs.setblocking(False)
    return SocketEnd(*await asyncio.open_connection(sock=ours)), theirs


async def receive_all(connection: socket.socket) -> bytes:
    loop, data = asyncio.get_running_loop(), b""
    with contextlib.suppress(ConnectionError):
        while piece := await asyncio.wait_for(loop.sock_recv(connection, 65536), LIMIT_S):
            data += piece
    connection.close()
    return data


async def test_a_socket_end_carries_bytes_and_ends() -> None:
    """Reads and writes reach the socket behind it, and so does the end of either direction."""
    end, theirs = await socket_end()
    theirs.send(b"in")
    assert await asyncio.wait_for(end.read(), LIMIT_S) == b"in"
    await end.write(b"out")
    await end.write_eof()
    assert await receive_all(theirs) == b"out"
    assert await asyncio.wait_for(end.read(), LIMIT_S) == b""
    end.abort()


async def test_a_socket_end_survives_its_peer() -> None:
    """What is written to a socket that is gone is dropped, as the network would."""
    end, theirs = await socket_end()
    theirs.close()
    for _ in range(3):
        await end.write(b"x" * 100_000)
    await end.write_eof()
    assert await asyncio.wait_for(end.read(), LIMIT_S) == b""
    end.abort()


async def test_a_slow_reader_gets_all_before_the_end() -> None:
    """A stream that ended well is delivered whole, also to a reader that begins after both pumps are done."""
    host, host_end = pipe()
    end, theirs = await socket_end()
    near, far = sockets()
    pumps = start(Stream(), host_end, near), start(Stream(), end, far)
    theirs.shutdown(socket.SHUT_WR)
    payload = bytes(range(256)) * 160  # more than the socket takes at once, less than what drain() waits for
    await host.write(payload)
    await host.write_eof()
    await settle()
    got = await receive_all(theirs)
    await ended(*pumps)
    assert len(got) == len(payload)
    assert got == payload
