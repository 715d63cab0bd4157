"""A tunnel to relays that answer nothing, or too little, over real WebSockets."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from daytona_kernel_interp.errors import TunnelLost
from daytona_kernel_interp.sandboxes.base import RelayAddress
from daytona_kernel_interp.transport.websocket import serve_sockets
from daytona_kernel_interp.tunnel.tunnel import Tunnel
from daytona_kernel_interp.wire.frames import Frame, FrameType, encode
from daytona_kernel_interp.wire.hello import HELLO_HEADER, JOURNAL_CHANNEL, parse_host_hello
from daytona_kernel_interp.wire.journal import JournalRecord, RecordKind, encode_record
from daytona_kernel_interp.wire.keepalive import Admitted, LinkTimings, RelayStreams

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

SILENCE_S = 0.3
STARTED = encode_record(JournalRecord(RecordKind.STARTED, b"cell"))
LAST = encode_record(JournalRecord(RecordKind.LAST))


class SilentRelay:
    """A relay that takes every request and answers none; it sends ``journal`` piece by piece."""

    def __init__(self, journal: Iterable[bytes] = (), pause_s: float = 0.0) -> None:
        self._streams = RelayStreams(boot="b00t")
        self._journal, self._pause_s = journal, pause_s

    async def serve(self, connection: Any) -> None:
        channel = connection.request.path.rpartition("/")[2]
        admitted = self._streams.admit(channel, parse_host_hello(connection.request.headers[HELLO_HEADER]))
        assert isinstance(admitted, Admitted)
        await connection.send(encode(self._streams.hello_frame(admitted.stream)))
        offset = 0
        with contextlib.suppress(Exception):
            for piece in self._journal if channel == JOURNAL_CHANNEL else ():
                await connection.send(encode(Frame(FrameType.DATA, offset, 0, piece)))
                offset += len(piece)
                await asyncio.sleep(self._pause_s)
            async for _ in connection:
                pass


@contextlib.asynccontextmanager
async def opened(relay: SilentRelay, lifetime_s: float = 60.0) -> AsyncIterator[tuple[Tunnel, Any]]:
    """Open a tunnel to ``relay``; yield it with the relay's server."""
    server = await serve_sockets(0, relay.serve, lambda connection, request: None)
    address = RelayAddress(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", "secret")
    tunnel = await Tunnel.open(address, times=LinkTimings(resume_lifetime_s=lifetime_s))
    try:
        yield tunnel, server
    finally:
        await tunnel.aclose()
        server.close()
        await server.wait_closed()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daytona_kernel_interp.tunnel.tunnel.JOURNAL_SILENCE_S", SILENCE_S)


async def test_a_relay_that_answers_no_request() -> None:
    """A request has a bound of its own, although the link lives."""
    async with opened(SilentRelay()) as (tunnel, _):
        with pytest.raises(TunnelLost, match=r"did not answer within 0\.3 s"):
            await asyncio.wait_for(tunnel.signal("1-ab", "interrupt", answer_s=SILENCE_S), 10)
        assert tunnel.connected


async def test_time_without_a_link_does_not_count() -> None:
    """The relay is out of reach: the request waits until the link is lost for good."""
    async with opened(SilentRelay(), lifetime_s=3.0) as (tunnel, server):
        server.close()
        for stream in list(tunnel.streams):
            assert stream.carrier.socket is not None
            stream.carrier.socket.abort()
        with pytest.raises(TunnelLost, match="cannot be reached"):
            await asyncio.wait_for(tunnel.signal("1-ab", "kill", answer_s=1.5), 20)


async def test_a_journal_that_drips_is_not_read() -> None:
    """Bytes are no progress, records are: a record of which one byte comes at a time ends the read."""
    pieces = (bytes([byte]) for byte in encode_record(JournalRecord(RecordKind.STARTED, bytes(10_000))))
    async with opened(SilentRelay(pieces, SILENCE_S / 10)) as (tunnel, _):
        with pytest.raises(TunnelLost, match="did not answer"):
            await asyncio.wait_for(tunnel.read_journal("1-ab", None, None), 10)


async def test_a_slow_journal_is_read_to_its_end() -> None:
    """Records that each come in time may take longer together."""
    async with opened(SilentRelay([*[STARTED] * 6, LAST], SILENCE_S / 3)) as (tunnel, _):
        records = await asyncio.wait_for(tunnel.read_journal("1-ab", None, None), 10)
    assert [record.kind for record in records] == [RecordKind.STARTED] * 6


async def test_a_journal_without_end_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay that sends more than a journal can have is not believed."""
    monkeypatch.setattr("daytona_kernel_interp.tunnel.tunnel._MAX_JOURNAL_BYTES", 10 * len(STARTED))
    async with opened(SilentRelay([STARTED] * 20)) as (tunnel, _):
        with pytest.raises(TunnelLost, match="it has more than"):
            await asyncio.wait_for(tunnel.read_journal("1-ab", None, None), 10)


async def test_a_tunnel_whose_task_fails_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected exception of the keepalive ends pending requests with an error that names it."""
    async with opened(SilentRelay()) as (tunnel, _):
        monkeypatch.setattr("daytona_kernel_interp.tunnel.dialer.DialedStream.check_connection", lambda *_, **__: 1 / 0)
        with pytest.raises(TunnelLost, match="a task of the tunnel failed: ZeroDivisionError"):
            await asyncio.wait_for(tunnel.end_relay(), 10)
