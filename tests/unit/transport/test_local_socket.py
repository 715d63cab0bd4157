"""Tests of ``transport.local_socket``, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

import pytest

from daytona_kernel_interp.transport.local_socket import FunctionEnd, SocketEnd
from daytona_kernel_interp.wire.zmtp import AcceptingEnd, ConnectingEnd, ready

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.python

GREETING = ConnectingEnd.opening
READY = ready(b"ROUTER")
MB = 1 << 20


class Recorder:
    """A feed that records its calls and wakes waiting tests."""

    def __init__(self) -> None:
        self.got = b""
        self.ends = self.takes = 0
        self.errors: list[Exception] = []
        self._changed = asyncio.Event()

    def feed(self, data: bytes) -> None:
        self.got += data
        self._changed.set()

    def feed_eof(self) -> None:
        self.ends += 1
        self._changed.set()

    def local_drained(self) -> None:
        self.takes += 1
        self._changed.set()

    def local_failed(self, error: Exception) -> None:
        self.errors.append(error)
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds; it is checked after each call."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield the two ends of a connection: ours, and the peer's, which does not block."""
    ours, peer = socket.socketpair()
    for sock in (ours, peer):
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32_768)
    yield ours, peer
    peer.close()
    ours.close()


async def connect(end: SocketEnd, ours: socket.socket) -> None:
    """Give an end its socket."""
    await asyncio.get_running_loop().create_connection(lambda: end, sock=ours)


async def read(peer: socket.socket, size: int) -> bytes:
    """Read exactly so many bytes, or up to the end."""
    data = b""
    while len(data) < size and (piece := await asyncio.get_running_loop().sock_recv(peer, size - len(data))):
        data += piece
    return data


async def test_bytes_pass_both_ways(sockets: tuple[socket.socket, socket.socket]) -> None:
    """Received bytes are fed, written bytes reach the peer, and EOF is reported once."""
    ours, peer = sockets
    end, feed = SocketEnd(), Recorder()
    end.open(feed)
    await connect(end, ours)
    end.write(b"hello")
    assert await read(peer, 5) == b"hello"
    peer.send(b"you")
    peer.shutdown(socket.SHUT_WR)
    await feed.until(lambda: feed.ends == 1)
    assert feed.got == b"you"
    end.write(b"still")  # the other direction is open
    assert await read(peer, 5) == b"still"
    end.write_eof()
    assert await read(peer, 1) == b""
    end.abort()


async def test_what_is_written_before_the_socket_is_there_waits(sockets: tuple[socket.socket, socket.socket]) -> None:
    """Order is kept, all bytes count as pending, and EOF follows them."""
    ours, peer = sockets
    end, feed = SocketEnd(), Recorder()
    end.open(feed)
    for index in range(100):
        end.write(b"%02d" % index)
    end.write_eof()
    assert end.pending == 200
    await connect(end, ours)
    assert await read(peer, 201) == b"".join(b"%02d" % index for index in range(100))
    await feed.until(lambda: feed.takes > 0)
    assert end.pending == 0
    end.abort()


async def test_what_the_peer_does_not_read_is_pending(sockets: tuple[socket.socket, socket.socket]) -> None:
    """A callback reports that the operating system has accepted all bytes."""
    ours, peer = sockets
    end, feed = SocketEnd(), Recorder()
    end.open(feed)
    await connect(end, ours)
    takes = feed.takes
    end.write(bytes(4 * MB))
    assert end.pending > 3 * MB
    assert feed.takes == takes
    assert len(await read(peer, 4 * MB)) == 4 * MB
    await feed.until(lambda: feed.takes > takes)
    assert end.pending == 0
    end.abort()


async def test_the_last_byte_that_is_taken_is_told(sockets: tuple[socket.socket, socket.socket]) -> None:
    """The callback comes for any number of pending bytes, because an ack depends on it."""
    ours, peer = sockets
    end, feed = SocketEnd(), Recorder()
    end.open(feed)
    await connect(end, ours)
    written = 0
    while not end.pending:
        end.write(bytes(100))
        written += 100
    takes = feed.takes
    assert len(await read(peer, written)) == written
    await feed.until(lambda: feed.takes > takes)
    assert end.pending == 0
    end.abort()


async def test_a_pause_stops_reading(sockets: tuple[socket.socket, socket.socket]) -> None:
    """A pause before or after the connect leaves unread bytes in the peer's socket."""
    ours, peer = sockets
    end, feed = SocketEnd(), Recorder()
    end.pause()
    end.open(feed)
    await connect(end, ours)
    with contextlib.suppress(BlockingIOError):
        while True:
            peer.send(bytes(65536))  # until no buffer takes more
    other, other_peer = socket.socketpair()
    with other_peer:
        beside, heard = SocketEnd(), Recorder()
        beside.open(heard)
        await connect(beside, other)
        other_peer.send(b"x")
        await heard.until(lambda: heard.got == b"x")  # the loop went round: what could be read, was
        beside.abort()
    assert feed.got == b""
    end.resume()
    await feed.until(lambda: bool(feed.got))
    end.abort()


async def test_without_a_feed_nothing_is_read(sockets: tuple[socket.socket, socket.socket]) -> None:
    """A stream may be connected before its bytes have a reader; no byte is lost."""
    ours, peer = sockets
    end, feed = SocketEnd(), Recorder()
    peer.send(b"early")
    await connect(end, ours)
    end.open(feed)
    await feed.until(lambda: feed.got == b"early")
    end.abort()


