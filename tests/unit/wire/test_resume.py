"""Tests of ``wire.stream`` and ``wire.keepalive`` together: two ends, with all faults of a network between them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from secrets import token_hex

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from daytona_kernel_interp.wire.frames import HEADER_BYTES, Frame, FrameType, decode, encode
from daytona_kernel_interp.wire.hello import CloseCode, HostHello, parse_host_hello
from daytona_kernel_interp.wire.keepalive import HostStream, Refused, RelayStream, RelayStreams
from daytona_kernel_interp.wire.stream import Received, Stream
from tests import examples

pytestmark = pytest.mark.python

HOST, RELAY = 0, 1
LARGEST_WRITE = 60


class Socket:
    """One WebSocket: the messages on their way, those to the host first."""

    def __init__(self) -> None:
        self.ways: tuple[list[bytes], list[bytes]] = ([], [])  # to the host, to the relay


@dataclass
class End:
    """What one end wrote, and what its local socket got."""

    written: bytes = b""
    got: bytes = b""
    ended: int = 0
    waiting: list[Received] = field(default_factory=list)
    seen: list[bytes] = field(default_factory=list)


class Network:
    """A host's stream, its relay, and everything between them.

    Messages of one socket arrive in order, as TCP has it; dials arrive in any order, late, twice, or never. A cut may
    fall into a frame: ``recut`` delivers a DATA frame's first bytes as a frame of its own, as a peer with other frames
    might send them, and so leaves the other end's offset anywhere.
    """

    def __init__(self, window_bytes: int) -> None:
        self.window_bytes = window_bytes
        self.host = HostStream("1-ab", token_hex=token_hex, window_bytes=window_bytes)
        self.relays = RelayStreams(boot="b00t", window_bytes=window_bytes)
        self.relay: RelayStream | None = None
        self.ends = (End(), End())
        self.dials: list[tuple[HostHello, Socket]] = []
        self.dialled: list[tuple[HostHello, Socket]] = []
        self.pending: Socket | None = None  # what the host dialled last
        self.at_host: Socket | None = None  # what carries the stream there
        self.at_relay: Socket | None = None
        self.counts: Counter[str] = Counter()

    def stream(self, side: int) -> Stream | None:
        if side == HOST:
            return self.host.stream
        return None if self.relay is None else self.relay.stream

    # --- the network's doings -----------------------------------------------------------------------

    def dial(self) -> None:
        """The host gives up what it has and dials."""
        self.at_host, self.pending = None, Socket()
        self.dials.append((parse_host_hello(self.host.next_hello().to_header()), self.pending))
        self.dialled.append(self.dials[-1])

    def admit(self, number: int) -> None:
        """One of the dials under way reaches the relay."""
        if self.dials:
            self.answer_hello(*self.dials.pop(number % len(self.dials)))

    def admit_again(self, number: int) -> None:
        """A dial that was made before reaches the relay, perhaps once more."""
        if self.dialled:
            self.answer_hello(*self.dialled[number % len(self.dialled)])

    def answer_hello(self, hello: HostHello, socket: Socket) -> None:
        admitted = self.relays.admit("shell", hello)
        if isinstance(admitted, Refused):
            assert admitted.code is CloseCode.STALE_GENERATION
            self.counts["stale"] += 1
            return
        self.counts["admitted"] += 1
        self.relay = admitted.stream
        self.at_relay = socket
        socket.ways[HOST].append(encode(self.relays.hello_frame(admitted.stream)))

    def cut(self, number: int) -> None:
        """The newest socket breaks; up to ``number`` bytes of each direction still arrive."""
        socket = self.pending
        if socket is None:
            return
        for side in (HOST, RELAY):
            left = number
            while socket.ways[side] and len(socket.ways[side][0]) <= left:
                left -= len(socket.ways[side][0])
                self.arrive(side)
            if socket.ways[side] and left > HEADER_BYTES:
                self.recut(side, left - HEADER_BYTES)
                self.arrive(side)
            socket.ways[side].clear()
        self.counts["cuts"] += 1
        self.at_host = self.pending = None

    def recut(self, side: int, place: int) -> None:
        """Make two frames of the next DATA frame to ``side``."""
        way = self.path_of(side)
        if way:
            frame = decode(way[0])
            if frame.type is FrameType.DATA and 0 < place < len(frame.payload):
                rest = Frame(frame.type, frame.offset + place, frame.ack, frame.payload[place:])
                way[:1] = [encode(Frame(frame.type, frame.offset, frame.ack, frame.payload[:place])), encode(rest)]

    def arrive(self, side: int) -> None:
        """One message of the newest socket arrives; an end takes only what its own socket brings."""
        way, socket = self.path_of(side), self.pending
        if not way:
            return
        message = way.pop(0)
        if socket is (self.at_host, self.at_relay)[side]:
            self.receive(side, message)
        elif side == HOST:
            self.host.take_hello(message)
            self.at_host = socket

    def again(self, side: int, number: int) -> None:
        """A frame that arrived before arrives once more."""
        seen = self.ends[side].seen
        if seen:
            self.receive(side, seen[number % len(seen)])

    def receive(self, side: int, message: bytes) -> None:
        stream, end = self.stream(side), self.ends[side]
        assert stream is not None
        end.seen.append(message)
        frame, expected = decode(message), stream.received
        received = list(stream.receive(message))
        if frame.type is FrameType.DATA and frame.offset < expected:
            self.counts["trimmed" if received else "repeated"] += 1
        end.waiting += received

    def deliver(self, side: int, number: int) -> None:
        """The local socket takes some of the bytes that wait for it."""
        stream, end = self.stream(side), self.ends[side]
        if stream is None or not end.waiting:
            return
        first = end.waiting.pop(0)
        if first.finished:
            end.ended += 1
            stream.delivered(1)
            return
        size = 1 + number % len(first.payload)
        if size < len(first.payload):
            end.waiting.insert(0, Received(first.payload[size:]))
        end.got += first.payload[:size]
        stream.delivered(size)

    def pump(self, side: int) -> None:
        """An end sends all that it has to send."""
        stream, socket = self.stream(side), (self.at_host, self.at_relay)[side]
        if stream is not None and socket is not None:
            socket.ways[1 - side].extend(iter(stream.next_frame, None))

    def write(self, side: int, number: int) -> None:
        """The local socket gives bytes, if the window lets it."""
        stream, end = self.stream(side), self.ends[side]
        if stream is not None and stream.window_open:
            payload = bytes((len(end.written) + i) % 251 for i in range(1 + number % LARGEST_WRITE))
            stream.write(payload)
            end.written += payload

    def ack(self, side: int) -> None:
        """The timer of an end runs out."""
        stream = self.stream(side)
        if stream is not None and (stream.ack_owed or side == HOST):
            stream.want_ack()

    def path_of(self, side: int) -> list[bytes]:
        return [] if self.pending is None else self.pending.ways[side]

    # --- what must hold -----------------------------------------------------------------------------

    def check(self) -> None:
        """At any time, the received bytes are a prefix of the written ones, and no end buffers more than a window."""
        for side in (HOST, RELAY):
            end, other = self.ends[side], self.ends[1 - side]
            assert other.written.startswith(end.got)
            assert len(other.written) - len(end.got) < self.window_bytes + LARGEST_WRITE
            assert end.ended <= 1

    def settle(self) -> None:
        """The network is well again: everything arrives."""
        self.dial()
        self.admit(-1)
        for _ in range(10_000):
            before = self._state()
            for side in (HOST, RELAY):
                for _ in range(len(self.path_of(side))):
                    self.arrive(side)
                while self.ends[side].waiting:
                    self.deliver(side, 10**6)
                stream = self.stream(side)
                if stream is not None and stream.ack_owed:
                    stream.want_ack()
                self.pump(side)
            if self._state() == before and not any(map(len, self.pending.ways if self.pending else ())):
                return
        raise AssertionError("the ends talk on for ever")

    def finish(self) -> None:
        """Both local sockets end."""
        self.settle()
        for side in (HOST, RELAY):
            stream = self.stream(side)
            assert stream is not None
            stream.finish()
        self.settle()

    def check_over(self) -> None:
        """Everything came, once and in order, and nothing is owed."""
        assert [end.got for end in self.ends] == [end.written for end in self.ends[::-1]]
        assert [end.ended for end in self.ends] == [1, 1]
        for side in (HOST, RELAY):
            stream = self.stream(side)
            assert stream is not None
            assert stream.finished
            assert stream.window_open

    def _state(self) -> tuple[object, ...]:
        streams = [stream for side in (HOST, RELAY) if (stream := self.stream(side)) is not None]
        return (
            *((end.got, end.ended) for end in self.ends),
            *((stream.received, stream.unacked, stream.ack_owed) for stream in streams),
        )


_OPS = [
    *("write", "write", "pump", "pump", "arrive", "arrive", "arrive", "deliver", "deliver", "dial", "admit"),
    *("cut", "redial", "redial", "redial", "recut", "again", "admit again", "ack"),
]
_STEPS = st.lists(
    st.tuples(st.sampled_from(_OPS), st.sampled_from([HOST, RELAY]), st.integers(0, 400)), min_size=30, max_size=120
)


def attached(window_bytes: int) -> Network:
    """Return a network with a stream that was just opened."""
    net = Network(window_bytes)
    net.dial()
    net.admit(-1)
    net.arrive(HOST)
    return net


def do(net: Network, op: str, side: int, number: int) -> None:
    """Have one thing happen."""
    match op:
        case "pump" | "arrive" | "ack":
            getattr(net, op)(side)
        case "write" | "deliver" | "recut" | "again":
            getattr(net, op)(side, number)
        case "admit" | "cut":
            getattr(net, op)(number)
        case "admit again":
            net.admit_again(number)
        case "dial":
            net.dial()
        case "redial":
            net.cut(number)
            net.dial()
            net.admit(-1)
            net.arrive(HOST)
        case _:
            raise AssertionError(op)


@examples.at_most(300)
@given(window_bytes=st.integers(1, 300), steps=_STEPS)
def test_every_byte_arrives_once_and_in_order(window_bytes: int, steps: list[tuple[str, int, int]]) -> None:
    """With cuts, delays, repetitions and reordering, each end receives the bytes that the other wrote, then EOF."""
    net = attached(window_bytes)
    for op, side, number in steps:
        do(net, op, side, number)
        net.check()
    net.finish()
    net.check()
    net.check_over()
    for name in sorted(net.counts):
        event(f"{name}: {min(net.counts[name], 3)}")


def exchange(cuts: list[int]) -> tuple[Network, int]:
    """Run one exchange, cut after each of these counts of bytes in turn; return it and its first socket's bytes."""
    net = attached(64)
    for number in (20, 12, 1):
        net.write(HOST, number)
        net.write(RELAY, number + 8)
    net.pump(HOST)
    net.pump(RELAY)
    assert net.pending is not None
    size = max(sum(map(len, way)) for way in net.pending.ways)
    for place in cuts:
        net.cut(place)
        net.check()
        net.dial()
        net.admit(-1)
        net.arrive(HOST)
        net.pump(HOST)
        net.pump(RELAY)
    return net, size


