"""Tests of ``wire.stream``: two streams joined in memory, and all rules that a peer can break."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.wire.frames import MAX_PAYLOAD_BYTES, Frame, FrameType, decode, encode
from daytona_kernel_interp.wire.protocol_errors import LocalProtocolError, RemoteProtocolError, WindowOverrun
from daytona_kernel_interp.wire.stream import Received, Stream

pytestmark = pytest.mark.python


@dataclass
class End:
    """One end: its stream, the frames on their way to it, and what its local socket got."""

    stream: Stream
    inbox: list[bytes] = field(default_factory=list)
    seen: list[bytes] = field(default_factory=list)
    waiting: list[Received] = field(default_factory=list)
    got: bytes = b""
    ended: int = 0

    def take(self, message: bytes) -> None:
        """Receive one message, new or again."""
        self.waiting += self.stream.receive(message)

    def take_next(self) -> None:
        if self.inbox:
            message = self.inbox.pop(0)
            self.seen.append(message)
            self.take(message)

    def deliver_next(self) -> None:
        if self.waiting:
            received = self.waiting.pop(0)
            self.got += received.payload
            self.ended += received.finished
            self.stream.delivered(1 if received.finished else len(received.payload))


class Pair:
    """Two ends with everything between them in memory."""

    def __init__(self, window_bytes: int) -> None:
        self.ends = (End(Stream(window_bytes=window_bytes)), End(Stream(window_bytes=window_bytes)))

    def flush(self) -> None:
        for end, other in (self.ends, self.ends[::-1]):
            other.inbox += messages(end.stream)

    def settle(self) -> None:
        """Let everything arrive and be delivered."""
        while any(end.inbox or end.waiting for end in self.ends) or self._flushed():
            for end in self.ends:
                end.take_next()
                end.deliver_next()
                if end.stream.ack_owed and not end.waiting:
                    end.stream.want_ack()  # the shell's timer

    def _flushed(self) -> bool:
        self.flush()
        return any(end.inbox for end in self.ends)


def messages(stream: Stream) -> list[bytes]:
    """Return what a stream wants to send, as far as it goes."""
    return list(iter(stream.next_frame, None))


def send(stream: Stream) -> list[Frame]:
    """Return the frames that a stream wants to send."""
    return [decode(data) for data in messages(stream)]


def data(offset: int, payload: bytes, ack: int = 0) -> bytes:
    """Return a DATA frame."""
    return encode(Frame(FrameType.DATA, offset, ack, payload))


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "flush", "take", "take", "deliver", "again"]),
        st.integers(0, 1),
        st.integers(0, 2**16),
    ),
    max_size=60,
)


@given(window_bytes=st.integers(1, 400), steps=_STEPS)
def test_bytes_arrive_once_and_in_order(window_bytes: int, steps: list[tuple[str, int, int]]) -> None:
    """With any pieces and repetitions, each end receives exactly the written bytes, then EOF, once."""
    pair = Pair(window_bytes)
    written = [b"", b""]
    for step, index, number in steps:
        end = pair.ends[index]
        if step == "write" and end.stream.window_open:
            payload = bytes((len(written[index]) + i) % 251 for i in range(1 + number % 300))
            end.stream.write(payload)
            written[index] += payload
        elif step == "flush":
            pair.flush()
        elif step == "take":
            end.take_next()
        elif step == "deliver":
            end.deliver_next()
        elif step == "again" and end.seen:
            end.take(end.seen[number % len(end.seen)])
    for end in pair.ends:
        end.stream.finish()
        end.stream.finish()
    pair.settle()
    assert [end.got for end in pair.ends] == written[::-1]
    assert [end.ended for end in pair.ends] == [1, 1]
    assert all(end.stream.finished for end in pair.ends)


@given(window_bytes=st.integers(1, 1500), sizes=st.lists(st.integers(1, 500), max_size=25))
def test_the_window_closes_and_opens(window_bytes: int, sizes: list[int]) -> None:
    """A sender stops at the window, and continues after the peer's socket has accepted the bytes."""
    pair = Pair(window_bytes)
    sender, receiver = pair.ends
    for size in sizes:
        if not sender.stream.window_open:
            pair.flush()
            while receiver.inbox:
                receiver.take_next()
            pair.flush()
            assert not sender.inbox  # received is not delivered: nothing is acked yet
            held = sum(len(received.payload) for received in receiver.waiting)
            assert window_bytes * 7 // 8 <= held < window_bytes + 500
            pair.settle()
        assert sender.stream.window_open
        sender.stream.write(bytes(size))
    pair.settle()
    assert sender.stream.window_open
    assert len(receiver.got) == sum(sizes)


