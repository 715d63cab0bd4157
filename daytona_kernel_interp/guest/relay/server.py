"""The relay server: one WebSocket port in front of the sandbox's kernels.

A kernel has five local ports that speak ZMTP. Its host is outside the sandbox and reaches one port only, through an
HTTP proxy that may cut or delay connections at any time. The relay makes the kernel's channels reachable
through that port, so that neither the kernel nor jupyter_client notices a cut.

Each WebSocket carries one *stream* of the link: the bytes of one connection to one channel of one kernel, a kernel's
journal, or the relay's own service. The path of the upgrade names the channel; its hello header names kernel and
stream, and for a stream that continues, the offset up to which the host has received it. ``wire`` defines both.

States of a stream, by its events:

========== ======================== ==========================================================
state      event                    effect
========== ======================== ==========================================================
(none)     hello of a new stream    make an :class:`Attachment` and the local end: *attached*
attached   its WebSocket is lost    keep unacknowledged bytes and the local end: *detached*
attached   hello of the same stream replace the WebSocket and close the former one: *attached*
detached   hello of the same stream send again from the host's offset: *attached*
attached   the host closes it       end the local end: *ended*
detached   ``lifetime_s`` passes    end the local end: *ended*
========== ======================== ==========================================================

Local ends are a socket to a kernel's port (:class:`KernelEnd`), a reader of the journal (:class:`JournalEnd`), and
:class:`RelayService`, which performs the host's requests (start a kernel, signal it, list kernels) and reports exits.

Rules that hold for every order of events:

- The secret is compared before anything else in a request is read, in constant time. A request without it learns
  nothing about kernels or paths.
- One host at a time: a new stream to the relay's service makes its opener the host. Streams of the former host end with
  ``SUPERSEDED``: it was replaced, and must not dial again.
- A kernel is connected to only when the client has sent its first bytes. A kernel closes a connection whose handshake
  takes longer than 30 s, and a stream may wait longer for its client.
- The relay never reads what channels carry, and forwards no more than the peer's window, so a slow host cannot fill the
  sandbox's memory. The journal is read piece by piece as the window opens.
- Without any message of a host for ``lifetime_s`` the relay ends, and its kernels with it. A sandbox may be paused:
  time in which the event loop did not run is not counted.

The server depends on :mod:`.kernel_interface` only, so it runs with simulated kernels as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hmac
import http
import logging
import re
import secrets
import signal
from typing import TYPE_CHECKING, Any

from ...transport.carrier import Carrier
from ...transport.local_socket import FunctionEnd, LocalEnd, SocketEnd
from ...transport.websocket import Socket, serve_sockets
from ...wire.comm import LineReader, to_line
from ...wire.frames import encode
from ...wire.hello import (
    CHANNELS,
    HELLO_HEADER,
    JOURNAL_CHANNEL,
    NO_SUCH_CHANNEL,
    RELAY_CHANNEL,
    SECRET_HEADER,
    WRONG_SECRET,
    CloseCode,
    close_reason,
    parse_host_hello,
)
from ...wire.journal import JournalRecord, RecordKind, encode_record
from ...wire.keepalive import RESUME_LIFETIME_S, Refused, RelayStream, RelayStreams
from ...wire.protocol_errors import RemoteProtocolError
from ...wire.zmtp import ConnectingEnd
from .kernel_interface import KernelStartFailed, NoSuchKernel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from websockets.asyncio.server import Server, ServerConnection
    from websockets.http11 import Request, Response

    from .kernel_interface import KernelControl

log = logging.getLogger(__name__)

_SIGNALS = {"interrupt": signal.SIGINT, "terminate": signal.SIGTERM, "kill": signal.SIGKILL}
_PATH = re.compile(rf"/v\d+/({'|'.join(CHANNELS)})")  # any version: the answer to the hello says which versions fit
_CHECKS_PER_LIFETIME = 20
_END_S = 0.05  # after the reply to `end`, which leaves first
_REFUSALS = (KernelStartFailed, NoSuchKernel, RemoteProtocolError, OSError, KeyError, TypeError, ValueError)


class Relay:
    """The server of one sandbox: admits WebSockets and keeps the streams that they carry."""

    def __init__(self, secret: str, kernels: KernelControl, lifetime_s: float = RESUME_LIFETIME_S) -> None:
        self._secret = secret
        self._kernels, self._lifetime_s = kernels, lifetime_s
        self._streams = RelayStreams(boot=secrets.token_hex(8), lifetime_s=lifetime_s)
        self._attachments: dict[str, Attachment] = {}
        self._control_streams: dict[str, RelayService] = {}  # by the stream's id
        self._loop = asyncio.get_running_loop()
        self._host_seen_at = self._loop.time()
        self._host_seen = False
        self.end = asyncio.Event()  # set by a host's request
        kernels.on_exit = self._send_event

    async def listen(self, port: int, host: str = "127.0.0.1") -> Server:
        """Listen on ``host``; the returned server has the port that was bound."""
        return await serve_sockets(port, self._serve, self._check, host)

    async def wait_end(self) -> None:
        """Return when a host ends the relay, or when no host has sent anything for the lifetime."""
        interval_s, checked_at = self._lifetime_s / _CHECKS_PER_LIFETIME, self._loop.time()
        while not self.end.is_set():
            # A check that comes much too late means that the sandbox was paused, not that the host was silent.
            late_s, checked_at = self._loop.time() - checked_at - interval_s, self._loop.time()
            if late_s > interval_s:
                self._skip_pause(late_s)
            if self._loop.time() - self._host_seen_at > self._lifetime_s:
                log.warning("no host for %g s", self._lifetime_s)
                return
            for stream in self._streams.expired(self._loop.time()):
                self._attachments[stream.id].carrier.end(CloseCode.UNKNOWN_STREAM)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.end.wait(), interval_s)

    def _skip_pause(self, seconds: float) -> None:
        """Exclude time in which the sandbox was paused: no message could arrive."""
        self._host_seen_at += seconds
        for stream in self._streams:
            if stream.detached_at is not None:
                stream.detached_at += seconds

    def host_seen(self) -> None:
        """Record that the host has sent something."""
        self._host_seen_at = self._loop.time()

    def _send_event(self, event: dict[str, object]) -> None:
        for service in self._control_streams.values():
            service.send(event)

    def _check(self, connection: ServerConnection, request: Request) -> Response | None:
        # The secret first: a request without it must not learn which paths exist.
        given = request.headers.get(SECRET_HEADER, "")
        if not hmac.compare_digest(given.encode("utf-8", "replace"), self._secret.encode()):
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, WRONG_SECRET)
        if _PATH.fullmatch(request.path) is None:
            return connection.respond(http.HTTPStatus.NOT_FOUND, NO_SUCH_CHANNEL)
        return None

    async def _serve(self, connection: Any) -> None:
        try:
            hello = parse_host_hello(connection.request.headers.get(HELLO_HEADER))
        except RemoteProtocolError as error:
            await connection.close(CloseCode.BAD_HELLO, close_reason(error))
            return
        channel = connection.request.path.rpartition("/")[2]
        admitted = self._streams.admit(channel, hello)
        if isinstance(admitted, Refused):
            await connection.close(admitted.code, close_reason(admitted.reason))
            return
        self.host_seen()
        if admitted.new:
            self._begin(admitted.stream)
        attachment = self._attachments[admitted.stream.id]
        attachment.take_over(connection, encode(self._streams.hello_frame(admitted.stream)))
        await connection.wait_closed()

    def _begin(self, stream: RelayStream) -> None:
        """Create the local end of a new stream."""
        if stream.channel == RELAY_CHANNEL:
            # The opener of a new service stream is the host from now on. The first host's other streams may have been
            # opened before its service stream, so the first one ends nothing.
            others = [a for a in self._attachments.values() if a.stream is not stream]
            for other in others if self._host_seen else ():
                other.carrier.end(CloseCode.SUPERSEDED, "another host took over")
            self._host_seen = True
        attachment = self._attachments[stream.id] = Attachment(self, stream)
        attachment.carrier.connect(self._local_end(stream, attachment))

    def _local_end(self, stream: RelayStream, attachment: Attachment) -> LocalEnd:
        if stream.channel == RELAY_CHANNEL:
            service = RelayService(self, self._kernels, attachment)
            self._control_streams[stream.id] = service
            attachment.on_end = lambda: self._control_streams.pop(stream.id, None)
            return service.local
        if stream.channel == JOURNAL_CHANNEL:
            return JournalEnd(self._kernels, stream.kernel, attachment)
        return KernelEnd(self._kernels, stream.kernel, stream.channel)

    def forget(self, ids: set[str]) -> None:
        """End streams to which the host will not return, and drop their unacknowledged bytes."""
        for attachment in list(self._attachments.values()):
            if attachment.stream.id in ids:
                attachment.carrier.end(CloseCode.SUPERSEDED)

    def lost(self, stream: RelayStream) -> None:
        """Mark a stream as detached: its WebSocket is lost."""
        self._streams.detached(stream, self._loop.time())

    def ended(self, stream: RelayStream) -> None:
        """Remove a stream that has ended."""
        self._streams.remove(stream)
        self._attachments.pop(stream.id, None)


class Attachment:
    """A stream and the WebSocket that carries it at present, if any."""

    def __init__(self, relay: Relay, stream: RelayStream) -> None:
        self._relay, self.stream = relay, stream
        self.carrier = Carrier(stream.stream, self._ended)
        self.on_end: Callable[[], object] = lambda: None

    def take_over(self, socket: Any, hello: bytes) -> None:
        """Carry the stream on ``socket``, which was admitted, and close the former one."""
        # Detach first: the former WebSocket must not report its end as the loss of the stream.
        old = self.carrier.socket
        self.carrier.detach()
        if old is not None:
            old.begin_close(CloseCode.SUPERSEDED, "a later attachment took over")
        socket.sink = self
        socket.post(hello)
        self.carrier.attach(socket)

    def message(self, socket: Socket, data: bytes | None) -> None:
        """Receive a message; ignore one from a WebSocket that was replaced."""
        if self.carrier.socket is socket:
            self._relay.host_seen()
            self.carrier.message(data)

    def writable(self, socket: Socket) -> None:
        """Continue to send."""
        if self.carrier.socket is socket:
            self.carrier.flush()

    def lost(self, socket: Socket, code: int, reason: str) -> None:
        """Wait for the next WebSocket, unless the host closed the stream for good."""
        if self.carrier.socket is not socket:
            return
        self.carrier.detach()
        if code in (CloseCode.SUPERSEDED, 1000):
            self.carrier.end()
        else:
            self._relay.lost(self.stream)

    def _ended(self) -> None:
        self.on_end()
        self._relay.ended(self.stream)


class KernelEnd(SocketEnd):
    """A connection to one channel of a kernel, opened at the client's first bytes.

    A kernel closes a connection whose ZMTP handshake takes longer than 30 s, and a stream may wait longer for its
    client.
    """

    def __init__(self, kernels: KernelControl, kernel_id: str, channel: str) -> None:
        super().__init__(ConnectingEnd())
        self._kernels, self._kernel_id, self._channel = kernels, kernel_id, channel
        self._connecting: asyncio.Task[None] | None = None

    def write(self, data: bytes) -> None:
        """Write ``data``; the first call opens the connection."""
        super().write(data)
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())

    def write_eof(self) -> None:
        """Half-close the connection. If nothing was written, none was opened: report EOF to the peer at once."""
        super().write_eof()
        if self._connecting is None and self._feed is not None:
            asyncio.get_running_loop().call_soon(self._feed.feed_eof)

    def abort(self) -> None:
        """Close the connection, or cancel its opening."""
        super().abort()
        if self._connecting is not None:
            self._connecting.cancel()

    async def _connect(self) -> None:
        try:
            port = await self._kernels.port(self._kernel_id, self._channel)
            await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", port)
        except (NoSuchKernel, OSError) as error:
            if self._feed is not None:
                self._feed.local_failed(error)


class JournalEnd(FunctionEnd):
    """The local end of a journal stream: sends a kernel's journal from the position that the host requests."""

    def __init__(self, kernels: KernelControl, kernel_id: str, attachment: Attachment) -> None:
        super().__init__(self._take)
        self._kernels, self._kernel_id, self._attachment = kernels, kernel_id, attachment
        self._lines = LineReader()
        self._open_window = asyncio.Event()
        self._open_window.set()
        self._sending: asyncio.Task[None] | None = None

    def pause(self) -> None:
        """Stop sending until :meth:`resume`: the peer's window is full."""
        self._open_window.clear()

    def resume(self) -> None:
        """Continue to send."""
        self._open_window.set()

    def abort(self) -> None:
        """Stop reading the journal."""
        super().abort()
        if self._sending is not None:
            self._sending.cancel()

    close = abort

    def _take(self, data: bytes) -> None:
        try:
            for request in self._lines.feed(data):
                if self._sending is None:
                    self._sending = asyncio.create_task(self._send(request))
        except RemoteProtocolError as error:
            self._attachment.carrier.end(CloseCode.BAD_HELLO, close_reason(error))

    async def _send(self, request: dict[str, object]) -> None:
        try:
            journal = self._kernels.journal(self._kernel_id)
        except ValueError as error:
            self._attachment.carrier.end(CloseCode.BAD_HELLO, close_reason(error))
            return
        after, cell = (
            value if isinstance(value, str) else None for value in (request.get("after"), request.get("cell"))
        )
        for piece in journal.read(after, cell):
            await self._open_window.wait()
            self.send(piece)
            await asyncio.sleep(0)  # let other streams proceed
        # A live kernel will publish its pending text itself; a dead one has left it in its file.
        if not self._kernels.list_kernels().get(self._kernel_id, {}).get("alive"):
            for record in journal.pending():
                self.send(encode_record(record))
        self.send(encode_record(JournalRecord(RecordKind.LAST)))


