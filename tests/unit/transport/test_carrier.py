"""Tests of ``transport.carrier``: real WebSockets on loopback, and peers that violate the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from daytona_kernel_interp.transport.carrier import FINISHED, Carrier
from daytona_kernel_interp.transport.local_socket import SocketEnd
from daytona_kernel_interp.transport.websocket import LOST, Socket, connect_socket, serve_sockets
from daytona_kernel_interp.wire.frames import MAX_FRAME_BYTES, MAX_PAYLOAD_BYTES, Frame, FrameType, decode, encode
from daytona_kernel_interp.wire.hello import CloseCode
from daytona_kernel_interp.wire.stream import Stream
from daytona_kernel_interp.wire.zmtp import ConnectingEnd

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from websockets.asyncio.client import ClientConnection

pytestmark = pytest.mark.python

MB = 1 << 20
WINDOW = 2 * MB


class Local:
    """A local end in memory that accepts a configured number of bytes."""

    def __init__(self, *, takes: bool = True) -> None:
        self.takes = takes
        self.got = bytearray()
        self.pending = 0
        self.paused = self.closed = self.aborted = False
        self.ends = 0
        self.feed: Any = None
        self.changed = asyncio.Event()

    def open(self, feed: Any) -> None:
        self.feed = feed

    def write(self, data: bytes) -> None:
        self.got += data
        self.pending += 0 if self.takes else len(data)
        self.changed.set()

    def write_eof(self) -> None:
        self.ends += 1
        self.changed.set()

    def take(self) -> None:
        """Take all that is pending, and whatever comes."""
        self.takes, self.pending = True, 0
        self.feed.local_drained()

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        self.changed.set()

    def close(self) -> None:
        self.closed = True
        self.changed.set()

    def abort(self) -> None:
        self.aborted = True
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when the condition holds; looked at whenever something happened here."""
        while not condition():
            self.changed.clear()
            await self.changed.wait()


class Shell:
    """One end of a stream: a carrier, and the sink of whichever socket carries it."""

    def __init__(self, local: Any, *, window_bytes: int = WINDOW) -> None:
        self.local = local
        self.stream = Stream(window_bytes=window_bytes)
        self.ends = 0
        self.carrier = Carrier(self.stream, self._ended)
        self.carrier.connect(local)
        self.closes: list[tuple[int, str]] = []
        self.lost_one = asyncio.Event()
        self.dialling = False  # the first message of the next socket is the hello

    def _ended(self) -> None:
        self.ends += 1

    def serve(self, sock: Any, peer_received: int) -> None:
        """Carry the stream on a socket that was accepted."""
        self.stream.attach(peer_received)
        sock.sink = self
        sock.post(encode(Frame(FrameType.HELLO, 0, self.stream.received, b"{}")))
        self.carrier.attach(sock)

    def message(self, sock: Socket, data: bytes | None) -> None:
        if self.carrier.socket is sock:
            self.carrier.message(data)
        elif self.dialling:
            self.dialling = False
            self.stream.attach(decode(data or b"").ack)
            self.carrier.attach(sock)

    def writable(self, sock: Socket) -> None:
        if self.carrier.socket is sock:
            self.carrier.flush()

    def lost(self, sock: Socket, code: int, reason: str) -> None:
        if self.carrier.socket is sock:
            self.carrier.detach()
        self.closes.append((code, reason))
        self.lost_one.set()


@asynccontextmanager
async def served(*shells: Shell) -> AsyncIterator[str]:
    """Serve shells, each to the path of its number; yield the URL before it."""

    async def handle(connection: Any) -> None:
        shell = shells[int(connection.request.path.rpartition("/")[2])]
        shell.serve(connection, int(connection.request.headers.get("X-Received", 0)))
        await connection.wait_closed()

    server = await serve_sockets(0, handle, lambda connection, request: None)
    try:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def bad_peer(url: str) -> AsyncIterator[ClientConnection]:
    """Dial as a plain WebSocket client, which may say what it likes once it was greeted."""
    async with connect(
        url, compression=None, max_size=None, ping_interval=None, proxy=None, max_queue=1, close_timeout=1
    ) as peer:
        assert decode(await peer.recv()).type is FrameType.HELLO  # type: ignore[arg-type]
        yield peer