def test_the_window_counts_what_is_not_acked() -> None:
    """The window is closed when all of it is in flight, and an ack opens it."""
    stream = Stream(window_bytes=10)
    stream.write(bytes(9))
    assert stream.window_open
    stream.write(bytes(1))
    assert not stream.window_open
    list(stream.receive(encode(Frame(FrameType.ACK, 0, 1))))
    assert stream.window_open


def test_a_write_goes_out_once() -> None:
    """Within an attachment, no byte is sent again."""
    stream = Stream()
    stream.write(b"ab")
    stream.write(b"c")
    assert send(stream) == [Frame(FrameType.DATA, 0, 0, b"ab"), Frame(FrameType.DATA, 2, 0, b"c")]
    assert send(stream) == []


def test_finish_takes_one_offset_and_is_said_once() -> None:
    """FIN has the offset after the last byte."""
    stream = Stream()
    stream.write(b"abc")
    stream.finish()
    stream.finish()
    assert send(stream)[1:] == [Frame(FrameType.FIN, 3, 0)]


def test_an_ack_waits_for_the_local_socket() -> None:
    """Bytes are acked after the local socket has accepted them, not on receipt."""
    stream = Stream(window_bytes=16)
    assert list(stream.receive(data(0, b"abcd"))) == [Received(b"abcd")]
    assert send(stream) == []
    stream.delivered(4)
    assert send(stream) == [Frame(FrameType.ACK, 0, 4)]


def test_small_deliveries_share_an_ack() -> None:
    """An ack goes out at an eighth of the window, not for every byte."""
    stream = Stream(window_bytes=80)
    list(stream.receive(data(0, bytes(30))))
    for _ in range(9):
        stream.delivered(1)
    assert send(stream) == []
    stream.delivered(1)
    assert [frame.ack for frame in send(stream)] == [10]


def test_data_carries_the_ack_along() -> None:
    """A DATA frame carries the ack, and no separate ACK follows."""
    stream = Stream(window_bytes=80)
    list(stream.receive(data(0, bytes(5))))
    stream.delivered(5)
    stream.write(b"x")
    assert send(stream) == [Frame(FrameType.DATA, 0, 5, b"x")]


def test_the_last_bytes_are_acked_at_once() -> None:
    """After the peer's FIN, the last delivery of any size is acked, because the peer waits for it."""
    stream = Stream()
    assert list(stream.receive(data(0, b"a"))) == [Received(b"a")]
    assert list(stream.receive(encode(Frame(FrameType.FIN, 1, 0)))) == [Received(finished=True)]
    stream.delivered(1)
    stream.delivered(1)
    assert send(stream)[-1] == Frame(FrameType.ACK, 0, 2)


def test_finished_needs_both_ends_and_every_ack() -> None:
    """A stream is finished after both directions have ended, sent bytes are acked and received ones delivered."""
    stream = Stream()
    stream.write(b"a")
    stream.finish()
    assert not stream.finished
    list(stream.receive(encode(Frame(FrameType.FIN, 0, 1))))
    assert not stream.finished
    list(stream.receive(encode(Frame(FrameType.ACK, 1, 2))))
    assert not stream.finished
    stream.delivered(1)
    assert stream.finished


def test_an_overlap_brings_its_new_part_only() -> None:
    """A frame with old and new bytes is trimmed."""
    stream = Stream()
    list(stream.receive(data(0, b"abc")))
    assert list(stream.receive(data(1, b"bcde"))) == [Received(b"de")]
    assert list(stream.receive(data(0, b"abcde"))) == []


def test_old_acks_change_nothing() -> None:
    """Acks are cumulative: a late smaller one does not close the window again."""
    stream = Stream(window_bytes=4)
    stream.write(b"abcd")
    list(stream.receive(encode(Frame(FrameType.ACK, 0, 4))))
    list(stream.receive(encode(Frame(FrameType.ACK, 0, 0))))
    assert stream.window_open


