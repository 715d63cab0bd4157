"""Tests of ``guest.relay.server``: its services with fake kernels, and its lifetime with a fake clock."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from daytona_kernel_interp.guest.relay.kernel_interface import NoSuchKernel
from daytona_kernel_interp.guest.relay.server import JournalEnd, Relay, RelayService
from daytona_kernel_interp.wire.hello import CloseCode
from daytona_kernel_interp.wire.journal import JournalReader, JournalRecord, RecordKind, encode_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.python

LIFETIME_S = 0.2  # checks are 10 ms apart
CHECK_S = LIFETIME_S / 20


class FakeJournal:
    """A journal of two records and one pending text."""

    def __init__(self) -> None:
        self.requests: list[tuple[str | None, str | None]] = []

    def read(self, after: str | None, cell: str | None) -> Iterator[bytes]:
        self.requests.append((after, cell))
        yield encode_record(JournalRecord(RecordKind.STARTED, b"cell"))
        yield encode_record(JournalRecord(RecordKind.ENDED, b"{}"))

    def pending(self) -> list[JournalRecord]:
        return [JournalRecord(RecordKind.PENDING, b"text")]


class FakeKernels:
    """Kernels without processes: implements ``KernelControl``."""

    def __init__(self) -> None:
        self.on_exit: Callable[[dict[str, object]], None] = lambda event: None
        self.alive = True
        self.signals: list[tuple[str, int]] = []
        self.status_requested = asyncio.Event()
        self.the_journal = FakeJournal()

    async def start(self, kernel_id: str, key: str, *, personal: bool = False) -> int:
        return 100 + personal

    async def port(self, kernel_id: str, channel: str) -> int:
        raise NoSuchKernel("no such kernel")

    def signal(self, kernel_id: str, number: int) -> None:
        self.signals.append((kernel_id, number))

    def list_kernels(self) -> dict[str, dict[str, object]]:
        return {"k": {"alive": self.alive}}

    def journal(self, kernel_id: str) -> FakeJournal:
        if kernel_id != "k":
            raise ValueError("not a kernel id")
        return self.the_journal

    async def process_status(self, kernel_id: str) -> dict[str, object]:
        self.status_requested.set()
        await asyncio.Event().wait()
        return {}


class Feed:
    """Receives what a local end sends to its peer."""

    def __init__(self) -> None:
        self.data = b""
        self.received = asyncio.Event()

    def feed(self, data: bytes) -> None:
        self.data += data
        self.received.set()

    def feed_eof(self) -> None:
        return

    def local_drained(self) -> None:
        return

    def local_failed(self, error: Exception) -> None:
        raise error

    async def wait_for(self, end: bytes) -> bytes:
        while not self.data.endswith(end):
            self.received.clear()
            await asyncio.wait_for(self.received.wait(), 10)
        return self.data


class Ended:
    """Stands for an attachment: keeps the code with which its stream was ended."""

    def __init__(self) -> None:
        self.code: int | None = None
        self.carrier = SimpleNamespace(end=self._end)

    def _end(self, code: int, reason: str = "") -> None:
        self.code = code


async def ask(kernels: FakeKernels, *requests: dict[str, object]) -> list[dict[str, Any]]:
    """Send requests to a service, and return the replies in the order of the requests' ids."""
    relay: Any = Relay("secret", kernels)
    attachment: Any = Ended()
    service, feed = RelayService(relay, kernels, attachment), Feed()
    service.local.open(feed)
    service.local.write(b"".join(json.dumps(request).encode() + b"\n" for request in requests))
    while feed.data.count(b"\n") < len(requests):
        feed.received.clear()
        await asyncio.wait_for(feed.received.wait(), 10)
    replies: list[dict[str, Any]] = [json.loads(line) for line in feed.data.splitlines()]
    return sorted(replies, key=lambda reply: int(reply["id"]))


async def test_requests_are_performed() -> None:
    """Each reply has the id of its request."""
    kernels = FakeKernels()
    replies = await ask(
        kernels,
        {"id": 1, "op": "start_kernel", "args": {"kernel": "k", "key": "s"}},
        {"id": 2, "op": "start_kernel", "args": {"kernel": "k", "key": "s", "personal": True}},
        {"id": 3, "op": "signal", "args": {"kernel": "k", "signal": "interrupt"}},
        {"id": 4, "op": "kernels"},
        {"id": 5, "op": "forget", "args": {"streams": ["none"]}},
    )
    assert [reply["ok"] for reply in replies] == [{"pid": 100}, {"pid": 101}, {}, {"k": {"alive": True}}, {}]
    assert kernels.signals == [("k", 2)]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"op": "fly"}, "RemoteProtocolError: the relay has no operation 'fly'"),
        ({}, "RemoteProtocolError: the relay has no operation None"),
        ({"op": "start_kernel", "args": {"key": "s"}}, "KeyError: 'kernel'"),
        ({"op": "start_kernel", "args": [1]}, "KeyError: 'kernel'"),
        ({"op": "signal", "args": {"kernel": "k", "signal": "hug"}}, "KeyError: 'hug'"),
        ({"op": "forget", "args": {"streams": "abc"}}, "TypeError: streams is a list of ids"),
        ({"op": "enough", "args": {"look": "x"}}, "ValueError: invalid literal"),
    ],
)
async def test_a_request_that_cannot_be_performed_gets_an_error(request_: dict[str, object], words: str) -> None:
    """The stream goes on."""
    bad, good = await ask(FakeKernels(), {"id": 1, **request_}, {"id": 2, "op": "kernels"})
    assert words in bad["error"]
    assert "ok" in good


