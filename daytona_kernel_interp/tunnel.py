"""The host's end of the link: local endpoints for jupyter_client, WebSockets to the relay.

Each kernel channel is a unix socket in a folder only this user can enter (``transport: ipc`` in the connection file);
every connection to it becomes one stream on one WebSocket. The relay's own stream starts and signals kernels and tells
of their exits.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import secrets
import shutil
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from .errors import KernelError, SandboxFailed, TunnelLost, WireMismatch
from .link.ends import LocalEnd, SocketEnd, pipe
from .link.pump import Pump
from .settings import DIAL_S
from .wire.calls import LineReader, to_line
from .wire.errors import RemoteProtocolError
from .wire.frames import MAX_FRAME_BYTES, MAX_PAYLOAD_BYTES, FrameType, decode
from .wire.hello import (
    HELLO_HEADER,
    KERNEL_CHANNELS,
    PATH_PREFIX,
    RELAY_CHANNEL,
    SECRET_HEADER,
    Close,
    HostHello,
    parse_relay_hello,
)
from .wire.stream import WINDOW_BYTES, Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from .sandboxes.base import RelayAddress

log = logging.getLogger(__name__)

# At level DEBUG websockets logs the headers of an upgrade, and ours hold secrets.
_quiet = logging.getLogger(f"{__name__}.websockets")
_quiet.setLevel(logging.INFO)

_MAX_SOCKET_PATH = 100  # sun_path holds 104 bytes on macOS, 108 on Linux


class Tunnel:
    """One relay, seen from the host. Lives on the I/O loop."""

    def __init__(self, address: RelayAddress) -> None:
        self._address = address
        self._folder = _short_folder()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: dict[str, list[socket.socket]] = {}
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._ids = itertools.count(1)
        self._on_exit: dict[str, Callable[[dict[str, Any]], None]] = {}
        self._on_lost: dict[str, Callable[[KernelError], None]] = {}
        self._relay_end: LocalEnd | None = None
        self._kernels = itertools.count(1)

    @classmethod
    async def open(cls, address: RelayAddress) -> Tunnel:
        """Connect to the relay at ``address``.

        Raises:
            SandboxFailed: If it cannot be reached, or refuses the secret.
            WireMismatch: If it runs another version of the wire.
        """
        tunnel = cls(address)
        try:
            websocket = await tunnel._dial(RELAY_CHANNEL, "")
        except BaseException:
            await tunnel.aclose()
            raise
        near, far = pipe()
        tunnel._relay_end = near
        tunnel._spawn(Pump(Stream(), far, websocket).run())
        tunnel._spawn(tunnel._read_relay(near))
        return tunnel

    # --- the relay's own stream -----------------------------------------------------------------

    async def start_kernel(
        self, on_exit: Callable[[dict[str, Any]], None], on_lost: Callable[[KernelError], None]
    ) -> tuple[str, Path]:
        """Start a kernel and return its id and the path of its Jupyter connection file, which this user alone can read.

        ``on_exit`` gets the relay's event when the kernel's process ends, ``on_lost`` the error when the relay is lost.

        Raises:
            SandboxFailed: If the kernel did not start.
            TunnelLost: If the relay went away meanwhile.
        """
        kernel_id = f"{next(self._kernels)}-{secrets.token_hex(4)}"
        key = secrets.token_hex(32)
        self._on_exit[kernel_id], self._on_lost[kernel_id] = on_exit, on_lost
        await self._request("start_kernel", kernel=kernel_id, key=key)
        prefix = self._folder / kernel_id
        listening = self._listening[kernel_id] = []
        info: dict[str, Any] = {
            "transport": "ipc",
            "ip": str(prefix),
            "key": key,
            "signature_scheme": "hmac-sha256",
        }
        for port, channel in enumerate(KERNEL_CHANNELS, start=1):
            listening.append(self._listen(f"{prefix}-{port}", channel, kernel_id))
            info[f"{channel}_port"] = port
        connection_file = self._folder / f"kernel-{kernel_id}.json"
        connection_file.write_text(json.dumps(info))
        return kernel_id, connection_file

    async def signal(self, kernel_id: str, name: str) -> None:
        """Send ``interrupt`` (SIGINT) or ``kill`` (SIGKILL) to the kernel's process group.

        Raises:
            TunnelLost: If the relay is gone.
        """
        await self._request("signal", kernel=kernel_id, signal=name)

    def close_kernel(self, kernel_id: str) -> None:
        """Stop listening for a kernel that is gone, so that its clients do not dial on."""
        self._on_exit.pop(kernel_id, None)
        self._on_lost.pop(kernel_id, None)
        for listener in self._listening.pop(kernel_id, ()):
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()

    async def aclose(self) -> None:
        """Close every stream and endpoint. Calling it again does nothing."""
        for kernel_id in list(self._listening):
            self.close_kernel(kernel_id)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _request(self, op: str, **args: Any) -> dict[str, Any]:
        if self._relay_end is None:
            raise TunnelLost("the link to the relay is gone")
        request_id = next(self._ids)
        reply = self._replies[request_id] = asyncio.get_running_loop().create_future()
        try:
            await self._relay_end.write(to_line({"id": request_id, "op": op, "args": args}))
            answer: dict[str, Any] = await reply
        finally:
            del self._replies[request_id]
        if "error" in answer:
            raise SandboxFailed(f"the relay could not do {op}: {answer['error']}")
        return answer

    async def _read_relay(self, end: LocalEnd) -> None:
        lines = LineReader()
        why = "the link to the relay was lost; whether a running cell ended is unknown"
        try:
            while data := await end.read():
                for message in lines.feed(data):
                    self._take(message)
        except RemoteProtocolError as error:
            why = f"the relay broke the protocol: {error}"
        finally:
            end.abort()
            self._lose(TunnelLost(why))  # whatever happened: nobody must wait on for a reply

    def _take(self, message: dict[str, Any]) -> None:
        if message.get("event") == "kernel_exited":
            kernel_id = str(message.get("kernel"))
            on_exit = self._on_exit.get(kernel_id)
            self.close_kernel(kernel_id)
            if on_exit is not None:
                on_exit(message)
            return
        request_id = message.get("id")
        reply = self._replies.get(request_id) if isinstance(request_id, int) else None
        if reply is not None and not reply.done():
            reply.set_result(message)

    def _lose(self, error: KernelError) -> None:
        self._relay_end = None
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(error)
        for on_lost in list(self._on_lost.values()):
            on_lost(error)

    # --- kernel channels --------------------------------------------------------------------------

    def _listen(self, path: str, channel: str, kernel_id: str) -> socket.socket:
        # Not asyncio's own server, and no awaited accept: both can lose a connection that comes while they are closed.
        listener = socket.socket(socket.AF_UNIX)
        listener.setblocking(False)
        listener.bind(path)
        listener.listen(16)
        asyncio.get_running_loop().add_reader(listener, self._accept, listener, channel, kernel_id)
        return listener

    def _accept(self, listener: socket.socket, channel: str, kernel_id: str) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # gone again
        task = self._spawn(self._carry(connection, channel, kernel_id))
        task.add_done_callback(lambda task: connection.close() if task.cancelled() else None)  # maybe before it ran

    async def _carry(self, connection: socket.socket, channel: str, kernel_id: str) -> None:
        local = SocketEnd(*await asyncio.open_unix_connection(sock=connection, limit=MAX_PAYLOAD_BYTES))
        try:
            websocket = await self._dial(channel, kernel_id)
        except BaseException as error:
            local.abort()
            if not isinstance(error, KernelError):
                raise
            # The client sees a closed connection and dials again.
            log.debug("stream %s of kernel %s was not opened: %s", channel, kernel_id, error)
            return
        await Pump(Stream(), local, websocket).run()

    async def _dial(self, channel: str, kernel_id: str) -> ClientConnection:
        hello = HostHello(stream=secrets.token_hex(16), kernel=kernel_id, window=WINDOW_BYTES)
        headers = {
            **self._address.headers,
            SECRET_HEADER: self._address.secret,
            HELLO_HEADER: hello.to_header(),
        }
        loopback = self._address.url.startswith(("ws://127.0.0.1:", "ws://[::1]:", "ws://localhost:"))
        try:
            websocket = await connect(
                f"{self._address.url}{PATH_PREFIX}{channel}",
                additional_headers=headers,
                compression=None,
                max_size=MAX_FRAME_BYTES,
                ping_interval=None,
                open_timeout=DIAL_S,
                close_timeout=1,
                proxy=None if loopback else True,
                logger=_quiet,
            )
        except (OSError, InvalidHandshake, asyncio.TimeoutError) as error:
            raise SandboxFailed(f"the relay at {self._address.url} cannot be reached: {error}") from error
        try:
            await self._shake_hands(websocket)
        except BaseException:
            with contextlib.suppress(Exception):
                await websocket.close()
            raise
        return websocket

    async def _shake_hands(self, websocket: ClientConnection) -> None:
        try:
            message = await asyncio.wait_for(websocket.recv(), DIAL_S)
            frame = decode(message if isinstance(message, bytes) else b"")
            if frame.type is not FrameType.HELLO:
                raise RemoteProtocolError("the relay's first frame is no HELLO")
            parse_relay_hello(frame.payload)
        except ConnectionClosed as error:
            reason = error.rcvd.reason if error.rcvd is not None else ""
            if error.rcvd is not None and error.rcvd.code == Close.BAD_HELLO:
                raise WireMismatch(reason) from error
            raise TunnelLost(f"the relay closed the stream at once: {reason or 'no reason given'}") from error
        except RemoteProtocolError as error:
            raise WireMismatch(str(error)) from error
        except asyncio.TimeoutError as error:
            raise SandboxFailed(f"the relay at {self._address.url} accepted and then said nothing") from error

    def _spawn(self, coroutine: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a stream to %s failed", self._address.url, exc_info=task.exception())


def _short_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="dk-"))
    if len(str(folder / "00-00000000-5")) <= _MAX_SOCKET_PATH:
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix="dk-", dir="/tmp"))