def test_writing_after_the_end_is_our_fault() -> None:
    """A write after FIN raises LocalProtocolError."""
    stream = Stream()
    stream.finish()
    with pytest.raises(LocalProtocolError, match="after finish"):
        stream.write(b"x")


def test_a_write_beyond_one_frame_is_our_fault_and_leaves_no_trace() -> None:
    """A payload above the frame limit is refused before an offset changes."""
    stream = Stream()
    with pytest.raises(LocalProtocolError, match="at most"):
        stream.write(bytes(MAX_PAYLOAD_BYTES + 1))
    stream.write(b"x")
    assert send(stream) == [Frame(FrameType.DATA, 0, 0, b"x")]


def test_claiming_more_than_came_is_our_fault() -> None:
    """Bytes that were not received cannot be acked."""
    stream = Stream()
    list(stream.receive(data(0, b"ab")))
    with pytest.raises(LocalProtocolError, match="more than was received"):
        stream.delivered(3)
    stream.delivered(2)


@pytest.mark.parametrize("kind", [FrameType.DATA, FrameType.FIN])
def test_a_gap_is_refused(kind: FrameType) -> None:
    """A lost byte cannot be recovered, so later bytes are refused."""
    with pytest.raises(RemoteProtocolError, match="expected offset 0, got 1"):
        list(Stream().receive(encode(Frame(kind, 1, 0, b"x" if kind is FrameType.DATA else b""))))


@pytest.mark.parametrize("kind", list(FrameType))
def test_an_ack_of_what_was_never_sent_is_refused(kind: FrameType) -> None:
    """An ack cannot exceed the sent offset, in any frame type."""
    payload = b"x" if kind in (FrameType.DATA, FrameType.HELLO) else b""
    with pytest.raises(RemoteProtocolError, match="beyond the 0 bytes"):
        list(Stream().receive(encode(Frame(kind, 0, 1, payload))))


def test_data_after_the_end_is_refused() -> None:
    """Data after the peer's FIN is refused."""
    stream = Stream()
    list(stream.receive(encode(Frame(FrameType.FIN, 0, 0))))
    with pytest.raises(RemoteProtocolError, match="after FIN"):
        list(stream.receive(data(0, b"xy")))


def test_a_stream_ends_once() -> None:
    """A repeated FIN, at the same or a later offset, is not a second EOF."""
    stream = Stream()
    ends = [list(stream.receive(encode(Frame(FrameType.FIN, offset, 0)))) for offset in (0, 0, 1)]
    assert ends == [[Received(finished=True)], [], []]


def test_an_end_before_what_came_is_none() -> None:
    """A FIN before received bytes is ignored."""
    stream = Stream()
    list(stream.receive(data(0, b"ab")))
    assert list(stream.receive(encode(Frame(FrameType.FIN, 1, 0)))) == []
    assert list(stream.receive(data(2, b"c"))) == [Received(b"c")]


def test_a_second_hello_is_refused() -> None:
    """HELLO opens an attachment and is read before a stream sees it."""
    with pytest.raises(RemoteProtocolError, match="HELLO"):
        list(Stream().receive(encode(Frame(FrameType.HELLO, 0, 0, b"{}"))))


def test_a_peer_that_ignores_the_window_is_refused() -> None:
    """A peer cannot make a stream buffer more than the window and one frame; delivered bytes do not count."""
    stream = Stream(window_bytes=1000)
    list(stream.receive(data(0, bytes(1000))))
    list(stream.receive(data(1000, bytes(MAX_PAYLOAD_BYTES))))
    with pytest.raises(WindowOverrun, match="window of 1000"):
        list(stream.receive(data(1000 + MAX_PAYLOAD_BYTES, b"x")))
    stream.delivered(1)
    assert list(stream.receive(data(1000 + MAX_PAYLOAD_BYTES, b"x"))) == [Received(b"x")]
    assert stream.undelivered == 1000 + MAX_PAYLOAD_BYTES


def test_the_relay_answers_what_says_nothing_new() -> None:
    """An ACK without a new offset is a keepalive; the relay replies and the host does not, so there is no echo."""
    ask = encode(Frame(FrameType.ACK, 0, 0))
    relay, host = Stream(answers=True), Stream()
    for stream in (relay, host):
        list(stream.receive(ask))
    assert [frame.type for frame in send(relay)] == [FrameType.ACK]
    assert send(host) == []