async def test_a_status_request_is_cancelled_on_request() -> None:
    """The status is not needed once the kernel itself has answered."""
    kernels, feed = FakeKernels(), Feed()
    attachment: Any = Ended()
    service = RelayService(Relay("secret", kernels), kernels, attachment)
    service.local.open(feed)
    service.local.write(b'{"id": 1, "op": "look", "args": {"kernel": "k"}}\n')
    await asyncio.wait_for(kernels.status_requested.wait(), 10)
    service.local.write(b'{"id": 2, "op": "enough", "args": {"look": 1}}\n')
    assert json.loads(await feed.wait_for(b"\n")) == {"id": 2, "ok": {}}


async def test_exit_events_reach_the_host() -> None:
    """On the stream of each service."""
    kernels, feed = FakeKernels(), Feed()
    attachment: Any = Ended()
    service = RelayService(Relay("secret", kernels), kernels, attachment)
    service.local.open(feed)
    service.send({"event": "kernel_exited", "kernel": "k"})
    assert json.loads(feed.data) == {"event": "kernel_exited", "kernel": "k"}


@pytest.mark.parametrize("alive", [True, False])
async def test_a_journal_is_sent_with_the_pending_text_of_a_dead_kernel(alive: bool) -> None:
    """LAST ends it."""
    kernels, feed = FakeKernels(), Feed()
    kernels.alive = alive
    attachment: Any = Ended()
    end = JournalEnd(kernels, "k", attachment)
    end.open(feed)
    end.write(b'{"after": 7, "cell": "c"}\n')
    await feed.wait_for(encode_record(JournalRecord(RecordKind.LAST)))
    assert kernels.the_journal.requests == [(None, "c")]  # an id that is not a text counts as none
    kinds = [record.kind for record in JournalReader().feed(feed.data)]
    pending = [] if alive else [RecordKind.PENDING]
    assert kinds == [RecordKind.STARTED, RecordKind.ENDED, *pending, RecordKind.LAST]


async def test_a_journal_waits_for_the_window() -> None:
    """While the window is closed nothing is read."""
    kernels, feed = FakeKernels(), Feed()
    attachment: Any = Ended()
    end = JournalEnd(kernels, "k", attachment)
    end.open(feed)
    end.pause()
    end.write(b"{}\n")
    for _ in range(20):
        await asyncio.sleep(0)
    assert feed.data == b""
    end.resume()
    await feed.wait_for(encode_record(JournalRecord(RecordKind.LAST)))


@pytest.mark.parametrize(("kernel_id", "line"), [("../k", b"{}\n"), ("k", b"[1]\n")])
async def test_an_invalid_id_or_request_ends_the_journal_stream(kernel_id: str, line: bytes) -> None:
    """With the code for a bad hello."""
    attachment: Any = Ended()
    end = JournalEnd(FakeKernels(), kernel_id, attachment)
    end.open(Feed())
    end.write(line)
    for _ in range(20):
        await asyncio.sleep(0)
    assert attachment.code == CloseCode.BAD_HELLO


class Clock:
    """A loop's clock that reports when it is read."""

    def __init__(self) -> None:
        self.now, self.read = 1000.0, asyncio.Event()

    def time(self) -> float:
        self.read.set()
        return self.now


@pytest.mark.parametrize("paused_s", [0.0, 100_000.0])
async def test_paused_time_does_not_count(paused_s: float) -> None:
    """A sandbox that was paused for a day has its whole lifetime left; a running one ends after the lifetime."""
    relay = Relay("secret", FakeKernels(), LIFETIME_S)
    clock: Any = Clock()
    relay._loop = clock
    relay.host_seen()
    waiting = asyncio.ensure_future(relay.wait_end())

    async def check() -> bool:
        """Return whether the relay still waits after its next check."""
        clock.read.clear()
        read = asyncio.ensure_future(clock.read.wait())
        await asyncio.wait({waiting, read}, return_when=asyncio.FIRST_COMPLETED)
        read.cancel()
        return not waiting.done()

    assert await check()
    clock.now += paused_s
    assert await check()
    assert await check()
    checks = 0
    while await check():
        clock.now += CHECK_S
        checks += 1
    assert 15 < checks < 25
