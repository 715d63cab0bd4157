"""Reaching a relay, and keeping streams to it alive over lost sockets. Lives on the I/O loop."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from websockets.exceptions import InvalidHandshake

from ..config import DIAL_S
from ..errors import KernelError, SandboxFailed, SandboxGone, TunnelLost, WireMismatch
from ..transport.carrier import FINISHED, Carrier
from ..transport.websocket import PEER_AT_FAULT, InvalidStatus, Socket, connect_socket
from ..wire.backoff import delays
from ..wire.hello import HELLO_HEADER, PATH_PREFIX, SECRET_HEADER, CloseCode, HostHello, close_reason
from ..wire.keepalive import FINAL_CLOSES, HostStream, LinkTimings, Watchdog, WatchdogAction
from ..wire.protocol_errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..sandboxes.base import RelayAddress
    from ..transport.local_socket import LocalEnd
    from ..transport.websocket import SocketSink
    from .entropy import Entropy

log = logging.getLogger(__name__)

# Refusals of the upgrade that do not pass by themselves; previews refuse good tokens for some seconds after a start.
_REFUSED_STATUSES = frozenset({307, 401, 403, 404})
_REFUSED_TIMEOUT_S = 10.0


class StreamGone(Exception):
    """The relay does not have the stream any more, or does not take it; ``code`` is its close code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason or f"the relay closed the stream with code {code}")
        self.code = code


class Dialer:
    """Knows where one relay is, also after it was restarted."""

    def __init__(
        self,
        address: RelayAddress,
        restart_relay: Callable[[], Awaitable[RelayAddress | None]],
        times: LinkTimings,
        entropy: Entropy,
    ) -> None:
        self.address, self.times, self.entropy = address, times, entropy
        self._restart_relay = restart_relay
        self._restarting: asyncio.Task[None] | None = None

    async def dial(self, channel: str, hello: HostHello, sink: SocketSink) -> Socket:
        """Open one WebSocket to the relay.

        Raises:
            OSError, asyncio.TimeoutError, InvalidHandshake: If that did not work.
        """
        headers = {
            **self.address.headers,
            SECRET_HEADER: self.address.secret,
            HELLO_HEADER: hello.to_header(),
        }
        url = f"{self.address.url}{PATH_PREFIX}{channel}"
        return await connect_socket(url, headers, sink, timeout_s=DIAL_S, host=self.address.host)

    async def restart_relay(self) -> None:
        """Have the sandbox start its relay again if that has ended. Streams that ask at the same time share one try.

        Raises:
            SandboxGone: If there is nothing left to dial.
        """
        if self._restarting is None:
            self._restarting = asyncio.create_task(self._restart_once())
            self._restarting.add_done_callback(lambda _: setattr(self, "_restarting", None))
        await asyncio.shield(self._restarting)

    async def _restart_once(self) -> None:
        try:
            address = await self._restart_relay()
        except SandboxGone:
            raise
        except KernelError as error:
            log.warning("the relay could not be restarted: %s", error)
            return
        if address is not None:
            log.warning("the relay is dialled at a new address, or anew")
            self.address = address


class _Attempt:
    """What one dial's socket brings, for as long as no other took its place."""

    def __init__(self, stream: DialedStream) -> None:
        self._stream = stream

    def message(self, socket: Socket, data: bytes | None) -> None:
        if self._stream.attempt is self:
            self._stream.message(socket, data)

    def writable(self, socket: Socket) -> None:
        if self._stream.attempt is self:
            self._stream.writable(socket)

    def lost(self, socket: Socket, code: int, reason: str) -> None:
        if self._stream.attempt is self:
            self._stream.lost(socket, code, reason)


