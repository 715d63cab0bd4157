"""Tests of ``wire.keepalive``: the timing of a link, and the admission of streams by a relay."""

from __future__ import annotations

from dataclasses import replace
from secrets import token_hex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.wire.frames import Frame, FrameType, decode, encode
from daytona_kernel_interp.wire.hello import MAX_STREAMS, CloseCode, HostHello, RelayHello
from daytona_kernel_interp.wire.keepalive import (
    FINAL_CLOSES,
    Admitted,
    HostStream,
    LinkTimings,
    Refused,
    RelayStream,
    RelayStreams,
    Watchdog,
    WatchdogAction,
)
from daytona_kernel_interp.wire.protocol_errors import RemoteProtocolError

pytestmark = pytest.mark.python

TIMES = LinkTimings()
TICK_S = 0.5


def beats(watch: Watchdog, seconds: float, *, heard: bool, in_flight: bool = True, warm: bool = False) -> list[float]:
    """Tick through ``seconds`` from now 0; return when the link was asked, with a minus when it was taken for dead."""
    found = []
    for number in range(1, int(seconds / TICK_S) + 1):
        now = number * TICK_S
        if heard:
            watch.received(now)
        beat = watch.tick(now, in_flight=in_flight, keep_warm=warm)
        if beat is not WatchdogAction.NOTHING:
            found.append(now if beat is WatchdogAction.KEEPALIVE else -now)
    return found


# --- the rhythm -----------------------------------------------------------------------------------------


def test_the_rhythm_is_the_documented_one() -> None:
    """1 s and 4 s while busy, 15 s while idle, ten minutes to resume."""
    assert LinkTimings(1.0, 4.0, 15.0, 600.0) == TIMES


def test_a_busy_link_is_asked_once_a_second() -> None:
    """The first keepalive is sent a second after a wait began, so that most cells need none."""
    assert beats(Watchdog(TIMES, 0.0), 5, heard=True) == [1.5, 2.5, 3.5, 4.5]


def test_a_silent_link_is_dead_after_four_seconds() -> None:
    """Keepalives are sent meanwhile; with ticks of 0.5 s a dead link is detected within 5 s of the first wait."""
    assert beats(Watchdog(TIMES, 0.0), 4.5, heard=False) == [1.5, 2.5, 3.5, -4.5]


def test_silence_before_anything_was_waited_for_does_not_count() -> None:
    """For a link that was idle for hours, the four seconds start with the next wait."""
    watch = Watchdog(TIMES, 0.0)
    assert watch.tick(9000.0, in_flight=False) is WatchdogAction.NOTHING
    assert [watch.tick(9000.5 + second, in_flight=True) for second in range(5)] == [
        WatchdogAction.NOTHING,
        *[WatchdogAction.KEEPALIVE] * 3,
        WatchdogAction.DEAD,
    ]


def test_whoever_ticks_late_asks_before_it_judges() -> None:
    """After a busy event loop or a sleep of the machine, silence counts from the next tick."""
    watch = Watchdog(TIMES, 0.0)
    watch.tick(0.5, in_flight=True)
    assert watch.tick(9000.0, in_flight=True) is WatchdogAction.KEEPALIVE
    assert [watch.tick(9000.0 + second, in_flight=True) for second in range(1, 5)] == [
        *[WatchdogAction.KEEPALIVE] * 3,
        WatchdogAction.DEAD,
    ]


def test_an_end_of_the_wait_forgets_its_silence() -> None:
    """The four seconds start again with each wait."""
    watch = Watchdog(TIMES, 0.0)
    watch.tick(1.0, in_flight=True)
    for now in (2.0, 3.0, 4.0):
        watch.tick(now, in_flight=True)
    watch.tick(4.5, in_flight=False)
    assert watch.tick(5.5, in_flight=True) is WatchdogAction.NOTHING
    for now in (6.5, 7.5, 8.5):
        assert watch.tick(now, in_flight=True) is WatchdogAction.KEEPALIVE
    assert watch.tick(9.5, in_flight=True) is WatchdogAction.DEAD


def test_any_byte_is_a_sign_of_life() -> None:
    """A blocked reader stops only the acks: its relay replies to keepalives, and the link is alive."""
    watch = Watchdog(TIMES, 0.0)
    watch.tick(0.0, in_flight=True)
    for second in range(1, 3000):
        if second % 3 == 0:
            watch.received(float(second))
        assert watch.tick(second, in_flight=True) is not WatchdogAction.DEAD
    assert [watch.tick(second, in_flight=True) for second in (3000, 3001)] == [
        WatchdogAction.KEEPALIVE,
        WatchdogAction.DEAD,
    ]


@pytest.mark.parametrize(("warm", "asked"), [(True, [15.0, 30.0, 45.0]), (False, [])])
def test_an_idle_link_is_kept_warm_where_it_is_asked_for(warm: bool, asked: list[float]) -> None:
    """One stream of an idle session sends a keepalive every 15 s."""
    assert beats(Watchdog(TIMES, 0.0), 59.5, heard=True, in_flight=False, warm=warm) == asked


