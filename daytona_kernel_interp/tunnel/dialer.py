"""Dial a relay, and keep streams to it alive over lost WebSockets. Lives on the I/O loop.

Theory of operation
-------------------

A stream outlives the WebSockets that carry it. This module owns the loop that keeps it on one: dial, exchange hellos,
attach, wait for the loss, dial again. The offsets, acks and the decision what to resend are in ``wire.stream``; the
rule which attachment counts is in ``wire.keepalive``; bytes are moved by ``transport.carrier``.

States of a :class:`DialedStream`:

* *dialling*: no socket. Attempts follow each other with exponential backoff and jitter (``wire.backoff``), because an
  outage hits all streams of a host at once. The host's hello goes in the upgrade's headers and carries a generation,
  one higher for every attempt; the relay drops an attachment of a lower generation, so a late socket cannot take over.
* *waiting for the hello*: the socket is open, and the relay's hello has not arrived. A relay that accepts and then says
  nothing counts as a failed attempt after ``DIAL_S``.
* *attached*: the carrier moves bytes. The watchdog decides from the time of the last byte whether the socket is dead;
  it is then aborted, which leads back to *dialling*.
* *ended*: both local ends have finished, or :meth:`DialedStream.close` was called, or the stream cannot be resumed.

What can go wrong, and what follows:

* The relay closes the stream with a final code (unknown stream, superseded, protocol error): the stream is over.
  ``on_gone`` is called once; the owner decides whether a recovery from the journal can make up for it.
* The upgrade is refused (:data:`~.sandboxes.base.REFUSALS`). Behind a proxy a refusal can mean a wrong token, a stopped
  sandbox, a relay that is still starting, or trouble of the proxy's own backends. Before each further attempt the
  sandbox is asked to restart its relay, which also returns a new address or a new token; concurrent streams share one
  request. A refusal ends the link only if it persists while the service confirms the address that is refused, or if the
  address says that its status is final. Every other failure is an outage.
* The first dial of a stream fails for longer than ``open_within_s``: :class:`SandboxFailed`.
* A stream that was open cannot be dialled for ``resume_lifetime_s``: :class:`TunnelLost`.

Every socket belongs to one :class:`_Attempt`. Its callbacks do nothing once a later attempt has replaced it, so events
of an aborted socket never reach the stream.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from websockets.exceptions import InvalidHandshake

from ..config import DIAL_S
from ..errors import KernelError, SandboxFailed, SandboxGone, TunnelLost, WireMismatch
from ..sandboxes.base import REFUSALS, ServiceRefused
from ..transport.carrier import FINISHED, Carrier
from ..transport.websocket import PEER_AT_FAULT, InvalidStatus, Socket, connect_socket
from ..wire.backoff import delays
from ..wire.hello import HELLO_HEADER, PATH_PREFIX, SECRET_HEADER, WRONG_SECRET, CloseCode, HostHello, close_reason
from ..wire.keepalive import FINAL_CLOSES, HostStream, LinkTimings, Watchdog, WatchdogAction
from ..wire.protocol_errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..sandboxes.base import RelayAddress
    from ..transport.local_socket import LocalEnd
    from ..transport.websocket import SocketSink
    from .entropy import Entropy

log = logging.getLogger(__name__)

_REFUSED_TIMEOUT_S = 10.0  # of a refusal that counts: a preview refuses valid tokens for some seconds after a start
_NOT_FOUND_TIMEOUT_S = 18.0  # of a 404: Daytona's runner answers it while Docker is slow, for up to 14 s when measured
_LOG_S = 60.0  # between log lines of one outage


class StreamGone(Exception):
    """The relay does not know the stream or refuses it; ``code`` is the WebSocket close code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason or f"the relay closed the stream with code {code}")
        self.code = code


