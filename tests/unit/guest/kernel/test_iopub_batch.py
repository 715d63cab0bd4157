"""Tests of ``guest.kernel.iopub_batch``: which messages wait, in which order they arrive, and that none is stuck."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
import zmq
from ipykernel import iostream

from daytona_kernel_interp.guest.kernel.iopub_batch import IOPubBatch
from daytona_kernel_interp.guest.kernel.ipykernel_compat import IOPubQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

pytestmark = pytest.mark.kernel


def message(topic: str, content: str = "{}") -> list[bytes]:
    """Return the frames of an iopub message, as the kernel's session makes them."""
    return [topic.encode(), b"<IDS|MSG>", b"", b"{}", b"{}", b"{}", content.encode()]


BUSY = message("kernel.1.status", '{"execution_state": "busy"}')
IDLE = message("kernel.1.status", '{"execution_state": "idle"}')
INPUT, RESULT, DISPLAY = map(message, ("kernel.1.execute_input", "execute_result", "display_data"))
PRINT, CALL = message("stream.stdout"), message("comm-1")


class RecordedQueue:
    """A queue that notes what is added and what wakes the thread, instead of a thread."""

    def __init__(self) -> None:
        self.waiting: list[Sequence[bytes]] = []
        self.sent: list[list[Sequence[bytes]]] = []  # per wake-up
        self.expire: Callable[[], None] = lambda: None

    def add(self, frames: Sequence[bytes]) -> None:
        self.waiting.append(frames)

    def send(self, frames: Sequence[bytes]) -> None:
        self.waiting.append(frames)
        self.send_all()

    def send_all(self) -> None:
        self.sent.append(self.waiting)
        self.waiting = []

    def watch(self, fd: int, readable: Callable[[], None]) -> None:
        self.expire = readable


def batch(queue: Any) -> IOPubBatch:
    """Return a batch on a queue that is not ipykernel's."""
    return IOPubBatch(queue)


@pytest.mark.parametrize(
    ("messages", "wakeups"),
    [
        ([BUSY, INPUT, IDLE], [[BUSY, INPUT, IDLE]]),
        ([BUSY, INPUT, RESULT, IDLE], [[BUSY, INPUT, RESULT, IDLE]]),
        ([BUSY, INPUT, PRINT, DISPLAY, CALL, IDLE], [[BUSY, INPUT, PRINT], [DISPLAY, CALL], [IDLE]]),
        ([IDLE, PRINT], [[IDLE], [PRINT]]),
    ],
    ids=["nothing shown", "a result", "a print, a display and a call", "nothing to wait for"],
)
def test_what_nobody_waits_for_goes_with_the_next_message(
    messages: list[list[bytes]], wakeups: list[list[list[bytes]]]
) -> None:
    """Busy, input, result and display wait for the next message that wakes the thread, and the order is kept."""
    queue = RecordedQueue()
    sender = batch(queue)
    for frames in messages:
        sender.send(frames)
    assert queue.sent == wakeups
    assert queue.waiting == []


def test_a_held_message_is_sent_when_the_timer_expires() -> None:
    """What was held goes out, and the next message that can wait is held again."""
    queue = RecordedQueue()
    sender = batch(queue)
    sender.send(BUSY)
    queue.expire()
    sender.send(DISPLAY)
    assert (queue.sent, queue.waiting) == ([[BUSY]], [DISPLAY])
    queue.expire()
    assert queue.sent == [[BUSY], [DISPLAY]]


def test_without_a_timer_nothing_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no timerfd, each message is sent at once."""

    def missing() -> None:
        raise AttributeError("timerfd_create")

    monkeypatch.setattr("daytona_kernel_interp.guest.kernel.iopub_batch.Timer", missing)
    queue = RecordedQueue()
    batch(queue).send(BUSY)
    assert queue.sent == [[BUSY]]


@pytest.fixture
def subscriber() -> Iterator[tuple[Any, zmq.Socket[bytes]]]:
    """A real iopub thread, and a socket that receives what it sends."""
    with zmq.Context() as context:
        publisher, receiver = context.socket(zmq.XPUB), context.socket(zmq.SUB)
        publisher.bind("inproc://iopub")
        receiver.connect("inproc://iopub")
        receiver.subscribe(b"")
        receiver.rcvtimeo = 30_000
        untyped: Any = iostream
        thread = untyped.IOPubThread(publisher)
        thread.start()
        yield thread, receiver
        thread.stop()
        thread.close()
        receiver.close()


def test_a_long_cell_is_seen_to_start(subscriber: tuple[Any, zmq.Socket[bytes]]) -> None:
    """With ipykernel's own thread, a held message arrives although none follows it; with threads that publish, too."""
    thread, receiver = subscriber
    sender, lock = IOPubBatch(IOPubQueue(thread)), threading.Lock()
    for _ in range(3):
        sender.send(BUSY)
        assert receiver.recv_multipart() == BUSY

    def publish(topic: str) -> None:
        for number in range(100):
            with lock:
                sender.send(message(topic, str(number)))

    threads = [threading.Thread(target=publish, args=(topic,)) for topic in ("display_data", "stream.stdout")]
    for each in threads:
        each.start()
    arrived = [receiver.recv_multipart() for _ in range(200)]
    for each in threads:
        each.join()
    for topic in (b"display_data", b"stream.stdout"):
        assert [int(frames[-1]) for frames in arrived if frames[0] == topic] == list(range(100))