def test_an_idle_link_that_does_not_answer_is_dead() -> None:
    """It is dead four seconds after a keepalive; silence before is not a sign."""
    assert beats(Watchdog(TIMES, 0.0), 19.0, heard=False, in_flight=False, warm=True) == [15.0, -19.0]


def test_an_idle_link_that_was_asked_late_is_asked_for_its_answer_anew() -> None:
    """After a sleep of the machine, another keepalive is sent before the link is declared dead."""
    watch = Watchdog(TIMES, 0.0)
    for second in range(1, 16):
        beat = watch.tick(float(second), in_flight=False, keep_warm=True)
    assert beat is WatchdogAction.KEEPALIVE
    assert watch.tick(9000.0, in_flight=False, keep_warm=True) is WatchdogAction.NOTHING
    watch.received(9001.0)
    assert [watch.tick(9001.0 + second, in_flight=False, keep_warm=True) for second in range(4)] == [
        WatchdogAction.KEEPALIVE,
        *[WatchdogAction.NOTHING] * 3,
    ]


@given(st.lists(st.tuples(st.floats(0, 1.5), st.booleans(), st.booleans()), max_size=60))
def test_only_silence_while_waiting_kills(steps: list[tuple[float, bool, bool]]) -> None:
    """A link is dead exactly after four seconds of a wait without a byte."""
    watch, now, since = Watchdog(TIMES, 0.0), 0.0, None
    heard_at = 0.0
    for wait_s, heard, in_flight in steps:
        now += wait_s
        if heard:
            watch.received(now)
            heard_at = now
        since = (now if since is None or wait_s > 1.0 else since) if in_flight else None  # a late tick begins anew
        dead = since is not None and now - max(since, heard_at) >= 4.0
        assert (watch.tick(now, in_flight=in_flight) is WatchdogAction.DEAD) == dead


# --- the host's end -------------------------------------------------------------------------------------


def hello_frame(received: int = 0, payload: bytes | None = None) -> bytes:
    """Return a relay's first message."""
    return encode(Frame(FrameType.HELLO, 0, received, payload or RelayHello("00ff", 9).to_payload()))


def test_each_dial_is_a_generation() -> None:
    """No hello is used twice; stream id and secret stay the same; the relay's hello confirms the stream."""
    host = HostStream("1-ab", token_hex=token_hex, window_bytes=77)
    first, second = host.next_hello(), host.next_hello()
    assert (first.generation, second.generation, first.known) == (1, 2, False)
    assert replace(second, generation=1) == first
    assert (first.kernel, first.window, first.received) == ("1-ab", 77, 0)
    host.take_hello(hello_frame())
    list(host.stream.receive(encode(Frame(FrameType.DATA, 0, 0, b"abc"))))
    assert (host.next_hello().known, host.next_hello().received, host.boot) == (True, 3, "00ff")


def test_two_streams_share_nothing() -> None:
    """Ids and secrets are random, with the length that the hello requires."""
    said = [HostStream("k", token_hex=token_hex).next_hello() for _ in range(3)]
    assert len({hello.stream for hello in said}) == len({hello.resume for hello in said}) == 3


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (b"", "a frame has"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "frame type 72"),
        (encode(Frame(FrameType.DATA, 0, 0, b"x")), "no HELLO"),
        (encode(Frame(FrameType.ACK, 0, 0)), "no HELLO"),
        (hello_frame(payload=b"{"), "not JSON"),
        (hello_frame(payload=b"\xff\xfe"), "not JSON"),
        (hello_frame(payload=b'{"version": 9}'), "install the same"),
        (hello_frame(received=1), "resumes at offset 1"),
    ],
)
def test_a_relay_that_says_no_hello_is_refused(message: bytes, why: str) -> None:
    """After garbage, another version or an offset that was not sent, the stream is unchanged and not confirmed."""
    host = HostStream("k", token_hex=token_hex)
    with pytest.raises(RemoteProtocolError, match=why):
        host.take_hello(message)
    assert not host.next_hello().known
    assert host.boot is None


# --- the relay's end ------------------------------------------------------------------------------------


def admitted(streams: RelayStreams, hello: HostHello, channel: str = "shell") -> RelayStream:
    """Have an attachment admitted."""
    answer = streams.admit(channel, hello)
    assert isinstance(answer, Admitted), answer
    return answer.stream


def refused(streams: RelayStreams, hello: HostHello, channel: str = "shell") -> CloseCode:
    """Have an attachment refused; return with which code."""
    answer = streams.admit(channel, hello)
    assert isinstance(answer, Refused), answer
    assert answer.reason
    return answer.code


def test_a_stream_is_admitted_and_resumed() -> None:
    """The first attachment creates the stream, the next resumes it."""
    streams, host = RelayStreams(boot="b00t"), HostStream("1-ab", token_hex=token_hex)
    answer = streams.admit("shell", host.next_hello())
    assert isinstance(answer, Admitted)
    assert answer.new
    stream = answer.stream
    assert (stream.channel, stream.kernel, stream.generation) == ("shell", "1-ab", 1)
    assert host.take_hello(encode(streams.hello_frame(stream))) == RelayHello("b00t", 16 << 20)
    host.stream.write(b"abc")
    list(stream.stream.receive(host.stream.next_frame() or b""))
    again = streams.admit("shell", host.next_hello())
    assert isinstance(again, Admitted)
    assert not again.new
    assert again.stream is stream
    assert decode(encode(streams.hello_frame(stream))).ack == 3
    assert list(streams) == [stream]