async def test_a_reset_is_the_end_and_owes_nothing(sockets: tuple[socket.socket, socket.socket]) -> None:
    """Bytes for a disconnected peer are not pending, so the stream can end."""
    ours, peer = sockets
    end, feed = SocketEnd(), Recorder()
    end.open(feed)
    await connect(end, ours)
    end.write(bytes(4 * MB))
    peer.close()
    await feed.until(lambda: feed.ends > 0)
    assert end.pending == 0
    end.write(b"more")
    end.write_eof()
    end.abort()


async def test_close_still_sends_and_abort_does_not(sockets: tuple[socket.socket, socket.socket]) -> None:
    """No bytes are fed after either of them."""
    ours, peer = sockets
    end, feed = SocketEnd(), Recorder()
    end.open(feed)
    await connect(end, ours)
    end.write(bytes(MB))
    end.close()
    assert len(await read(peer, MB + 1)) == MB
    ours, peer = socket.socketpair()
    peer.setblocking(False)
    with peer:
        end = SocketEnd()
        end.open(feed)
        await connect(end, ours)
        end.write(bytes(8 * MB))
        end.abort()
        assert len(await read(peer, 8 * MB)) < 8 * MB
    assert (feed.got, feed.ends) == (b"", 0)


async def test_an_end_aborted_before_it_connects_stays_so(sockets: tuple[socket.socket, socket.socket]) -> None:
    """A late connection is closed, and pending bytes are discarded."""
    ours, peer = sockets
    end, feed = SocketEnd(), Recorder()
    end.open(feed)
    end.write(b"never")
    end.abort()
    end.write(b"never")
    assert end.pending == 0
    await connect(end, ours)
    assert await read(peer, 1) == b""


# --- with ZMTP's handshake --------------------------------------------------------------------------------------


async def test_a_client_is_greeted_at_once(sockets: tuple[socket.socket, socket.socket]) -> None:
    """The greeting and READY go out with the connection; the client's greeting is not fed."""
    ours, peer = sockets
    handshake = AcceptingEnd("shell")
    end, feed = SocketEnd(handshake), Recorder()
    end.open(feed)
    await connect(end, ours)
    assert await read(peer, len(handshake.opening)) == handshake.opening
    peer.send(GREETING + READY + b"x")
    await feed.until(lambda: feed.got.endswith(b"x"))
    assert feed.got == READY + b"x"
    end.abort()


async def test_a_message_waits_for_the_kernel_and_counts_as_pending(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    """READY is sent at once, the message and EOF after the kernel's reply; then no byte is pending."""
    ours, peer = sockets
    end, feed = SocketEnd(ConnectingEnd()), Recorder()
    end.open(feed)
    end.write(READY + b"message")
    end.write_eof()
    await connect(end, ours)
    assert await read(peer, len(GREETING + READY)) == GREETING + READY
    assert end.pending == len(b"message")
    takes = feed.takes
    peer.send(GREETING + READY + b"answer")
    await feed.until(lambda: feed.got == b"answer")
    assert await read(peer, 100) == b"message"
    assert end.pending == 0
    assert feed.takes > takes
    end.abort()


async def test_a_kernel_that_hangs_up_before_its_ready_owes_nothing(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    """Held back bytes are not pending, so the stream can end."""
    ours, peer = sockets
    end, feed = SocketEnd(ConnectingEnd()), Recorder()
    end.open(feed)
    end.write(READY + b"message")
    await connect(end, ours)
    assert end.pending == len(b"message")
    peer.close()
    await feed.until(lambda: feed.ends > 0)
    end.abort()
    assert end.pending == 0


@pytest.mark.parametrize("said", [b"x" * 64, GREETING + b"\x04\x0b\x05ERROR\x04nope", GREETING + b"\x00\x01x"])
async def test_a_peer_that_does_not_speak_zmtp_breaks_the_end(
    sockets: tuple[socket.socket, socket.socket], said: bytes
) -> None:
    """There is one clear error, and no byte is fed."""
    ours, peer = sockets
    end, feed = SocketEnd(ConnectingEnd()), Recorder()
    end.open(feed)
    await connect(end, ours)
    peer.send(said)
    await feed.until(lambda: bool(feed.errors))
    assert "ZMTP" in str(feed.errors[0])
    assert feed.got == b""
    end.abort()


async def test_a_stream_that_does_not_speak_zmtp_breaks_the_end(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    """Bytes that were written before or after the connect do not reach the kernel."""
    ours, peer = sockets
    end, feed = SocketEnd(ConnectingEnd()), Recorder()
    end.open(feed)
    end.write(b"\x00\x05hello")
    await connect(end, ours)
    assert len(feed.errors) == 1
    assert await read(peer, len(GREETING)) == GREETING
    end.abort()
    assert await read(peer, 1) == b""


# --- functions ----------------------------------------------------------------------------------------------------


async def test_a_function_gets_what_is_written() -> None:
    """The function receives written bytes and one EOF for any end; bytes sent before the feed go first."""
    got: list[bytes] = []
    ends: list[int] = []
    end, feed = FunctionEnd(got.append, lambda: ends.append(1)), Recorder()
    end.send(b"a")
    end.send(b"b")
    assert feed.got == b""
    end.open(feed)
    end.send(b"c")
    end.write(b"x")
    assert (feed.got, got, end.pending) == (b"abc", [b"x"], 0)
    end.pause()
    assert end.paused
    end.resume()
    assert not end.paused
    end.send_eof()
    assert feed.ends == 1
    end.abort()
    end.abort()
    assert ends == [1]
    quiet = FunctionEnd(got.append, lambda: ends.append(2))
    quiet.open(feed)
    quiet.close()
    quiet.abort()
    assert ends == [1]