def test_an_ack_with_news_asks_nothing() -> None:
    """An ACK with a new offset is not a keepalive."""
    relay = Stream(answers=True)
    relay.write(b"x")
    send(relay)
    list(relay.receive(encode(Frame(FrameType.ACK, 0, 1))))
    assert send(relay) == []


def test_a_question_goes_out_once() -> None:
    """One request sends one ACK."""
    host = Stream()
    host.want_ack()
    host.want_ack()
    assert send(host) == [Frame(FrameType.ACK, 0, 0)]
    assert send(host) == []


def test_what_is_unacked_is_owed() -> None:
    """Bytes are unacked until an ack covers them; the host sends keepalives only while there are some."""
    stream = Stream()
    assert not stream.unacked
    stream.write(b"ab")
    assert stream.unacked
    list(stream.receive(encode(Frame(FrameType.ACK, 0, 1))))
    assert stream.unacked
    list(stream.receive(encode(Frame(FrameType.ACK, 0, 2))))
    assert not stream.unacked


# --- attachments --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("received", "again"),
    [(0, [b"abc", b"de", b"f", b""]), (2, [b"abc", b"de", b"f", b""]), (3, [b"de", b"f", b""]), (6, [b""]), (7, [])],
)
def test_an_attachment_goes_on_where_the_peer_stopped(received: int, again: list[bytes]) -> None:
    """Missing bytes are sent again in their old frames; a partially received frame is sent from its start."""
    stream = Stream()
    for payload in (b"abc", b"de", b"f"):
        stream.write(payload)
    stream.finish()
    send(stream)
    stream.attach(received)
    frames = send(stream)
    assert [frame.payload for frame in frames] == again
    assert [frame.offset for frame in frames] == [0, 3, 5, 6][4 - len(again) :]


def test_what_was_acked_is_kept_no_longer() -> None:
    """A peer that requests acked bytes is refused."""
    stream = Stream()
    stream.write(b"abc")
    send(stream)
    list(stream.receive(encode(Frame(FrameType.ACK, 0, 3))))
    with pytest.raises(RemoteProtocolError, match="offset 2; kept are 3 to 3"):
        stream.attach(2)
    stream.attach(3)


def test_an_offset_from_the_future_is_refused_and_changes_nothing() -> None:
    """An offset above the sent bytes is refused; the stream is unchanged."""
    stream = Stream()
    stream.write(b"abc")
    with pytest.raises(RemoteProtocolError, match="offset 4; kept are 0 to 3"):
        stream.attach(4)
    assert send(stream) == [Frame(FrameType.DATA, 0, 0, b"abc")]


def test_an_attachment_repeats_its_ack() -> None:
    """An ack may be lost with a socket, so each attachment sends it again."""
    stream = Stream()
    list(stream.receive(data(0, b"ab")))
    stream.delivered(2)
    stream.want_ack()
    assert send(stream) == [Frame(FrameType.ACK, 0, 2)]
    assert send(stream) == []
    stream.attach(0)
    assert send(stream) == [Frame(FrameType.ACK, 0, 2)]


def test_an_ack_in_mid_frame_keeps_the_frame() -> None:
    """A partially received frame is trimmed by the receiver."""
    stream = Stream()
    stream.write(b"abcd")
    send(stream)
    list(stream.receive(encode(Frame(FrameType.ACK, 0, 2))))
    stream.attach(2)
    assert send(stream) == [Frame(FrameType.DATA, 0, 0, b"abcd")]


def test_an_ack_between_frames_skips_none() -> None:
    """An ack does not change the order of queued frames."""
    stream = Stream()
    for payload in (b"a", b"b", b"c"):
        stream.write(payload)
    first = [decode(stream.next_frame() or b"") for _ in range(2)]
    list(stream.receive(encode(Frame(FrameType.ACK, 0, 1))))
    assert [frame.payload for frame in [*first, *send(stream)]] == [b"a", b"b", b"c"]


@given(
    st.lists(st.binary(max_size=40) | st.builds(data, st.integers(0, 4), st.binary(min_size=1, max_size=4)), max_size=8)
)
def test_any_messages_are_taken_or_refused(messages: list[bytes]) -> None:
    """Any messages of the peer are accepted or raise RemoteProtocolError."""
    stream = Stream()
    try:
        for message in messages:
            list(stream.receive(message))
    except RemoteProtocolError:
        pass