def test_a_cut_at_every_byte_loses_and_repeats_none() -> None:
    """The exchange is cut at each of its bytes, and again at some later bytes, within and between frames."""
    counts: Counter[str] = Counter()
    _, size = exchange([])
    assert size > 3 * HEADER_BYTES
    for first in range(size + 1):
        for second in (*range(0, size + 1, 7), size):
            net, _ = exchange([first, second])
            net.finish()
            net.check_over()
            counts += net.counts
    # cuts between frames repeat nothing, cuts within one must trim
    assert counts["trimmed"] > size
    assert counts["admitted"] > 4 * counts["trimmed"] / size


def test_a_frame_that_repeats_and_goes_on_is_trimmed() -> None:
    """An end with a partial frame receives the whole frame again and uses the rest of it."""
    net = attached(64)
    net.write(HOST, 29)
    net.pump(HOST)
    net.cut(HEADER_BYTES + 11)
    assert net.relay is not None
    assert net.relay.stream.received == 11
    net.settle()
    assert net.counts["trimmed"] == 1
    assert net.ends[RELAY].got == net.ends[HOST].written


@given(order=st.permutations(range(4)), writes=st.lists(st.integers(0, 50), min_size=4, max_size=4))
def test_of_dials_out_of_order_the_latest_carries_the_stream(order: list[int], writes: list[int]) -> None:
    """Dials may arrive in any order: after the latest one, earlier ones are refused."""
    net = Network(1000)
    for number in writes:
        net.write(HOST, number)
        net.dial()
    last = net.dials[-1][1]
    dials = list(net.dials)
    net.dials.clear()
    for index in order:
        net.answer_hello(*dials[index])
    assert net.at_relay is last
    latest = [index for index in range(4) if all(order[j] < order[index] for j in range(index))]
    assert net.counts["admitted"] == len(latest)
    net.finish()
    net.check_over()


def test_a_reader_that_stops_stops_the_writer() -> None:
    """Without a reader at one end, no byte is lost and no end buffers more than a window, over many sockets."""
    net = attached(100)
    for _ in range(50):
        net.write(HOST, 9)
        net.pump(HOST)
        net.arrive(RELAY)
        net.check()
    assert len(net.ends[HOST].written) == 100  # ten writes of ten bytes, then the window is full
    assert not net.host.stream.window_open
    for _ in range(3):
        net.cut(0)
        net.dial()
        net.admit(-1)
        net.arrive(HOST)
        net.pump(HOST)
        assert net.path_of(RELAY) == []  # all of it is there, waiting for the reader
    net.finish()
    net.check_over()