class Dialer:
    """The dialer of one relay; it follows the relay's address over restarts."""

    def __init__(
        self,
        address: RelayAddress,
        restart_relay: Callable[[], Awaitable[RelayAddress | None]],
        times: LinkTimings,
        entropy: Entropy,
    ) -> None:
        self.address, self.times, self.entropy = address, times, entropy
        self.reached = False  # whether a stream was ever attached
        self.confirmed = False  # whether the service was reached, and confirmed the address or refused the key
        self._outage_since: float | None = None
        self._logged_at = 0.0
        self._restart_relay = restart_relay
        self._restarting: asyncio.Task[None] | None = None
        self._gone: SandboxGone | None = None

    async def dial(self, channel: str, hello: HostHello, sink: SocketSink) -> Socket:
        """Open one WebSocket to the relay.

        Raises:
            OSError, asyncio.TimeoutError, InvalidHandshake: If the connection or the upgrade failed.
        """
        headers = {
            **self.address.headers,
            SECRET_HEADER: self.address.secret,
            HELLO_HEADER: hello.to_header(),
        }
        url = f"{self.address.url}{PATH_PREFIX}{channel}"
        return await connect_socket(url, headers, sink, timeout_s=DIAL_S, host=self.address.host)

    async def restart_relay(self) -> None:
        """Ask the sandbox to restart its relay if the relay has ended. Concurrent callers share one request.

        Raises:
            SandboxGone: If the sandbox does not exist any more or cannot run a relay.
        """
        if self._gone is not None:  # every stream has to fail with it, and the sandbox is checked once a second only
            raise SandboxGone(str(self._gone)) from self._gone
        if self._restarting is None:
            self._restarting = asyncio.create_task(self._restart_once())
            self._restarting.add_done_callback(lambda _: setattr(self, "_restarting", None))
        await asyncio.shield(self._restarting)

    async def _restart_once(self) -> None:
        try:
            address = await self._restart_relay()
        except SandboxGone as error:
            self._gone = error
            raise
        except KernelError as error:
            self.confirmed = isinstance(error, ServiceRefused)
            self._log_outage(error)
            return
        if address is None:
            return  # nothing is known, or the last check was a moment ago
        self.confirmed = address == self.address
        if not self.confirmed:
            log.warning("the relay was restarted or has a new address; dialling it again")
            self.address = address

    def _log_outage(self, error: KernelError) -> None:
        """Log the begin of an outage, and once a minute that it lasts."""
        now = asyncio.get_running_loop().time()
        if self._outage_since is None:
            self._outage_since = now
            log.warning("the relay cannot be reached, dialling on: %s", error)
        elif now - self._logged_at > _LOG_S:
            log.warning("the relay has not been reached for %.0f s, dialling on: %s", now - self._outage_since, error)
        else:
            return
        self._logged_at = now

    def attached(self) -> None:
        """Note that a stream is attached: the address is right, and an outage is over."""
        self.reached, self.confirmed = True, False
        if self._outage_since is not None:
            duration_s = asyncio.get_running_loop().time() - self._outage_since
            log.warning("the relay is reached again, after %.0f s", duration_s)
            self._outage_since = None


