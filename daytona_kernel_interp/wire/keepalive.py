"""The link: which attachment carries a stream, when one is taken for dead, and what is refused.

Sans-I/O: callers give the time in seconds of a monotonic clock and bring the sockets.

* :class:`HostStream`: the host's end of one stream, across its dials.
* :class:`RelayStreams`: all streams of a relay; admits, resumes, refuses and expires them.
* :class:`Watchdog`: the rhythm of the host's keepalive, and its judgement that a socket is dead.

The rhythm is the host's alone. While something is in flight it asks once a second, with an ACK that says nothing new,
and the relay answers; a socket on which no byte came for four seconds is dead. Bytes count, not messages: a large frame
on a slow link is no silence. So a reader that does not read, which only stops the acks, is not a dead link either.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from .frames import Frame, FrameType, decode
from .hello import MAX_STREAMS, CloseCode, HostHello, RelayHello, parse_relay_hello
from .protocol_errors import RemoteProtocolError
from .stream import WINDOW_BYTES, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEEPALIVE_S = 1.0
DEAD_AFTER_S = 4.0
IDLE_KEEPALIVE_S = 15.0  # of one stream of an idle session: keeps balancers from cutting it, and tells the relay of us
ACK_DELAY_S = 0.05  # an ack waits this long for a frame that carries it
RESUME_LIFETIME_S = 600.0  # how long a host dials, a relay keeps a detached stream, and a kernel waits for a relay

# After these the stream is gone for good; anything else is a lost socket.
FINAL_CLOSES = frozenset(int(code) for code in CloseCode)


@dataclass(frozen=True)
class LinkTimings:
    """The rhythm of one link, in seconds. Tests shorten it."""

    keepalive_s: float = KEEPALIVE_S
    dead_after_s: float = DEAD_AFTER_S
    idle_keepalive_s: float = IDLE_KEEPALIVE_S
    resume_lifetime_s: float = RESUME_LIFETIME_S


class WatchdogAction(Enum):
    """What :meth:`Watchdog.tick` asks for."""

    NOTHING = 0
    KEEPALIVE = 1  # send an ACK
    DEAD = 2  # abort the socket and dial again


class Watchdog:
    """Keepalive and watchdog of one attachment."""

    def __init__(self, times: LinkTimings, now: float) -> None:
        self._times = times
        self._armed_at: float | None = None
        self._last_heard_at = now
        self._keepalive_sent_at = now
        self._ticked_at = now
        self._last_keepalive_at: float | None = None  # when the slow keepalive asked, until an answer comes

    def received(self, now: float) -> None:
        """Note that bytes came."""
        self._last_heard_at = now
        if self._last_keepalive_at is not None and now > self._last_keepalive_at:
            self._last_keepalive_at = None

    def tick(self, now: float, *, in_flight: bool, keep_warm: bool = False) -> WatchdogAction:
        """Return what is due at ``now``.

        ``in_flight`` says whether anything is waited for; silence counts only from when it began. ``keep_warm`` asks
        for the slow keepalive while nothing is; that nothing answers it counts as well. Whoever ticks too late (a busy
        loop, a machine that slept) has not listened either: then silence counts from now.
        """
        late = now - self._ticked_at > self._times.keepalive_s
        self._ticked_at = now
        if in_flight and late and self._armed_at is not None:
            self._armed_at = now
            return self._ask(now)
        if not in_flight:
            self._armed_at = None
            if self._last_keepalive_at is not None:
                if late:
                    self._last_keepalive_at = now
                return (
                    WatchdogAction.DEAD
                    if now - self._last_keepalive_at >= self._times.dead_after_s
                    else WatchdogAction.NOTHING
                )
            if keep_warm and now - self._keepalive_sent_at >= self._times.idle_keepalive_s:
                self._last_keepalive_at = now
                return self._ask(now)
            return WatchdogAction.NOTHING
        self._last_keepalive_at = None
        if self._armed_at is None:  # no question yet: most cells end before one is due
            self._armed_at = self._keepalive_sent_at = now
            return WatchdogAction.NOTHING
        if now - max(self._armed_at, self._last_heard_at) >= self._times.dead_after_s:
            return WatchdogAction.DEAD
        return self._ask(now) if now - self._keepalive_sent_at >= self._times.keepalive_s else WatchdogAction.NOTHING

    def _ask(self, now: float) -> WatchdogAction:
        self._keepalive_sent_at = now
        return WatchdogAction.KEEPALIVE


class HostStream:
    """The host's end of one stream, over all its attachments."""

    def __init__(self, kernel: str, *, token_hex: Callable[[int], str], window_bytes: int = WINDOW_BYTES) -> None:
        self.stream = Stream(window_bytes=window_bytes)
        self.id, self._secret = token_hex(16), token_hex(32)
        self._kernel, self._window_bytes = kernel, window_bytes
        self._generation = 0
        self._known = False
        self.boot: str | None = None

    def next_hello(self) -> HostHello:
        """Return the hello of the next dial; each is used once."""
        self._generation += 1
        return HostHello(
            stream=self.id,
            resume=self._secret,
            kernel=self._kernel,
            window=self._window_bytes,
            generation=self._generation,
            received=self.stream.received,
            known=self._known,
        )

    def take_hello(self, message: bytes) -> RelayHello:
        """Take the relay's first message; the attachment then begins.

        Raises:
            RemoteProtocolError: If it is no HELLO of this version, or its offset cannot be resumed from.
        """
        frame = decode(message)
        if frame.type is not FrameType.HELLO:
            raise RemoteProtocolError("the relay's first frame is no HELLO")
        hello = parse_relay_hello(frame.payload)
        self.stream.attach(frame.ack)
        self._known, self.boot = True, hello.boot
        return hello