def test_a_relay_stream_keeps_its_secret_to_itself() -> None:
    """The secret is in no repr."""
    host = HostStream("k", token_hex=token_hex)
    hello = host.next_hello()
    assert hello.resume not in repr(admitted(RelayStreams(boot="b00t"), hello))


@pytest.mark.parametrize(
    ("changes", "channel", "code"),
    [
        ({"resume": "0" * 64}, "shell", CloseCode.BAD_SECRET),
        ({"resume": "0" * 64, "generation": 1}, "shell", CloseCode.BAD_SECRET),  # the secret is checked first
        ({"generation": 1}, "shell", CloseCode.STALE_GENERATION),
        ({"kernel": "2-cd"}, "shell", CloseCode.BAD_HELLO),
        ({}, "iopub", CloseCode.BAD_HELLO),
        ({"received": 4}, "shell", CloseCode.BAD_HELLO),
        ({"stream": "0" * 32, "known": True}, "shell", CloseCode.UNKNOWN_STREAM),
        ({"stream": "0" * 32, "known": False, "received": 1}, "shell", CloseCode.BAD_HELLO),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes: dict[str, object], channel: str, code: CloseCode) -> None:
    """Each refusal has its code, creates no stream, and changes no existing one."""
    streams, host, other = (
        RelayStreams(boot="b00t"),
        HostStream("1-ab", token_hex=token_hex),
        HostStream("1-ab", token_hex=token_hex),
    )
    stream, neighbour = admitted(streams, host.next_hello()), admitted(streams, other.next_hello(), "iopub")
    for end in (stream, neighbour):
        end.stream.write(b"abc")
        assert end.stream.next_frame() is not None
    host.take_hello(encode(streams.hello_frame(stream)))
    assert refused(streams, replace(host.next_hello(), **changes), channel) is code  # type: ignore[arg-type]
    assert list(streams) == [stream, neighbour]
    assert [end.stream.next_frame() for end in (stream, neighbour)] == [None, None]  # nothing began anew
    assert admitted(streams, host.next_hello()) is stream
    assert stream.stream.next_frame() == encode(Frame(FrameType.DATA, 0, 0, b"abc"))


def test_a_wrong_secret_does_not_use_a_generation_up() -> None:
    """A peer without the secret cannot exclude the host with a high generation."""
    streams, host = RelayStreams(boot="b00t"), HostStream("k", token_hex=token_hex)
    stream = admitted(streams, host.next_hello())
    refused(streams, replace(host.next_hello(), resume="0" * 64, generation=2**62))
    assert admitted(streams, host.next_hello()) is stream


def test_a_flood_of_streams_is_refused_at_the_limit() -> None:
    """The 65th stream and later ones are refused; the others continue, and the end of one admits another."""
    streams = RelayStreams(boot="b00t")
    hosts = [HostStream("k", token_hex=token_hex) for _ in range(MAX_STREAMS)]
    found = [admitted(streams, host.next_hello()) for host in hosts]
    for _ in range(1000):
        assert refused(streams, HostStream("k", token_hex=token_hex).next_hello()) is CloseCode.TOO_MANY_STREAMS
    assert list(streams) == found
    assert admitted(streams, hosts[0].next_hello()) is found[0]  # a known one is no new one
    streams.remove(found[1])
    streams.remove(found[1])
    admitted(streams, HostStream("k", token_hex=token_hex).next_hello())
    assert refused(streams, HostStream("k", token_hex=token_hex).next_hello()) is CloseCode.TOO_MANY_STREAMS


def test_a_detached_stream_waits_for_its_lifetime() -> None:
    """The lifetime starts with the loss of the socket, stops with the next socket, and starts again with its loss."""
    streams, host = RelayStreams(boot="b00t", lifetime_s=10), HostStream("k", token_hex=token_hex)
    stream = admitted(streams, host.next_hello())
    host.take_hello(encode(streams.hello_frame(stream)))
    assert streams.expired(1e9) == []
    streams.detached(stream, 100.0)
    streams.detached(stream, 105.0)  # said again, it counts from the first
    assert streams.expired(109.9) == []
    assert streams.expired(110.0) == [stream]
    admitted(streams, host.next_hello())
    assert streams.expired(1e9) == []
    streams.detached(stream, 200.0)
    assert streams.expired(210.0) == [stream]
    streams.remove(stream)
    assert refused(streams, host.next_hello()) is CloseCode.UNKNOWN_STREAM


def test_our_close_codes_are_final() -> None:
    """After a close code of this protocol the host does not dial; after a lost socket or a proxy's code it does."""
    assert {int(code) for code in CloseCode} == FINAL_CLOSES
    assert not FINAL_CLOSES & {1000, 1001, 1006, 1009, *range(1011, 1014)}