class RelayService:
    """The local end of the relay's own stream: performs the host's requests and sends exit events."""

    def __init__(self, relay: Relay, kernels: KernelControl, attachment: Attachment) -> None:
        self._relay, self._kernels, self._attachment = relay, kernels, attachment
        self._lines = LineReader()
        self.local = FunctionEnd(self._take, self._hung_up)
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._inspect_tasks: dict[int, asyncio.Task[None]] = {}  # by the request's id

    def send(self, message: dict[str, object]) -> None:
        """Send an event or a reply."""
        self.local.send(to_line(message))

    def _take(self, data: bytes) -> None:
        try:
            for request in self._lines.feed(data):
                # Each in a task: an interrupt must not wait until a kernel has started.
                task = asyncio.create_task(self._answer(request))
                self._tasks[task] = None
                task.add_done_callback(lambda task: self._tasks.pop(task, None))
                if request.get("op") == "look" and type(number := request.get("id")) is int:
                    self._inspect_tasks[number] = task
                    task.add_done_callback(functools.partial(self._inspect_done, number))
        except RemoteProtocolError as error:
            self._attachment.carrier.end(CloseCode.BAD_HELLO, close_reason(error))

    def _inspect_done(self, number: int, task: asyncio.Task[None]) -> None:
        self._inspect_tasks.pop(number, None)

    def _hung_up(self) -> None:
        self.local.send_eof()

    async def _answer(self, request: dict[str, object]) -> None:
        args = request.get("args")
        reply: dict[str, object] = {"id": request.get("id")}
        try:
            reply["ok"] = await self._perform(request.get("op"), args if isinstance(args, dict) else {})
        except _REFUSALS as error:
            reply["error"] = f"{type(error).__name__}: {error}"
        self.send(reply)

    async def _perform(self, operation: object, args: Mapping[str, object]) -> Mapping[str, object]:
        match operation:
            case "start_kernel":
                kernel_id, key = str(args["kernel"]), str(args["key"])
                return {"pid": await self._kernels.start(kernel_id, key, personal=args.get("personal") is True)}
            case "signal":
                self._kernels.signal(str(args["kernel"]), _SIGNALS[str(args["signal"])])
            case "kernels":
                return self._kernels.list_kernels()
            case "forget":
                if not isinstance(streams := args["streams"], list):
                    raise TypeError("streams is a list of ids")
                self._relay.forget({str(stream) for stream in streams})
            case "look":
                return await self._kernels.process_status(str(args["kernel"]))
            case "enough":  # the kernel has answered the host itself
                if (task := self._inspect_tasks.get(int(str(args["look"])))) is not None:
                    task.cancel()
            case "end":
                asyncio.get_running_loop().call_later(_END_S, self._relay.end.set)
            case _:
                raise RemoteProtocolError(f"the relay has no operation {operation!r}")
        return {}