@dataclass
class RelayStream:
    """The relay's end of one stream."""

    id: str
    channel: str
    kernel: str
    stream: Stream
    secret: str = field(repr=False)
    generation: int = 1
    detached_at: float | None = None


@dataclass(frozen=True)
class Admitted:
    """The attachment may begin, with ``hello`` as the relay's first frame."""

    stream: RelayStream
    new: bool


@dataclass(frozen=True)
class Refused:
    """The WebSocket is to be closed."""

    code: CloseCode
    reason: str


class RelayStreams:
    """Every stream of one relay."""

    def __init__(
        self,
        *,
        window_bytes: int = WINDOW_BYTES,
        max_streams: int = MAX_STREAMS,
        lifetime_s: float = RESUME_LIFETIME_S,
        boot: str,
    ) -> None:
        self._window_bytes, self._max_streams, self._lifetime_s = window_bytes, max_streams, lifetime_s
        self.boot = boot  # names this run of the relay
        self._streams: dict[str, RelayStream] = {}

    def __iter__(self) -> Iterator[RelayStream]:
        """Iterate over the streams that live."""
        return iter(list(self._streams.values()))

    def admit(self, channel: str, hello: HostHello) -> Admitted | Refused:
        """Decide about an attachment. One that is admitted has the stream from now on, whatever had it before."""
        known = self._streams.get(hello.stream)
        if known is None:
            return self._admit_new(channel, hello)
        if not hmac.compare_digest(known.secret, hello.resume):
            return Refused(CloseCode.BAD_SECRET, "wrong resume secret")
        if (known.channel, known.kernel) != (channel, hello.kernel):
            return Refused(CloseCode.BAD_HELLO, "the stream belongs to another channel")
        if hello.generation <= known.generation:
            return Refused(CloseCode.STALE_GENERATION, f"generation {hello.generation} is not above {known.generation}")
        known.generation = hello.generation
        try:
            known.stream.attach(hello.received)
        except RemoteProtocolError as error:
            return Refused(CloseCode.BAD_HELLO, str(error))
        known.detached_at = None
        return Admitted(known, new=False)

    def hello_frame(self, stream: RelayStream) -> Frame:
        """Return the relay's first frame of an attachment."""
        payload = RelayHello(self.boot, self._window_bytes).to_payload()
        return Frame(FrameType.HELLO, 0, stream.stream.received, payload)

    def detached(self, stream: RelayStream, now: float) -> None:
        """Note that the stream's socket was lost; it waits for the next."""
        if stream.detached_at is None:
            stream.detached_at = now

    def remove(self, stream: RelayStream) -> None:
        """Forget a stream that ended. Again does nothing."""
        self._streams.pop(stream.id, None)

    def expired(self, now: float) -> list[RelayStream]:
        """Return the streams that waited too long; the caller ends and removes them."""
        return [s for s in self if s.detached_at is not None and now - s.detached_at >= self._lifetime_s]

    def _admit_new(self, channel: str, hello: HostHello) -> Admitted | Refused:
        if hello.known:
            return Refused(CloseCode.UNKNOWN_STREAM, "unknown stream: the relay was restarted or the stream expired")
        if hello.received:
            return Refused(CloseCode.BAD_HELLO, "a new stream of which bytes were received")
        if len(self._streams) >= self._max_streams:
            return Refused(CloseCode.TOO_MANY_STREAMS, f"this relay carries at most {self._max_streams} streams")
        stream = RelayStream(
            hello.stream,
            channel,
            hello.kernel,
            Stream(window_bytes=self._window_bytes, answers=True),
            hello.resume,
            hello.generation,
        )
        self._streams[hello.stream] = stream
        return Admitted(stream, new=True)
