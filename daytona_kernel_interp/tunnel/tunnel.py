"""The host's end of the link: local endpoints for jupyter_client, resumable streams to the relay.

Each kernel channel is a unix socket in a folder only this user can enter (``transport: ipc`` in the connection file);
every connection to it becomes one stream. The streams of a kernel's first client are dialled before it connects, and
its ZMTP handshake is answered here, so its first message leaves at once. The relay's own stream starts and signals
kernels and tells of their exits.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import shutil
from typing import TYPE_CHECKING, Any

from ..config import MAX_RECOVERIES
from ..errors import KernelError, SandboxFailed, TunnelLost
from ..transport.local_listener import LocalListener
from ..transport.local_socket import FunctionEnd, SocketEnd
from ..wire.comm import LineReader, to_line
from ..wire.hello import JOURNAL_CHANNEL, KERNEL_CHANNELS, RELAY_CHANNEL, CloseCode
from ..wire.journal import JournalReader, JournalRecord, RecordKind
from ..wire.keepalive import LinkTimings
from ..wire.protocol_errors import RemoteProtocolError
from ..wire.zmtp import AcceptingEnd
from .dialer import DialedStream, Dialer
from .entropy import Entropy
from .local_endpoints import make_endpoints_folder, write_connection_file

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Coroutine, Iterator
    from pathlib import Path

    from ..sandboxes.base import RelayAddress
    from ..transport.local_socket import LocalEnd

    RestartRelay = Callable[[], Awaitable[RelayAddress | None]]

log = logging.getLogger(__name__)

_PREOPENED_CHANNELS = ("shell", "iopub", "control")  # the channels that our own client uses


class RelayReplaced(TunnelLost):
    """The relay that was asked is gone and another has taken its place; it may have done what was asked, or not."""


class _KernelEndpoints:
    """The local sockets of one kernel, and the streams behind them."""

    def __init__(self, kernel_id: str, key: str, name: str, *, personal: bool) -> None:
        self.kernel_id, self.key = kernel_id, key
        self.name, self.personal = name, personal
        self.limit_bytes: int | None = None  # of a message to a client
        self.listeners: list[LocalListener] = []
        self.ready: dict[str, DialedStream] = {}  # dialled before a client came
        self.streams: dict[DialedStream, None] = {}  # in the order of their connections


class KernelObserver:
    """What a kernel's owner is told; see :meth:`Tunnel.start_kernel`."""

    def kernel_exited(self, event: dict[str, Any]) -> None:
        """The kernel's process ended; the relay's event has its ``code``, ``signal``, ``oom`` and ``stderr``."""

    def streams_broken(self) -> None:
        """Streams of the kernel's first client cannot resume; the relay can be reached. Called once until reopened."""

    def relay_lost(self, error: KernelError) -> None:
        """The relay cannot be reached any more."""