class DialedStream:
    """One stream from the host: dialled at once, and again whenever its socket is lost."""

    def __init__(
        self,
        dialer: Dialer,
        channel: str,
        kernel: str,
        on_gone: Callable[[DialedStream, KernelError], None],
        *,
        open_within_s: float | None = None,
    ) -> None:
        """Make a stream; ``on_gone`` is called once if it ends for another reason than its two local ends.

        ``open_within_s`` is how long the first dial is repeated (default: ``DIAL_S``, or as long as the address allows
        for refusals); afterwards a lost stream is dialled for ``resume_lifetime_s``.
        """
        self.channel = channel
        self.host_stream = False  # whether this process's own client is behind it
        self._dialer, self._on_gone = dialer, on_gone
        self._open_within_s = open_within_s
        self._loop = asyncio.get_running_loop()
        self._host = HostStream(kernel, token_hex=dialer.entropy.token_hex)
        self.carrier = Carrier(self._host.stream, self._ended)
        self._watchdog = Watchdog(dialer.times, self._loop.time())
        self._socket: Socket | None = None
        self._attempt: _Attempt | None = None  # whose socket it is that counts
        self._lost = asyncio.Event()
        self._answered = asyncio.Event()  # the hello came, or the socket was lost before it
        self._end_error: StreamGone | None = None
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self._task = asyncio.create_task(self._keep_connected())

    @property
    def id(self) -> str:
        """The stream's id, by which the relay knows it."""
        return self._host.id

    @property
    def unacked(self) -> bool:
        """Whether the far end owes an ack."""
        return self._host.stream.unacked

    @property
    def attached(self) -> bool:
        """Whether a socket carries it now."""
        return self.carrier.socket is not None

    def connect(self, local: LocalEnd) -> None:
        """Give it its local end."""
        self.carrier.connect(local)

    def check_connection(self, now: float, *, in_flight: bool, keep_warm: bool = False) -> bool:
        """Ask for, or judge, the life of its socket; return whether it was found dead."""
        socket = self.carrier.socket
        if socket is None:
            return False
        self._watchdog.received(socket.heard_at)
        beat = self._watchdog.tick(now, in_flight=in_flight or self._host.stream.unacked, keep_warm=keep_warm)
        if beat is WatchdogAction.KEEPALIVE:
            self._host.stream.want_ack()
            self.carrier.flush()
        elif beat is WatchdogAction.DEAD:
            log.info(
                "stream %s: no sign of life for %g s, dialling again", self.channel, self._dialer.times.dead_after_s
            )
            socket.abort()
        return beat is WatchdogAction.DEAD

    def close(self) -> None:
        """End the stream; nothing that it still holds is sent. Again does nothing."""
        self._task.cancel()
        if not self.opened.done():
            self.opened.cancel()
        socket, self._socket = self._socket, None
        self.carrier.end()
        if socket is not None:
            socket.abort()

    async def wait_closed(self) -> None:
        """Return when nothing of it runs any more."""
        await asyncio.gather(self._task, return_exceptions=True)

    # --- what the current attempt's socket brings ---------------------------------------------------

    @property
    def attempt(self) -> _Attempt | None:
        """The attempt that counts."""
        return self._attempt

    def message(self, socket: Socket, data: bytes | None) -> None:
        """Take a message of the socket; the first is the relay's hello."""
        if self.carrier.socket is socket:
            self.carrier.message(data)
            return
        if self.carrier.socket is not None or self.carrier.ended:
            return
        try:
            self._host.take_hello(data if data is not None else b"")
        except RemoteProtocolError as error:
            self._end_error = StreamGone(CloseCode.BAD_HELLO, str(error))
            socket.begin_close(CloseCode.BAD_HELLO, close_reason(error))
            return
        self._watchdog = Watchdog(self._dialer.times, self._loop.time())
        if not self.opened.done():
            self.opened.set_result(None)
        self.carrier.attach(socket)
        self._answered.set()

    def writable(self, socket: Socket) -> None:
        """Send on."""
        if self.carrier.socket is socket:
            self.carrier.flush()

    def lost(self, socket: Socket, code: int, reason: str) -> None:
        """Dial again, unless the relay said that there is no point."""
        if self.carrier.socket is socket:
            self.carrier.detach()
        if (code in FINAL_CLOSES or code in PEER_AT_FAULT or code == FINISHED) and self._end_error is None:
            self._end_error = StreamGone(code, reason)
        self._lost.set()
        self._answered.set()

    # --- dialling --------------------------------------------------------------------------------------

    async def _keep_connected(self) -> None:
        error: KernelError
        try:
            while True:
                await self._dial_until_attached()
                await self._lost.wait()
                if self._end_error is not None:
                    raise self._end_error
        except StreamGone as gone:
            if self._host.stream.both_finished and gone.code in (FINISHED, CloseCode.UNKNOWN_STREAM):
                self.carrier.end()  # the relay had the last ack, and its close was lost
            if self.carrier.ended:
                return
            wire = gone.code == CloseCode.BAD_HELLO and not self.opened.done()
            error = WireMismatch(str(gone)) if wire else TunnelLost(f"the relay closed a stream: {gone}")
            error.__cause__ = gone
        except KernelError as failed:
            error = failed
        self._give_up(error)

    async def _dial_until_attached(self) -> None:
        """Dial until the relay said hello.

        Raises:
            StreamGone: If the relay refuses the stream.
            SandboxFailed, TunnelLost: If it cannot be reached for as long as streams live; the first time, at once.
        """
        started = self._loop.time()
        for delay_s in delays(self._dialer.entropy.jitter):
            self._lost.clear()
            self._answered.clear()
            try:
                self._attempt = _Attempt(self)
                self._socket = await self._dialer.dial(self.channel, self._host.next_hello(), self._attempt)
                await self._wait_hello(self._socket)
            except (OSError, InvalidHandshake, asyncio.TimeoutError) as error:
                self._attempt = None  # a socket that is late says nothing any more
                await self._handle_dial_error(error, self._loop.time() - started)
            else:
                if self._end_error is not None:
                    raise self._end_error
                return
            await asyncio.sleep(delay_s)

    async def _wait_hello(self, socket: Socket) -> None:
        """Wait until the socket carries the stream.

        Raises:
            ConnectionError, asyncio.TimeoutError: If it was lost before, or nothing came.
        """
        answered = asyncio.ensure_future(self._answered.wait())
        try:  # wait_for() would lose a cancellation that comes with the answer (Python < 3.12)
            await asyncio.wait({answered}, timeout=DIAL_S)
        finally:
            answered.cancel()
        if not self._answered.is_set():
            socket.abort()
            raise asyncio.TimeoutError("it accepted and then said nothing")
        if not self.attached and self._end_error is None:
            raise ConnectionError("it closed the connection before its hello")

    async def _handle_dial_error(self, error: Exception, elapsed_s: float) -> None:
        """Decide whether to go on after a failed dial."""
        what = f"the relay at {self._dialer.address.url} cannot be reached: {error or type(error).__name__}"
        first = not self.opened.done()
        refused = isinstance(error, InvalidStatus) and error.response.status_code in _REFUSED_STATUSES
        patience_s = self._dialer.address.refused_timeout_s
        if refused and elapsed_s >= (patience_s if first else _REFUSED_TIMEOUT_S):
            failed = SandboxFailed if first else TunnelLost
            raise failed(what) from error
        open_within_s = DIAL_S if self._open_within_s is None else self._open_within_s
        if first and elapsed_s > max(open_within_s, patience_s):
            raise SandboxFailed(what) from error
        if elapsed_s > self._dialer.times.resume_lifetime_s:
            raise TunnelLost(f"{what}, for {elapsed_s:.0f} s") from error
        # Whatever it was: behind a proxy, refusals are how a relay that is gone shows.
        await self._dialer.restart_relay()

    def _give_up(self, error: KernelError) -> None:
        if not self.opened.done():
            self.opened.set_exception(error)
            self.opened.exception()  # nobody may wait for it
        if not self.carrier.ended:
            self.carrier.end(CloseCode.SUPERSEDED)
            self._on_gone(self, error)

    def _ended(self) -> None:
        self._lost.set()
        self._task.cancel()