async def frame_of(peer: ClientConnection) -> Frame:
    """Return the next frame that the peer gets."""
    message = await peer.recv()
    assert isinstance(message, bytes)
    return decode(message)


def data(offset: int, payload: bytes, ack: int = 0) -> bytes:
    """Return a DATA frame."""
    return encode(Frame(FrameType.DATA, offset, ack, payload))


async def payload_of(peer: ClientConnection) -> bytes:
    """Return the payload of the next frame that has one; acks may come before it."""
    while not (payload := (await frame_of(peer)).payload):
        pass
    return payload


async def closed_with(peer: ClientConnection) -> tuple[int | None, str | None]:
    """Read until the far end closes; return how."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            await peer.recv()
    return peer.close_code, peer.close_reason


# --- what is wrong, and how it is named ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "code", "why"),
    [
        ([b"garbage"], CloseCode.BAD_HELLO, "a frame has"),
        ([b""], CloseCode.BAD_HELLO, "a frame has"),
        ([b"\x09" + bytes(16)], CloseCode.BAD_HELLO, "frame type 9"),
        (["text"], CloseCode.BAD_HELLO, "text message"),
        ([data(5, b"x")], CloseCode.BAD_HELLO, "gap"),
        ([data(0, b"x", ack=9)], CloseCode.BAD_HELLO, "ack 9"),
        ([encode(Frame(FrameType.HELLO, 0, 0, b"{}"))], CloseCode.BAD_HELLO, "second HELLO"),
        ([encode(Frame(FrameType.FIN, 0, 0)), data(1, b"x")], CloseCode.BAD_HELLO, "after FIN"),
        ([bytes(MAX_FRAME_BYTES + 1)], 1009, "exceeds limit"),
        ([[bytes(MAX_FRAME_BYTES), b"x"]], 1009, "exceeds limit"),
    ],
)
async def test_a_bad_message_ends_its_stream_and_no_other(messages: list[Any], code: int, why: str) -> None:
    """Each has its close code and one clear reason; other streams continue."""
    bad, good = Shell(Local()), Shell(Local())
    async with served(bad, good) as url, bad_peer(f"{url}/0") as peer, bad_peer(f"{url}/1") as neighbour:
        await neighbour.send(data(0, b"one"))
        for message in messages:
            await peer.send(message)
        given, reason = await closed_with(peer)
        assert given == code
        assert why in (reason or "")
        await bad.local.until(lambda: bad.carrier.ended or code == 1009)
        assert bad.local.got == b""
        assert bad.local.aborted == bad.carrier.ended
        await neighbour.send(data(3, b"two"))
        await good.local.until(lambda: good.local.got == b"onetwo")
        assert not good.carrier.ended


async def test_a_frame_over_the_limit_costs_the_socket_only() -> None:
    """websockets refuses it unread with its own code, after which the stream can be resumed."""
    shell = Shell(Local())
    async with served(shell) as url:
        async with bad_peer(f"{url}/0") as peer:
            await peer.send(bytes(MAX_FRAME_BYTES + 1))
            assert (await closed_with(peer))[0] == 1009
        await shell.lost_one.wait()
        assert not shell.carrier.ended
        async with bad_peer(f"{url}/0") as peer:
            await peer.send(data(0, b"x" * MAX_PAYLOAD_BYTES))  # the largest that passes
            await shell.local.until(lambda: len(shell.local.got) == MAX_PAYLOAD_BYTES)


async def test_a_peer_that_ignores_the_window_is_refused_and_costs_no_memory() -> None:
    """At most a window and a frame are buffered."""
    shell = Shell(Local(takes=False))
    async with served(shell) as url, bad_peer(f"{url}/0") as peer:
        with contextlib.suppress(ConnectionClosed):
            for index in range(1000):
                await peer.send(data(index * MAX_PAYLOAD_BYTES, bytes(MAX_PAYLOAD_BYTES)))
        code, reason = await closed_with(peer)
        assert code == CloseCode.WINDOW_OVERRUN
        assert "window of" in (reason or "")
    assert len(shell.local.got) == WINDOW + MAX_PAYLOAD_BYTES
    assert shell.local.aborted
    assert shell.ends == 1


async def test_a_port_that_does_not_speak_zmtp_is_refused() -> None:
    """The stream ends with the code and the reason for it."""
    ours, kernel = socket.socketpair()
    end = SocketEnd(ConnectingEnd())
    shell = Shell(end)
    with kernel:
        kernel.setblocking(False)
        await asyncio.get_running_loop().create_connection(lambda: end, sock=ours)
        async with served(shell) as url, bad_peer(f"{url}/0") as peer:
            kernel.send(b"SSH-2.0-OpenSSH_9.9\r\n".ljust(64))
            assert await closed_with(peer) == (CloseCode.PORT_REFUSED, "the local peer does not speak ZMTP 3")


async def test_a_reason_of_any_length_fits() -> None:
    """RFC 6455 allows 123 bytes; a longer one would fail the close itself."""
    shell = Shell(Local())
    async with served(shell) as url, bad_peer(f"{url}/0") as peer:
        await peer.send(data(0, b"x"))
        await shell.local.until(lambda: bool(shell.local.got))
        shell.carrier.local_failed(OSError("\u00fc" * 500))
        assert await closed_with(peer) == (CloseCode.PORT_REFUSED, "?" * 123)


# --- a peer that behaves ------------------------------------------------------------------------------------------


async def test_fragments_are_one_message() -> None:
    """A proxy may fragment messages; the frame is reassembled."""
    shell = Shell(Local())
    message = data(0, bytes(range(256)))
    async with served(shell) as url, bad_peer(f"{url}/0") as peer:
        await peer.send([message[:1], message[1:17], b"", message[17:]])
        await shell.local.until(lambda: shell.local.got == bytes(range(256)))
        pong = await peer.ping()  # of a proxy: the library answers it
        await pong


async def test_an_ack_of_its_own_follows_soon() -> None:
    """A peer that sends nothing receives acks without data."""
    shell = Shell(Local())
    async with served(shell) as url, bad_peer(f"{url}/0") as peer:
        await peer.send(data(0, b"abc"))
        assert await frame_of(peer) == Frame(FrameType.ACK, 0, 3)


async def test_what_the_local_end_has_not_taken_is_not_acked() -> None:
    """The ack follows after the local end has accepted the bytes."""
    shell = Shell(Local(takes=False))
    async with served(shell) as url, bad_peer(f"{url}/0") as peer:
        await peer.send(data(0, b"abc"))
        await shell.local.until(lambda: shell.local.got == b"abc")
        shell.local.feed.feed(b"x")
        assert await frame_of(peer) == Frame(FrameType.DATA, 0, 0, b"x")
        shell.local.take()
        assert await frame_of(peer) == Frame(FrameType.ACK, 1, 3)


async def test_the_end_is_delivered_with_the_last_byte_before_it() -> None:
    """A FIN after pending bytes is not acked before them."""
    shell = Shell(Local(takes=False))
    async with served(shell) as url, bad_peer(f"{url}/0") as peer:
        await peer.send(data(0, b"abc"))
        await peer.send(encode(Frame(FrameType.FIN, 3, 0)))
        await shell.local.until(lambda: shell.local.ends == 1)
        shell.local.feed.feed(b"x")
        assert (await frame_of(peer)).ack == 0
        shell.local.take()
        assert (await frame_of(peer)).ack == 4


async def test_a_stream_that_ended_both_ways_closes_well() -> None:
    """After both FINs and all acks: code 1000, a closed local end without an abort, and one callback to the owner."""
    shell = Shell(Local())
    async with served(shell) as url, bad_peer(f"{url}/0") as peer:
        shell.local.feed.feed(b"bye")
        shell.local.feed.feed_eof()
        await peer.send(data(0, b"you"))
        await peer.send(encode(Frame(FrameType.FIN, 3, 4)))
        assert await closed_with(peer) == (FINISHED, "")
        assert shell.local.closed
        assert not shell.local.aborted
        assert (shell.ends, shell.local.ends, shell.local.got) == (1, 1, b"you")
        shell.carrier.end()
        shell.local.feed.feed(b"late")
        shell.local.feed.feed_eof()
        shell.local.feed.local_drained()
        assert shell.ends == 1


class FullSocket:
    """A socket that accepts no bytes until it is released."""

    heard_at = 0.0
    writable = False

    def __init__(self) -> None:
        self.posted: list[Frame] = []
        self.closes: list[int] = []

    def post(self, message: bytes) -> None:
        self.posted.append(decode(message))

    def begin_close(self, code: int, reason: str = "") -> None:
        self.closes.append(code)

    def abort(self) -> None:
        self.closes.append(LOST)


async def test_a_stream_does_not_end_before_its_last_ack_is_sent() -> None:
    """The peer waits for the ack, and could not dial for it."""
    shell, sock = Shell(Local()), FullSocket()
    sock.writable = True
    shell.carrier.attach(sock)
    shell.local.feed.feed_eof()
    sock.writable = False
    shell.carrier.message(encode(Frame(FrameType.FIN, 0, 1)))
    assert shell.stream.finished
    assert not shell.carrier.ended
    sock.writable = True
    shell.carrier.flush()
    assert sock.posted[-1] == Frame(FrameType.ACK, 1, 1)
    await shell.local.until(lambda: shell.local.closed)
    assert sock.closes == [FINISHED]


async def test_what_comes_before_there_is_a_local_end_waits_for_it() -> None:
    """Streams are dialled before a client connects; bytes and end reach it in order, and are acked only then."""
    stream, local = Stream(), Local()
    carrier = Carrier(stream, lambda: None)
    for message in (data(0, b"ab"), data(2, b"c"), encode(Frame(FrameType.FIN, 3, 0))):
        carrier.message(message)
    assert stream.undelivered == 4
    carrier.connect(local)
    assert (bytes(local.got), local.ends, stream.undelivered) == (b"abc", 1, 0)
    carrier.end()


# --- a peer that does not read ---------------------------------------------------------------------------------------


async def test_a_peer_that_does_not_read_fills_no_memory() -> None:
    """The socket buffers its limit and the stream its window; then the local end is paused."""
    window = 24 * MB  # more than the operating system takes on loopback
    shell = Shell(Local(), window_bytes=window)
    async with served(shell) as url, bad_peer(f"{url}/0") as peer:
        await peer.send(data(0, b"x"))
        await shell.local.until(lambda: bool(shell.local.got))
        sock: Any = shell.carrier.socket
        peer.transport.pause_reading()
        fed = 0
        while not shell.local.paused:
            shell.local.feed.feed(bytes(MAX_PAYLOAD_BYTES))
            fed += MAX_PAYLOAD_BYTES
        assert fed == window
        assert not sock.writable
        assert sock.transport.get_write_buffer_size() < 2 * MAX_FRAME_BYTES + 512 * 1024
        # it reads on and acks: the window opens
        peer.transport.resume_reading()
        got = 0
        while got < fed:
            got += len(await payload_of(peer))
        await peer.send(encode(Frame(FrameType.ACK, 1, fed)))
        await shell.local.until(lambda: not shell.local.paused)
        assert sock.writable


async def test_a_socket_that_is_closing_takes_nothing() -> None:
    """Messages of the other side are ignored."""
    shell = Shell(Local())
    async with served(shell) as url, bad_peer(f"{url}/0") as peer:
        await peer.send(data(0, b"x"))
        await shell.local.until(lambda: bool(shell.local.got))
        sock = shell.carrier.socket
        assert sock is not None
        assert sock.writable
        sock.abort()
        assert not sock.writable
        shell.local.feed.feed(b"kept")
        await shell.lost_one.wait()
        assert shell.closes == [(LOST, "")]
        assert shell.stream.unacked


# --- sockets that break --------------------------------------------------------------------------------


async def test_sockets_aborted_in_mid_send_lose_and_repeat_nothing() -> None:
    """Megabytes in both directions arrive unchanged over sockets that either end aborts."""
    rng = random.Random(5)
    near, far = Shell(Local()), Shell(Local())
    sent = {shell: rng.randbytes(12 * MB) for shell in (near, far)}
    cuts = 0
    async with served(far) as url:
        fed = dict.fromkeys(sent, 0)

        def feed() -> None:
            for shell, whole in sent.items():
                while not shell.local.paused and fed[shell] < len(whole):
                    size = rng.randrange(1, MAX_PAYLOAD_BYTES + 1)
                    shell.local.feed.feed(whole[fed[shell] : fed[shell] + size])
                    fed[shell] = min(fed[shell] + size, len(whole))

        while not near.carrier.ended:
            near.lost_one.clear()
            far.lost_one.clear()
            near.dialling = True
            received = {"X-Received": str(near.stream.received)}
            await connect_socket(f"{url}/0", received, near, timeout_s=10)
            limit = sum(len(shell.local.got) for shell in sent) + rng.randrange(2 * MB)
            while not near.lost_one.is_set():
                feed()
                for shell, whole in sent.items():
                    if fed[shell] == len(whole):
                        shell.local.feed.feed_eof()
                victim = rng.choice([near, far]).carrier.socket
                # not at the very end: who has all and closed well is dialled again in vain, as a relay says with 4404
                if limit < sum(len(shell.local.got) for shell in sent) < 23 * MB and victim is not None:
                    cuts += 1
                    victim.abort()
                    await near.lost_one.wait()
                await asyncio.sleep(0)
            await far.lost_one.wait()
    assert cuts > 5
    assert near.local.got == sent[far]
    assert far.local.got == sent[near]
    assert [shell.local.ends for shell in sent] == [1, 1]
    assert [shell.ends for shell in sent] == [1, 1]


async def test_a_message_of_a_socket_that_was_replaced_is_nobodys() -> None:
    """The carrier sends on the new socket only; ending it closes that one."""
    shell = Shell(Local())
    async with served(shell) as url, bad_peer(f"{url}/0") as old:
        await old.send(data(0, b"a"))
        await shell.local.until(lambda: shell.local.got == b"a")
        async with bad_peer(f"{url}/0") as new:
            await new.send(data(1, b"b"))
            await shell.local.until(lambda: shell.local.got == b"ab")
            await old.send(data(2, b"X"))
            await (await old.ping())  # what it sent has come
            shell.local.feed.feed(b"answer")
            assert await payload_of(new) == b"answer"
            shell.carrier.end(CloseCode.SUPERSEDED, "gone")
            assert await closed_with(new) == (CloseCode.SUPERSEDED, "gone")
            assert shell.local.got == b"ab"


async def test_headers_stay_out_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """websockets logs the headers of an upgrade at level DEBUG, and they have secrets."""
    caplog.set_level("DEBUG")
    shell, near = Shell(Local()), Shell(Local())
    async with served(shell) as url:
        near.dialling = True
        sock = await connect_socket(f"{url}/0", {"X-Kernel-Secret": "5ec12e7"}, near, timeout_s=10)
        sock.abort()
        await near.lost_one.wait()
    assert "5ec12e7" not in caplog.text
