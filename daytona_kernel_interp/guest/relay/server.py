"""The relay: one WebSocket port in front of the sandbox's kernels.

Every attachment is checked for the relay's secret before anything else is looked at. Each carries one stream: to a
kernel's port, from a kernel's journal, or to the relay's own service. Streams outlive their WebSockets, and the relay
its host, for ``lifetime_s``; then the kernels and the relay end.
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
_PATH = re.compile(rf"/v\d+/({'|'.join(CHANNELS)})")  # of any version: the hello says what is wrong with another
_CHECKS_PER_LIFETIME = 20
_END_S = 0.05  # after the reply to `end`, which leaves first
_REFUSALS = (KernelStartFailed, NoSuchKernel, RemoteProtocolError, OSError, KeyError, TypeError, ValueError)


class Relay:
    """One per sandbox."""

    def __init__(self, secret: str, kernels: KernelControl, lifetime_s: float = RESUME_LIFETIME_S) -> None:
        self._secret = secret
        self._kernels, self._lifetime_s = kernels, lifetime_s
        self._streams = RelayStreams(boot=secrets.token_hex(8), lifetime_s=lifetime_s)
        self._attachments: dict[str, Attachment] = {}
        self._control_streams: dict[str, RelayService] = {}  # by the stream's id
        self._loop = asyncio.get_running_loop()
        self._host_seen_at = self._loop.time()
        self._host_seen = False
        self.end = asyncio.Event()  # the host wants it, or is gone for too long
        kernels.on_exit = self._send_event

    async def listen(self, port: int, host: str = "127.0.0.1") -> Server:
        """Serve on ``host``; the returned server knows the port that was bound."""
        return await serve_sockets(port, self._serve, self._check, host)

    async def wait_end(self) -> None:
        """Return when the host ended the relay, or was not heard of for the lifetime."""
        interval_s, checked_at = self._lifetime_s / _CHECKS_PER_LIFETIME, self._loop.time()
        while not self.end.is_set():
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
        """Do not count time in which the sandbox was paused: nobody could be heard then."""
        self._host_seen_at += seconds
        for stream in self._streams:
            if stream.detached_at is not None:
                stream.detached_at += seconds

    def host_seen(self) -> None:
        """The host lives."""
        self._host_seen_at = self._loop.time()

    def _send_event(self, event: dict[str, object]) -> None:
        for service in self._control_streams.values():
            service.send(event)

    def _check(self, connection: ServerConnection, request: Request) -> Response | None:
        given = request.headers.get(SECRET_HEADER, "")
        if not hmac.compare_digest(given.encode("utf-8", "replace"), self._secret.encode()):
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, "wrong relay secret\n")
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
        """Make the local end of a new stream."""
        if stream.channel == RELAY_CHANNEL:
            # Whoever opens this stream anew is the host from now on; one relay has one. The first one's other streams
            # may have come before this one.
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
        """The host does not come back for these streams; what they hold is dropped."""
        for attachment in list(self._attachments.values()):
            if attachment.stream.id in ids:
                attachment.carrier.end(CloseCode.SUPERSEDED)

    def lost(self, stream: RelayStream) -> None:
        """A stream has no socket now."""
        self._streams.detached(stream, self._loop.time())

    def ended(self, stream: RelayStream) -> None:
        """A stream is over."""
        self._streams.remove(stream)
        self._attachments.pop(stream.id, None)


class Attachment:
    """A stream and the socket that carries it now."""

    def __init__(self, relay: Relay, stream: RelayStream) -> None:
        self._relay, self.stream = relay, stream
        self.carrier = Carrier(stream.stream, self._ended)
        self.on_end: Callable[[], object] = lambda: None

    def take_over(self, socket: Any, hello: bytes) -> None:
        """Carry the stream on ``socket``, which was admitted, and on no other."""
        old = self.carrier.socket
        self.carrier.detach()
        if old is not None:
            old.begin_close(CloseCode.SUPERSEDED, "a later attachment took over")
        socket.sink = self
        socket.post(hello)
        self.carrier.attach(socket)

    def message(self, socket: Socket, data: bytes | None) -> None:
        """Take a message of the socket; one that was replaced says nothing any more."""
        if self.carrier.socket is socket:
            self._relay.host_seen()
            self.carrier.message(data)

    def writable(self, socket: Socket) -> None:
        """Send on."""
        if self.carrier.socket is socket:
            self.carrier.flush()

    def lost(self, socket: Socket, code: int, reason: str) -> None:
        """Wait for the next socket; a host that closed the stream for good does not come again."""
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
    """A connection to one channel of a kernel, made when there is something to say to it.

    Not before: a kernel gives a client 30 s to finish ZMTP's handshake, and a stream may wait longer for its client.
    """

    def __init__(self, kernels: KernelControl, kernel_id: str, channel: str) -> None:
        super().__init__(ConnectingEnd())
        self._kernels, self._kernel_id, self._channel = kernels, kernel_id, channel
        self._connecting: asyncio.Task[None] | None = None

    def write(self, data: bytes) -> None:
        """Write ``data``; the first connects."""
        super().write(data)
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())

    def write_eof(self) -> None:
        """End the connection; one that was not made, because the client said nothing, has ended with that."""
        super().write_eof()
        if self._connecting is None and self._feed is not None:
            asyncio.get_running_loop().call_soon(self._feed.feed_eof)

    def abort(self) -> None:
        """Close the connection, made or not."""
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
    """Sends a kernel's journal from where the host asks for it."""

    def __init__(self, kernels: KernelControl, kernel_id: str, attachment: Attachment) -> None:
        super().__init__(self._take)
        self._kernels, self._kernel_id, self._attachment = kernels, kernel_id, attachment
        self._lines = LineReader()
        self._open_window = asyncio.Event()
        self._open_window.set()
        self._sending: asyncio.Task[None] | None = None

    def pause(self) -> None:
        """Send no further for now."""
        self._open_window.clear()

    def resume(self) -> None:
        """Send on."""
        self._open_window.set()

    def abort(self) -> None:
        """Stop."""
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
            await asyncio.sleep(0)  # other streams have their turn
        if not self._kernels.list_kernels().get(self._kernel_id, {}).get("alive"):
            for record in journal.pending():
                self.send(encode_record(record))
        self.send(encode_record(JournalRecord(RecordKind.LAST)))


class RelayService:
    """Answers the host's requests on the relay's own stream, and tells it of exits."""

    def __init__(self, relay: Relay, kernels: KernelControl, attachment: Attachment) -> None:
        self._relay, self._kernels, self._attachment = relay, kernels, attachment
        self._lines = LineReader()
        self.local = FunctionEnd(self._take, self._hung_up)
        self._tasks: set[asyncio.Task[None]] = set()
        self._inspect_tasks: dict[int, asyncio.Task[None]] = {}  # by the request's id

    def send(self, message: dict[str, object]) -> None:
        """Send an event or a reply."""
        self.local.send(to_line(message))

    def _take(self, data: bytes) -> None:
        try:
            for request in self._lines.feed(data):
                # Each on its own: an interrupt does not wait until a kernel has started.
                task = asyncio.create_task(self._answer(request))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
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