class _Attempt:
    """The callbacks of one attempt's socket; they do nothing once a later attempt has replaced it."""

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
    """The host's end of one stream: dialled at once, and again whenever its socket is lost."""

    def __init__(
        self,
        dialer: Dialer,
        channel: str,
        kernel: str,
        on_gone: Callable[[DialedStream, KernelError], None],
        *,
        open_within_s: float | None = None,
    ) -> None:
        """Create the stream and begin to dial; ``on_gone`` is called once if it ends before its two local ends do.

        ``open_within_s`` is how long the first dial is repeated (default: ``DIAL_S``, or as long as the address allows
        for refusals); afterwards a lost stream is dialled for ``resume_lifetime_s``.
        """
        self.channel = channel
        self.host_stream = False  # whether the local end is this process's own client
        self._dialer, self._on_gone = dialer, on_gone
        self._open_within_s = open_within_s
        self._loop = asyncio.get_running_loop()
        self._host = HostStream(kernel, token_hex=dialer.entropy.token_hex)
        self.carrier = Carrier(self._host.stream, self._ended)
        self._watchdog = Watchdog(dialer.times, self._loop.time())
        self._socket: Socket | None = None
        self._attempt: _Attempt | None = None  # the attempt whose socket counts
        self._lost = asyncio.Event()
        self._answered = asyncio.Event()  # the hello arrived, or the socket was lost before it
        self._end_error: StreamGone | None = None
        self._refused_since: float | None = None  # since when the dials have had a refusal that counts
        self._unreachable = False  # the last dial was refused
        self.attachments = 0
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self._task = asyncio.create_task(self._keep_connected())

    @property
    def id(self) -> str:
        """The stream's id at the relay."""
        return self._host.id

    @property
    def unacked(self) -> bool:
        """Whether bytes were sent that the peer has not acknowledged."""
        return self._host.stream.unacked

    @property
    def attached(self) -> bool:
        """Whether a socket carries the stream now."""
        return self.carrier.socket is not None

    @property
    def down(self) -> bool:
        """Whether the relay is known to be out of reach; a relay that accepts a connection and is silent is not."""
        return self._unreachable and not self.attached

    def connect(self, local: LocalEnd) -> None:
        """Connect the stream to its local end."""
        self.carrier.connect(local)

    def check_connection(self, now: float, *, in_flight: bool, keep_warm: bool = False) -> bool:
        """Run the watchdog: send a keepalive or abort a dead socket; return whether it was dead."""
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
                "stream %s: nothing received for %g s, dialling again", self.channel, self._dialer.times.dead_after_s
            )
            socket.abort()
        return beat is WatchdogAction.DEAD

    def close(self) -> None:
        """End the stream and drop what is queued. A second call does nothing."""
        self._task.cancel()
        if not self.opened.done():
            self.opened.cancel()
        socket, self._socket = self._socket, None
        self.carrier.end()
        if socket is not None:
            socket.abort()

    async def wait_closed(self) -> None:
        """Wait until the dialling task has ended."""
        await asyncio.gather(self._task, return_exceptions=True)

    # --- events of the current attempt's socket ---------------------------------------------------

    @property
    def attempt(self) -> _Attempt | None:
        """The current attempt."""
        return self._attempt

    def message(self, socket: Socket, data: bytes | None) -> None:
        """Process a message; the first of a socket is the relay's hello."""
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
        self._dialer.attached()
        self._unreachable = False
        self.attachments += 1
        self.carrier.attach(socket)
        self._answered.set()

    def writable(self, socket: Socket) -> None:
        """Continue sending."""
        if self.carrier.socket is socket:
            self.carrier.flush()

    def lost(self, socket: Socket, code: int, reason: str) -> None:
        """Note the loss; the dialling task dials again unless the close code was final."""
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
                self.carrier.end()  # the relay received the last ack, and its close was lost
            if self.carrier.ended:
                return
            wire = gone.code == CloseCode.BAD_HELLO and not self.opened.done()
            error = WireMismatch(str(gone)) if wire else TunnelLost(f"the relay closed a stream: {gone}")
            error.__cause__ = gone
        except KernelError as failed:
            error = failed
        except Exception as failed:
            log.exception("the dialler of a stream failed")
            error = TunnelLost(f"the dialler of a stream failed: {failed!r}")
        self._give_up(error)

    async def _dial_until_attached(self) -> None:
        """Dial until the relay's hello has arrived.

        Raises:
            StreamGone: If the relay refuses the stream.
            SandboxFailed: If the first dial did not succeed in time.
            TunnelLost: If an open stream could not be dialled for ``resume_lifetime_s``.
        """
        started, self._refused_since = self._loop.time(), None
        for delay_s in delays(self._dialer.entropy.jitter):
            self._lost.clear()
            self._answered.clear()
            try:
                self._attempt = _Attempt(self)
                self._socket = await self._dialer.dial(self.channel, self._host.next_hello(), self._attempt)
                await self._wait_hello(self._socket)
            except (OSError, InvalidHandshake, asyncio.TimeoutError) as error:
                self._attempt = None  # a late socket's events are ignored
                self._unreachable = not isinstance(error, asyncio.TimeoutError)
                await self._handle_dial_error(error, self._loop.time() - started)
            else:
                if self._end_error is not None:
                    raise self._end_error
                return
            await asyncio.sleep(delay_s)

    async def _wait_hello(self, socket: Socket) -> None:
        """Wait until the hello has arrived and the socket is attached.

        Raises:
            ConnectionError, asyncio.TimeoutError: If the socket was lost before, or nothing arrived.
        """
        answered = asyncio.ensure_future(self._answered.wait())
        try:  # wait_for() can lose a cancellation that arrives together with the result (Python < 3.12)
            await asyncio.wait({answered}, timeout=DIAL_S)
        finally:
            answered.cancel()
        if not self._answered.is_set():
            socket.abort()
            raise asyncio.TimeoutError("it accepted the connection and sent no hello")
        if not self.attached and self._end_error is None:
            raise ConnectionError("it closed the connection before its hello")

    async def _handle_dial_error(self, error: Exception, elapsed_s: float) -> None:
        """Raise if the dial has failed for too long; otherwise have the relay restarted if needed."""
        what = f"the relay at {self._dialer.address.url} cannot be reached: {error or type(error).__name__}"
        first = not self.opened.done()
        status = error.response.status_code if isinstance(error, InvalidStatus) else None
        patience_s = self._dialer.address.refused_timeout_s
        own = isinstance(error, InvalidStatus) and error.response.body == WRONG_SECRET.encode()
        if status in REFUSALS and not self._dialer.reached and (own or elapsed_s >= patience_s):
            raise SandboxFailed(what) from error
        open_within_s = DIAL_S if self._open_within_s is None else self._open_within_s
        if first and elapsed_s > max(open_within_s, patience_s):
            raise SandboxFailed(what) from error
        if elapsed_s > self._dialer.times.resume_lifetime_s:
            raise TunnelLost(f"{what}, for {elapsed_s:.0f} s") from error
        # After any kind of failure: behind a proxy, a relay that is gone shows as a refusal.
        await self._dialer.restart_relay()
        if status not in REFUSALS or not (status in self._dialer.address.final_refusals or self._dialer.confirmed):
            self._refused_since = None
        elif self._refused_since is None:
            self._refused_since = self._loop.time()
        elif self._loop.time() - self._refused_since >= (_NOT_FOUND_TIMEOUT_S if status == 404 else _REFUSED_TIMEOUT_S):
            raise TunnelLost(what) from error

    def _give_up(self, error: KernelError) -> None:
        if not self.opened.done():
            self.opened.set_exception(error)
            self.opened.exception()  # marks the exception as retrieved; there may be no waiter
        if not self.carrier.ended:
            self.carrier.end(CloseCode.SUPERSEDED)
            self._on_gone(self, error)

    def _ended(self) -> None:
        self._lost.set()
        self._task.cancel()
