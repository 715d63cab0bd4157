"""Attachments of streams: which one counts, when one is dead, and which are refused.

Sans-I/O: callers pass the time in seconds of a monotonic clock and own the sockets.

* :class:`HostStream`: the host's end of one stream, across its dials.
* :class:`RelayStreams`: all streams of a relay; admits, resumes, refuses and expires them.
* :class:`Watchdog`: the timing of the host's keepalive, and the decision that a socket is dead.

Only the host sends keepalives. While something is in flight it sends one per second, an ACK that does not advance, and
the relay replies. A socket on which no byte arrived for four seconds is dead. Bytes count, not messages: a large frame
on a slow link is not silence. A reader that stops reading stops only the acks, so it does not make the link dead.
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
IDLE_KEEPALIVE_S = 15.0  # for one stream of an idle session, so that load balancers keep it and the relay sees its host
ACK_DELAY_S = 0.05  # an ack waits this long for a frame that carries it
RESUME_LIFETIME_S = 600.0  # how long a host dials, a relay keeps a detached stream, and a kernel waits for a relay

# After these codes the stream is over; after any other the socket is merely lost.
FINAL_CLOSES = frozenset(int(code) for code in CloseCode)


@dataclass(frozen=True)
class LinkTimings:
    """The timings of one link, in seconds. Tests use shorter ones."""

    keepalive_s: float = KEEPALIVE_S
    dead_after_s: float = DEAD_AFTER_S
    idle_keepalive_s: float = IDLE_KEEPALIVE_S
    resume_lifetime_s: float = RESUME_LIFETIME_S


class WatchdogAction(Enum):
    """The action that :meth:`Watchdog.tick` asks for."""

    NOTHING = 0
    KEEPALIVE = 1  # send an ACK
    DEAD = 2  # abort the socket and dial again


class Watchdog:
    """The keepalive and watchdog of one attachment."""

    def __init__(self, times: LinkTimings, now: float) -> None:
        self._times = times
        self._armed_at: float | None = None
        self._last_heard_at = now
        self._keepalive_sent_at = now
        self._ticked_at = now
        self._last_keepalive_at: float | None = None  # when the idle keepalive was sent; None once bytes arrived

    def received(self, now: float) -> None:
        """Note that bytes arrived at ``now``."""
        self._last_heard_at = now
        if self._last_keepalive_at is not None and now > self._last_keepalive_at:
            self._last_keepalive_at = None

    def tick(self, now: float, *, in_flight: bool, keep_warm: bool = False) -> WatchdogAction:
        """Return the action that is due at ``now``.

        Silence counts only while something is ``in_flight``, or after an idle keepalive, which ``keep_warm`` requests
        while nothing is. A late tick (a busy loop, a suspended machine) means that nothing could be read either, so
        silence then counts from ``now``.
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
        if self._armed_at is None:  # no keepalive yet: most cells end before one is due
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
        """Return the hello for the next dial; each is used once."""
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
        """Process the relay's first message; the attachment begins with it.

        Raises:
            RemoteProtocolError: If it is not a HELLO of this version, or its offset cannot be resumed from.
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
    """The attachment is accepted; ``hello`` is the relay's first frame."""

    stream: RelayStream
    new: bool


@dataclass(frozen=True)
class Refused:
    """The attachment is refused; the WebSocket is to be closed with ``code``."""

    code: CloseCode
    reason: str


class RelayStreams:
    """All streams of one relay."""

    def __init__(
        self,
        *,
        window_bytes: int = WINDOW_BYTES,
        max_streams: int = MAX_STREAMS,
        lifetime_s: float = RESUME_LIFETIME_S,
        boot: str,
    ) -> None:
        self._window_bytes, self._max_streams, self._lifetime_s = window_bytes, max_streams, lifetime_s
        self.boot = boot  # identifies this run of the relay
        self._streams: dict[str, RelayStream] = {}

    def __iter__(self) -> Iterator[RelayStream]:
        """Iterate over the existing streams."""
        return iter(list(self._streams.values()))

    def admit(self, channel: str, hello: HostHello) -> Admitted | Refused:
        """Accept or refuse an attachment. An accepted one replaces the stream's earlier attachment."""
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
        """Remove a stream that has ended. A second call does nothing."""
        self._streams.pop(stream.id, None)

    def expired(self, now: float) -> list[RelayStream]:
        """Return the streams that were detached for too long; the caller ends and removes them."""
        return [s for s in self if s.detached_at is not None and now - s.detached_at >= self._lifetime_s]

    def _admit_new(self, channel: str, hello: HostHello) -> Admitted | Refused:
        if hello.known:
            return Refused(CloseCode.UNKNOWN_STREAM, "unknown stream: the relay was restarted or the stream expired")
        if hello.received:
            return Refused(CloseCode.BAD_HELLO, "a new stream cannot have received bytes")
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