class Tunnel:
    """One relay, seen from the host. Lives on the I/O loop."""

    def __init__(
        self,
        address: RelayAddress,
        restart_relay: RestartRelay,
        times: LinkTimings,
        folder: Path | None = None,
        entropy: Entropy | None = None,
    ) -> None:
        self._entropy = entropy or Entropy()
        self._dialer = Dialer(address, restart_relay, times, self._entropy)
        self._folder, self._owns_folder = folder or make_endpoints_folder(), folder is None
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._ids = itertools.count(1)
        self._kernel_ids = itertools.count(1)
        self._kernels: dict[str, _KernelEndpoints] = {}
        self._observers: dict[str, KernelObserver] = {}
        self._relay: DialedStream | None = None
        self._relay_end = FunctionEnd(lambda data: None)
        self._streams: dict[DialedStream, None] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._in_flight = 0
        self._spawn(self._tick())
        self._loss: KernelError | None = None

    @classmethod
    async def open(
        cls,
        address: RelayAddress,
        *,
        restart_relay: RestartRelay | None = None,
        times: LinkTimings | None = None,
        folder: Path | None = None,
        entropy: Entropy | None = None,
    ) -> Tunnel:
        """Connect to the relay at ``address`` and become its host; streams of another host end.

        ``restart_relay`` starts the relay again if it has ended, and returns its new address or None. The endpoints are
        made in ``folder``, which stays, or else in one of the tunnel's own; see
        :func:`.endpoints.make_endpoints_folder`.

        Raises:
            SandboxFailed: If it cannot be reached, or refuses the secret.
            WireMismatch: If it runs another version of the wire.
            TunnelLost: If it closed the stream.
        """
        tunnel = cls.begin(address, restart_relay, times, folder, entropy)
        try:
            await tunnel.wait_open()
        except BaseException:
            await tunnel.aclose()
            raise
        return tunnel

    @classmethod
    def begin(
        cls,
        address: RelayAddress,
        restart_relay: RestartRelay | None,
        times: LinkTimings | None,
        folder: Path | None = None,
        entropy: Entropy | None = None,
    ) -> Tunnel:
        """Begin to connect to a relay that has had no other host, so that a kernel's streams are dialled meanwhile."""
        tunnel = cls(address, restart_relay or _never_restart, times or LinkTimings(), folder, entropy)
        tunnel._open_relay()
        return tunnel

    async def wait_open(self) -> None:
        """Return when it is connected; raises as :meth:`open` does, and leaves it to be closed."""
        if self._relay is not None:
            await asyncio.shield(self._relay.opened)

    @property
    def address(self) -> RelayAddress:
        """Where the relay listens now."""
        return self._dialer.address

    @property
    def connected(self) -> bool:
        """Whether a socket carries the relay's own stream at this moment."""
        return self._relay is not None and self._relay.attached

    @property
    def lifetime_s(self) -> float:
        """How long a lost link is dialled, in seconds."""
        return self._dialer.times.resume_lifetime_s

    @contextlib.contextmanager
    def in_flight(self) -> Iterator[None]:
        """While something is waited for: every stream is kept alive, and dialled again when it is dead."""
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    # --- the relay's own stream -----------------------------------------------------------------

    async def start_kernel(
        self, watcher: KernelObserver, *, personal: bool = False, key: str = "", name: str = ""
    ) -> tuple[str, Path]:
        """Start a kernel and return its id and the path of its Jupyter connection file, which this user alone can read.

        A ``personal`` one is ipykernel's own, for somebody who sits at it. With a ``key`` and a ``name`` for its
        endpoints it can take the place of a kernel that was closed, and that one's clients find it.

        Clients may connect at once: what they send waits in the sandbox until the kernel serves. Whether it started is
        told by :meth:`kernel_started`.
        """
        kernel_id = f"{next(self._kernel_ids)}-{self._entropy.token_hex(4)}"
        key = key or self._entropy.token_hex(32)
        return kernel_id, self.open_kernel(kernel_id, key, watcher, personal=personal, name=name)

    async def kernel_started(self, kernel_id: str) -> None:
        """Have the relay start the kernel, and return when it serves.

        Raises:
            SandboxFailed: If it did not start.
            TunnelLost: If the relay went away meanwhile.
        """
        kernel = self._kernels[kernel_id]
        await self._request("start_kernel", kernel=kernel_id, key=kernel.key, personal=kernel.personal)

    def key_of(self, kernel_id: str) -> str:
        """Return the session key of a kernel whose endpoints are open."""
        return self._kernels[kernel_id].key

    def open_kernel(
        self, kernel_id: str, key: str, watcher: KernelObserver, *, personal: bool = False, name: str = ""
    ) -> Path:
        """Make the endpoints of a kernel, dial its streams, and return the path of its connection file."""
        self._observers[kernel_id] = watcher
        self._kernels[kernel_id] = _KernelEndpoints(kernel_id, key, name or kernel_id, personal=personal)
        self.reopen_kernel(kernel_id)
        return write_connection_file(self._folder, name or kernel_id, key)

    def limit_messages(self, kernel_id: str, limit_bytes: int | None) -> None:
        """End the streams of clients that connect from now on if the kernel sends one a larger message."""
        self._kernels[kernel_id].limit_bytes = limit_bytes

    def reopen_kernel(self, kernel_id: str) -> None:
        """Listen for clients and dial the first client's streams; after :meth:`suspend_kernel`, afresh."""
        endpoints = self._kernels[kernel_id]
        for port, channel in enumerate(KERNEL_CHANNELS, start=1):
            path = self._folder / f"{endpoints.name}-{port}"
            accept = functools.partial(self._accept, channel, endpoints)
            endpoints.listeners.append(LocalListener(path, accept))
        for channel in _PREOPENED_CHANNELS:
            stream = endpoints.ready[channel] = self._dial(channel, endpoints)
            stream.host_stream = True

    def suspend_kernel(self, kernel_id: str) -> None:
        """End the kernel's streams with all they hold, and take no client until :meth:`reopen_kernel`."""
        endpoints = self._kernels.get(kernel_id)
        if endpoints is None:
            return
        for listener in endpoints.listeners:
            listener.close()
        streams = [stream for stream in endpoints.streams if not stream.carrier.ended]
        endpoints.listeners, endpoints.ready = [], {}
        endpoints.streams.clear()
        for stream in streams:
            stream.close()
        if streams and self._loss is None:  # or the relay would keep them, and what they hold, for its lifetime
            self._relay_end.send(to_line({"op": "forget", "args": {"streams": [stream.id for stream in streams]}}))

    def close_kernel(self, kernel_id: str) -> None:
        """Forget a kernel: its endpoints close, so that its clients do not dial on."""
        self._observers.pop(kernel_id, None)
        self.suspend_kernel(kernel_id)
        self._kernels.pop(kernel_id, None)

    def has_unacked_bytes(self, kernel_id: str, channel: str) -> bool:
        """Whether bytes of our own client have not all reached the kernel's socket of ``channel``."""
        endpoints = self._kernels.get(kernel_id)
        streams = endpoints.streams if endpoints is not None else ()
        return any(stream.host_stream and stream.channel == channel and stream.unacked for stream in streams)

    async def signal(self, kernel_id: str, name: str) -> None:
        """Send ``interrupt`` (SIGINT), ``terminate`` or ``kill`` (SIGKILL) to the kernel's process group.

        Returns when the relay has done it, however long the link takes.

        Raises:
            TunnelLost: If the relay is gone.
        """
        await self._request_again("signal", kernel=kernel_id, signal=name)

    async def kernels(self) -> dict[str, Any]:
        """Return the relay's kernels: ids to ``{"alive": bool, "code": int or None, ...}``.

        Raises:
            TunnelLost: If the relay is gone.
        """
        answer = await self._request_again("kernels")
        found = answer.get("ok")
        return found if isinstance(found, dict) else {}

    async def kernel_status(self, kernel_id: str) -> dict[str, Any]:
        """Return what the relay can tell of a kernel, a little later; see ``wire.looks``. May be cancelled.

        Raises:
            SandboxFailed: If it cannot tell anything.
            TunnelLost: If the relay is gone.
        """
        answer = (await self._request("look", kernel=kernel_id)).get("ok")
        return answer if isinstance(answer, dict) else {}

    async def end_relay(self) -> None:
        """Have the relay end its kernels and itself.

        Raises:
            TunnelLost: If the relay is gone.
        """
        await self._request("end")

    async def read_journal(
        self, kernel_id: str, after: str | None, cell: str | None, *, open_within_s: float | None = None
    ) -> list[JournalRecord]:
        """Return the kernel's journal from behind the message ``after``, or else from the start of ``cell``.

        A record GAP comes first where that is not in the journal any more. ``open_within_s`` is how long the relay is
        dialled for it; see :class:`.dialer.DialedStream`.

        Raises:
            TunnelLost: If the relay is gone, or what it sends is no journal.
        """
        done: asyncio.Future[list[JournalRecord]] = asyncio.get_running_loop().create_future()
        records: list[JournalRecord] = []
        reader = JournalReader()

        def take(data: bytes) -> None:
            try:
                for record in reader.feed(data):
                    if record.kind is RecordKind.LAST and not done.done():
                        done.set_result(records)
                    records.append(record)
            except RemoteProtocolError as error:
                fail(TunnelLost(f"the journal cannot be read: {error}"))

        def fail(error: KernelError) -> None:
            if not done.done():
                done.set_exception(error)

        end = FunctionEnd(take, lambda: fail(TunnelLost("the journal ended early")))
        stream = self._track_stream(
            DialedStream(
                self._dialer, JOURNAL_CHANNEL, kernel_id, lambda _, error: fail(error), open_within_s=open_within_s
            )
        )
        stream.connect(end)
        end.send(to_line({"after": after, "cell": cell}))
        try:
            with self.in_flight():
                return (await done)[:-1]
        finally:
            stream.close()

    async def aclose(self) -> None:
        """Close every stream and endpoint; nothing that they still hold is sent. Calling it again does nothing."""
        self._fail(TunnelLost("the interpreter was shut down"))
        for kernel_id in list(self._kernels):
            self.close_kernel(kernel_id)
        streams = list(self._streams)
        for stream in streams:
            stream.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for stream in streams:
            await stream.wait_closed()
        if self._owns_folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _open_relay(self) -> None:
        lines = LineReader()

        def take(data: bytes) -> None:
            try:
                for message in lines.feed(data):
                    self._receive_message(message)
            except RemoteProtocolError as error:
                self._fail(TunnelLost(f"the relay broke the protocol: {error}"))

        self._relay_end = FunctionEnd(take)
        self._relay = self._track_stream(DialedStream(self._dialer, RELAY_CHANNEL, "", self._relay_gone))
        self._relay.connect(self._relay_end)

    async def _request_again(self, op: str, **args: Any) -> dict[str, Any]:
        """Ask for what does no harm twice; a relay that is just being replaced may have done it, or not."""
        for _ in range(MAX_RECOVERIES):
            with contextlib.suppress(RelayReplaced):
                return await self._request(op, **args)
        raise TunnelLost(f"the relay was replaced {MAX_RECOVERIES} times while it was asked")

    async def _request(self, op: str, **args: Any) -> dict[str, Any]:
        if self._loss is not None:
            raise TunnelLost(str(self._loss)) from self._loss
        request_id = next(self._ids)
        reply = self._replies[request_id] = asyncio.get_running_loop().create_future()
        try:
            with self.in_flight():
                self._relay_end.send(to_line({"id": request_id, "op": op, "args": args}))
                answer: dict[str, Any] = await reply
        except asyncio.CancelledError:
            if op == "look":
                self._relay_end.send(to_line({"op": "enough", "args": {"look": request_id}}))
            raise
        finally:
            del self._replies[request_id]
        if "error" in answer:
            raise SandboxFailed(f"the relay could not do {op}: {answer['error']}")
        return answer

    def _receive_message(self, message: dict[str, Any]) -> None:
        if message.get("event") == "kernel_exited":
            watcher = self._observers.get(str(message.get("kernel")))
            if watcher is not None:
                watcher.kernel_exited(message)
            return
        request_id = message.get("id")
        reply = self._replies.get(request_id) if isinstance(request_id, int) else None
        if reply is not None and not reply.done():
            reply.set_result(message)

    def _relay_gone(self, stream: DialedStream, error: KernelError) -> None:
        """Open the relay's stream anew where a restarted relay does not know the old one; else all is lost."""
        code = getattr(error.__cause__, "code", None)
        if code != CloseCode.UNKNOWN_STREAM or self._loss is not None or not stream.opened.done():
            self._fail(error)
            return
        self._fail_requests(RelayReplaced("the relay was replaced while it was asked"))
        self._open_relay()

    def _fail(self, error: KernelError) -> None:
        if self._loss is None:
            self._loss = error
            self._fail_requests(error)
            for watcher in list(self._observers.values()):
                watcher.relay_lost(error)

    def _fail_requests(self, error: KernelError) -> None:
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(error)

    # --- kernel channels --------------------------------------------------------------------------

    def connect(self, kernel_id: str, channel: str, end: LocalEnd) -> DialedStream:
        """Carry ``end``, a client's connection to a channel of the kernel, over a stream of its own.

        The first connection to a preopened channel gets the stream that is dialled already. ``kernel_id`` must be open.
        """
        endpoints = self._kernels[kernel_id]
        stream = endpoints.ready.pop(channel, None) or self._dial(channel, endpoints)
        stream.connect(end)
        return stream

    def _accept(self, channel: str, endpoints: _KernelEndpoints, connection: socket.socket) -> None:
        end = SocketEnd(AcceptingEnd(channel, endpoints.limit_bytes))
        self.connect(endpoints.kernel_id, channel, end)
        task = self._spawn(self._attach_connection(connection, end))
        # A task that is cancelled before its first step never sees the connection.
        task.add_done_callback(lambda task: connection.close() if task.cancelled() else None)

    async def _attach_connection(self, connection: socket.socket, end: SocketEnd) -> None:
        await asyncio.get_running_loop().connect_accepted_socket(lambda: end, connection)

    def _dial(self, channel: str, endpoints: _KernelEndpoints) -> DialedStream:
        stream = DialedStream(self._dialer, channel, endpoints.kernel_id, self._kernel_stream_gone)
        endpoints.streams[stream] = None
        return self._track_stream(stream)

    def _kernel_stream_gone(self, stream: DialedStream, error: KernelError) -> None:
        # Another client sees a closed connection and dials again. Ours must not: what it has queued may be old.
        log.debug("stream %s ended: %s", stream.channel, error)
        for kernel_id, endpoints in self._kernels.items():
            if stream in endpoints.streams:
                del endpoints.streams[stream]
                if stream.host_stream and kernel_id in self._observers:
                    self._observers[kernel_id].streams_broken()
                return

    def _track_stream(self, stream: DialedStream) -> DialedStream:
        self._streams = {other: None for other in self._streams if not other.carrier.ended}
        self._streams[stream] = None
        return stream

    def _spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run ``work`` as a task that :meth:`aclose` cancels and waits for."""
        task = asyncio.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(lambda task: self._tasks.pop(task, None))
        return task

    # --- keepalive -----------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        """Look after every stream, four times as often as one that is waited for is asked."""
        loop, times = asyncio.get_running_loop(), self._dialer.times
        doubtful_until = 0.0
        while True:
            await asyncio.sleep(times.keepalive_s / 4)
            now = loop.time()
            in_flight = self._in_flight > 0 or now < doubtful_until
            # What a person's clients wait for is not known here: an idle stream of theirs is asked as the relay's is.
            warm = any(kernel.personal for kernel in self._kernels.values())
            dead = [
                s
                for s in list(self._streams)
                if s.check_connection(now, in_flight=in_flight, keep_warm=warm or s is self._relay)
            ]
            if dead:  # the others, of another client perhaps, may owe nothing and be dead all the same
                doubtful_until = now + 2 * times.dead_after_s


async def _never_restart() -> RelayAddress | None:
    return None
