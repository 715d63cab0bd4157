"""The relay: one WebSocket port in front of the sandbox's kernels.

Every attachment is checked for the relay's secret before anything else is looked at, and becomes one
stream: to a kernel's port, or to the relay's own service (start, signal, end kernels; tell of their exits).
"""

from __future__ import annotations

import asyncio
import hmac
import http
import logging
import secrets
import signal
from typing import TYPE_CHECKING, Any

from websockets.asyncio.server import Server, ServerConnection, serve

from ..link.ends import LocalEnd, SocketEnd, pipe
from ..link.pump import Pump
from ..wire.calls import LineReader, to_line
from ..wire.errors import RemoteProtocolError
from ..wire.frames import MAX_FRAME_BYTES, Frame, FrameType, encode
from ..wire.hello import (
    HELLO_HEADER,
    KERNEL_CHANNELS,
    MAX_STREAMS,
    PATH_PREFIX,
    RELAY_CHANNEL,
    SECRET_HEADER,
    Close,
    HostHello,
    RelayHello,
    close_reason,
    parse_host_hello,
)
from ..wire.stream import WINDOW_BYTES, Stream
from .kernels import Kernels, KernelStartFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from websockets.http11 import Request, Response

# At level DEBUG websockets logs the headers of an upgrade, and they hold secrets.
_quiet = logging.getLogger(f"{__name__}.websockets")
_quiet.setLevel(logging.INFO)

_SIGNALS = {"interrupt": signal.SIGINT, "kill": signal.SIGKILL}


class Relay:
    """One per sandbox."""

    def __init__(self, secret: str, kernels: Kernels) -> None:
        self._secret = secret
        self._boot = secrets.token_hex(8)
        self._services: set[Service] = set()
        self._streams = 0
        self._kernels = kernels
        kernels.on_exit = self._announce

    async def listen(self, port: int) -> Server:
        """Serve on 127.0.0.1; the returned server knows the port that was bound."""
        return await serve(
            self._attach,
            "127.0.0.1",
            port,
            process_request=self._check,
            compression=None,
            max_size=MAX_FRAME_BYTES,
            ping_interval=None,  # a ping waits behind a blocked send, so it proves nothing
            close_timeout=1,
            logger=_quiet,
        )

    def _announce(self, event: dict[str, Any]) -> None:
        for service in self._services:
            service.tell(event)

    def _check(self, connection: ServerConnection, request: Request) -> Response | None:
        given = request.headers.get(SECRET_HEADER, "")
        if not hmac.compare_digest(given.encode("utf-8", "replace"), self._secret.encode()):
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, "wrong relay secret\n")
        if request.path.removeprefix(PATH_PREFIX) not in (*KERNEL_CHANNELS, RELAY_CHANNEL):
            return connection.respond(http.HTTPStatus.NOT_FOUND, "no such channel\n")
        return None

    async def _attach(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        channel = connection.request.path.removeprefix(PATH_PREFIX)
        try:
            hello = parse_host_hello(connection.request.headers.get(HELLO_HEADER))
        except RemoteProtocolError as error:
            await connection.close(Close.BAD_HELLO, close_reason(error))
            return
        if self._streams >= MAX_STREAMS:
            await connection.close(Close.TOO_MANY_STREAMS, f"this relay carries at most {MAX_STREAMS} streams")
            return
        self._streams += 1
        try:
            await self._carry(connection, channel, hello)
        finally:
            self._streams -= 1

    async def _carry(self, connection: ServerConnection, channel: str, hello: HostHello) -> None:
        service: Service | None = None
        local: LocalEnd
        if channel == RELAY_CHANNEL:
            local, far = pipe()
            service = Service(far, self._kernels)
            self._services.add(service)
        else:
            port = self._kernels.port(hello.kernel, channel)
            if port is None:
                await connection.close(Close.UNKNOWN_STREAM, "no such kernel")
                return
            try:
                local = SocketEnd(*await asyncio.open_connection("127.0.0.1", port))
            except OSError:
                await connection.close(Close.PORT_REFUSED, "the kernel refused the connection")
                return
        try:
            answer = RelayHello(self._boot, WINDOW_BYTES).to_payload()
            await connection.send(encode(Frame(FrameType.HELLO, 0, 0, answer)))
            await Pump(Stream(), local, connection).run()
        finally:
            if service is not None:
                self._services.discard(service)
                service.close()


class Service:
    """Answers one host's requests on the relay's own stream."""

    def __init__(self, end: LocalEnd, kernels: Kernels) -> None:
        self._end, self._kernels = end, kernels
        self._outbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._operations: dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            "start_kernel": self._start_kernel,
            "signal": self._signal,
        }
        self._tasks = {asyncio.create_task(self._read()), asyncio.create_task(self._write())}

    def tell(self, message: dict[str, Any]) -> None:
        """Send an event."""
        self._outbox.put_nowait(message)

    def close(self) -> None:
        """Stop answering."""
        for task in self._tasks:
            task.cancel()

    async def _write(self) -> None:
        while True:
            await self._end.write(to_line(await self._outbox.get()))

    async def _read(self) -> None:
        lines = LineReader()
        try:
            while data := await self._end.read():
                for request in lines.feed(data):
                    # Each on its own: an interrupt does not wait until a kernel has started.
                    task = asyncio.create_task(self._answer(request))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
        except RemoteProtocolError:
            self._end.abort()

    async def _answer(self, request: dict[str, Any]) -> None:
        operation = self._operations.get(str(request.get("op")))
        reply: dict[str, Any] = {"id": request.get("id")}
        try:
            if operation is None:
                raise RemoteProtocolError(f"the relay has no operation {request.get('op')!r}")
            reply["ok"] = await operation(request.get("args") or {})
        except (KernelStartFailed, RemoteProtocolError, OSError, KeyError, TypeError) as error:
            reply["error"] = f"{type(error).__name__}: {error}"
        self.tell(reply)

    async def _start_kernel(self, args: dict[str, Any]) -> dict[str, Any]:
        return {"pid": await self._kernels.start(str(args["kernel"]), str(args["key"]))}

    async def _signal(self, args: dict[str, Any]) -> dict[str, Any]:
        self._kernels.signal(str(args["kernel"]), _SIGNALS[args["signal"]])
        return {}
