"""The host's end of the link: local sockets for jupyter_client, resumable streams to the relay.

Theory of operation
-------------------

jupyter_client speaks ZMTP to five sockets per kernel. The kernel's sockets are on the sandbox's loopback, behind one
WebSocket port. The tunnel joins the two:

* Each kernel channel is a unix socket in a folder of mode 0700 (``transport: ipc`` in the connection file). Every
  connection to it becomes one *stream*, which the relay connects to the kernel's own port. Frames of ZMTP are not
  parsed except for their lengths, so that a message larger than the limit ends the client's connection, not the host.
* The streams of the first client are dialled before it connects (:data:`_PREOPENED_CHANNELS`), and ZMTP's handshake is
  answered at each end of the link (``wire.zmtp``). So a client's first message leaves without a round trip.
* The *control stream* carries JSON lines: requests to start, signal and list kernels, their replies, and the relay's
  exit events. A *journal stream* is opened for each read of a kernel's journal. Output and uploads are on other
  streams, so an interrupt never waits behind them.
* ``Tunnel.connect`` is the same for a socket that was accepted and for an end inside this process.

States: a tunnel is *opening* until the control stream is attached, then *open*, and *lost* from the first error that
cannot be repaired (:meth:`_fail`); from then on every request raises it. A kernel's endpoints are *open* or
*suspended*. Suspended means: no listener and no stream. A recovery suspends a kernel first, so that nothing queued for
the old streams is ever sent, and opens it again afterwards.

What can go wrong:

* A stream of this process's own client cannot resume: ``KernelObserver.streams_broken``. The owner starts a recovery.
  Streams of other clients are closed; ZMQ reconnects and gets new ones.
* The relay was restarted and does not know the control stream: pending requests end in :class:`RelayReplaced`, because
  they may or may not have been carried out, and a new control stream is opened. Idempotent requests are repeated.
* The relay cannot be reached for ``resume_lifetime_s``, or breaks the protocol: ``KernelObserver.relay_lost``.

The keepalive task checks all streams. Only while a request or a cell is in flight are idle streams probed, so a session
without work causes one small message every ``idle_keepalive_s``.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import shutil
from typing import TYPE_CHECKING, Any

from ..config import JOURNAL_SILENCE_S, MAX_RECOVERIES, RELAY_ANSWER_S, START_S
from ..errors import KernelError, SandboxFailed, TunnelLost
from ..transport.local_listener import LocalListener
from ..transport.local_socket import FunctionEnd, SocketEnd
from ..wire.comm import LineReader, to_line
from ..wire.hello import JOURNAL_CHANNEL, KERNEL_CHANNELS, RELAY_CHANNEL, CloseCode
from ..wire.journal import MAX_SEGMENTS, SEGMENT_BYTES, JournalReader, JournalRecord, RecordKind
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

_PREOPENED_CHANNELS = ("shell", "iopub", "control")  # the channels that the session's own client uses

_MAX_JOURNAL_BYTES = (MAX_SEGMENTS + 4) * SEGMENT_BYTES  # a record may exceed its segment by its own size
_SLICES = 10  # in which the wait for an answer is counted


class RelayReplaced(TunnelLost):
    """The relay was replaced during a request; whether the request was carried out is unknown."""


class _KernelEndpoints:
    """The local sockets of one kernel, and the streams behind them."""

    def __init__(self, kernel_id: str, key: str, name: str, *, personal: bool) -> None:
        self.kernel_id, self.key = kernel_id, key
        self.name, self.personal = name, personal
        self.limit_bytes: int | None = None  # largest message to a client
        self.listeners: list[LocalListener] = []
        self.ready: dict[str, DialedStream] = {}  # dialled before the client connects, by channel
        self.streams: dict[DialedStream, None] = {}  # in the order in which they were opened


class KernelObserver:
    """The callbacks to a kernel's owner; see :meth:`Tunnel.start_kernel`."""

    def kernel_exited(self, event: dict[str, Any]) -> None:
        """Handle the exit of the kernel's process; ``event`` has its ``code``, ``signal``, ``oom`` and ``stderr``."""

    def streams_broken(self) -> None:
        """Handle the loss of the first client's streams; the relay can be reached. Called once until reopened."""

    def relay_lost(self, error: KernelError) -> None:
        """Handle the final loss of the relay."""


class Tunnel:
    """The link to one relay. Lives on the I/O loop."""

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
        self.streams: dict[DialedStream, None] = {}
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
        """Connect to the relay at ``address`` and become its host; streams of an earlier host end.

        Args:
            address: Where the relay listens, and its secret.
            restart_relay: Restarts the relay if it has ended; returns its new address or None.
            times: The timings of keepalive and resume.
            folder: Where the endpoints are created; it is not deleted. Default: a temporary folder of the tunnel's own.
            entropy: The source of ids, secrets and jitter.

        Raises:
            SandboxFailed: If the relay cannot be reached or refuses the secret.
            WireMismatch: If the relay runs another version of the wire.
            TunnelLost: If the relay closed the stream.
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
        """Begin to connect to a relay without an earlier host; a kernel's streams can be dialled meanwhile."""
        tunnel = cls(address, restart_relay or _never_restart, times or LinkTimings(), folder, entropy)
        tunnel._open_relay()
        return tunnel

    async def wait_open(self) -> None:
        """Wait until the control stream is attached; raise as :meth:`open` does. The caller closes the tunnel."""
        if self._relay is not None:
            await asyncio.shield(self._relay.opened)

    @property
    def address(self) -> RelayAddress:
        """Where the relay listens now."""
        return self._dialer.address

    @property
    def connected(self) -> bool:
        """Whether a socket carries the control stream now."""
        return self._relay is not None and self._relay.attached

    @property
    def lifetime_s(self) -> float:
        """How long a lost link is dialled, in seconds (``resume_lifetime``)."""
        return self._dialer.times.resume_lifetime_s

    @contextlib.contextmanager
    def in_flight(self) -> Iterator[None]:
        """Keep every stream alive within this context, and dial again those that are dead."""
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    # --- the control stream -----------------------------------------------------------------

    async def start_kernel(
        self, watcher: KernelObserver, *, personal: bool = False, key: str = "", name: str = ""
    ) -> tuple[str, Path]:
        """Open the endpoints of a new kernel; return its id and the path of its connection file (mode 0600).

        A ``personal`` kernel is an interactive one, without bridge and journal. With the ``key`` and the ``name`` of a
        closed kernel it replaces that kernel for its clients.

        Clients may connect at once: what they send waits in the sandbox until the kernel serves. Await
        :meth:`kernel_started` next; it starts the process.
        """
        kernel_id = f"{next(self._kernel_ids)}-{self._entropy.token_hex(4)}"
        key = key or self._entropy.token_hex(32)
        return kernel_id, self.open_kernel(kernel_id, key, watcher, personal=personal, name=name)

    async def kernel_started(self, kernel_id: str) -> None:
        """Have the relay start the kernel's process; return when the kernel serves.

        Raises:
            SandboxFailed: If the kernel did not start.
            TunnelLost: If the relay went away meanwhile.
        """
        kernel = self._kernels[kernel_id]
        await self._request("start_kernel", START_S, kernel=kernel_id, key=kernel.key, personal=kernel.personal)

    def key_of(self, kernel_id: str) -> str:
        """Return the session key of a kernel whose endpoints are open."""
        return self._kernels[kernel_id].key

    def open_kernel(
        self, kernel_id: str, key: str, watcher: KernelObserver, *, personal: bool = False, name: str = ""
    ) -> Path:
        """Create the endpoints of a kernel, dial its streams, and return the path of its connection file."""
        self._observers[kernel_id] = watcher
        self._kernels[kernel_id] = _KernelEndpoints(kernel_id, key, name or kernel_id, personal=personal)
        self._listen(kernel_id)
        return write_connection_file(self._folder, name or kernel_id, key)

    def limit_messages(self, kernel_id: str, limit_bytes: int | None) -> None:
        """Limit the size of messages to clients that connect from now on; a larger one ends the client's stream."""
        self._kernels[kernel_id].limit_bytes = limit_bytes

    def reopen_kernel(self, kernel_id: str) -> None:
        """Listen for clients and dial the first client's streams after :meth:`suspend_kernel`.

        They are dialled for as long as the link may be down.
        """
        self._listen(kernel_id, open_within_s=self.lifetime_s)

    def _listen(self, kernel_id: str, open_within_s: float | None = None) -> None:
        endpoints = self._kernels[kernel_id]
        for port, channel in enumerate(KERNEL_CHANNELS, start=1):
            path = self._folder / f"{endpoints.name}-{port}"
            accept = functools.partial(self._accept, channel, endpoints)
            endpoints.listeners.append(LocalListener(path, accept))
        for channel in _PREOPENED_CHANNELS:
            stream = endpoints.ready[channel] = self._dial(channel, endpoints, open_within_s)
            stream.host_stream = True

    def suspend_kernel(self, kernel_id: str) -> None:
        """End the kernel's streams, drop what they hold, and stop listening until :meth:`reopen_kernel`."""
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
        if streams and self._loss is None:  # otherwise the relay keeps the streams for its resume lifetime
            self._relay_end.send(to_line({"op": "forget", "args": {"streams": [stream.id for stream in streams]}}))

    def close_kernel(self, kernel_id: str) -> None:
        """Close the kernel's endpoints and stop tracking it; its clients cannot reconnect."""
        self._observers.pop(kernel_id, None)
        self.suspend_kernel(kernel_id)
        self._kernels.pop(kernel_id, None)

    def has_unacked_bytes(self, kernel_id: str, channel: str) -> bool:
        """Return whether bytes of this host's client on ``channel`` have not reached the kernel's socket yet."""
        endpoints = self._kernels.get(kernel_id)
        streams = endpoints.streams if endpoints is not None else ()
        return any(stream.host_stream and stream.channel == channel and stream.unacked for stream in streams)

    async def signal(self, kernel_id: str, name: str, *, answer_s: float = RELAY_ANSWER_S) -> None:
        """Send ``interrupt`` (SIGINT), ``terminate`` or ``kill`` (SIGKILL) to the kernel's process group.

        Returns when the relay has sent the signal. ``answer_s`` is how long it may take; time in which the link is down
        does not count.

        Raises:
            TunnelLost: If the relay is gone, or silent.
        """
        await self._request_again("signal", answer_s, kernel=kernel_id, signal=name)

    async def kernels(self) -> dict[str, Any]:
        """Return the relay's kernels: a dict from ids to ``{"alive": bool, "code": int or None, ...}``.

        Raises:
            TunnelLost: If the relay is gone, or silent.
        """
        answer = await self._request_again("kernels", RELAY_ANSWER_S)
        found = answer.get("ok")
        return found if isinstance(found, dict) else {}

    async def kernel_status(self, kernel_id: str) -> dict[str, Any]:
        """Return the relay's status of a kernel's process; see ``wire.inspect_messages``. Can be cancelled.

        Raises:
            SandboxFailed: If the relay has no status.
            TunnelLost: If the relay is gone.
        """
        answer = (await self._request("look", RELAY_ANSWER_S, kernel=kernel_id)).get("ok")
        return answer if isinstance(answer, dict) else {}

    async def end_relay(self) -> None:
        """Have the relay end its kernels and itself.

        Raises:
            TunnelLost: If the relay is gone, or silent.
        """
        await self._request("end", RELAY_ANSWER_S)

    async def read_journal(self, kernel_id: str, after: str | None, cell: str | None) -> list[JournalRecord]:
        """Return the records of the kernel's journal after the message ``after``, or else from the start of ``cell``.

        A GAP record comes first if the journal does not reach back that far. The relay is dialled for as long as the
        link may be down.

        Raises:
            TunnelLost: If the relay is gone, sends no record for ``JOURNAL_SILENCE_S``, or its reply is no journal.
        """
        done: asyncio.Future[list[JournalRecord]] = asyncio.get_running_loop().create_future()
        records: list[JournalRecord] = []
        reader, received = JournalReader(), 0

        def take(data: bytes) -> None:
            nonlocal received
            received += len(data)
            try:
                if received > _MAX_JOURNAL_BYTES:
                    raise RemoteProtocolError(f"it has more than {_MAX_JOURNAL_BYTES:,} bytes")
                for record in () if done.done() else reader.feed(data):
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
                self._dialer, JOURNAL_CHANNEL, kernel_id, lambda _, error: fail(error), open_within_s=self.lifetime_s
            )
        )
        stream.connect(end)
        end.send(to_line({"after": after, "cell": cell}))
        try:
            with self.in_flight():
                await self._wait_answer(done, stream, JOURNAL_SILENCE_S, lambda: len(records))
            return done.result()[:-1]
        finally:
            stream.close()

    async def aclose(self) -> None:
        """Close every stream and endpoint and drop what they hold. A second call does nothing."""
        self._fail(TunnelLost("the interpreter was shut down"))
        for kernel_id in list(self._kernels):
            self.close_kernel(kernel_id)
        streams = list(self.streams)
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

    async def _request_again(self, op: str, answer_s: float, **args: Any) -> dict[str, Any]:
        """Send an idempotent request, again if the relay was replaced before it replied."""
        for _ in range(MAX_RECOVERIES):
            with contextlib.suppress(RelayReplaced):
                return await self._request(op, answer_s, **args)
        raise TunnelLost(f"the relay was replaced {MAX_RECOVERIES} times during one request")

    async def _request(self, op: str, answer_s: float, **args: Any) -> dict[str, Any]:
        if self._loss is not None:
            raise TunnelLost(str(self._loss)) from self._loss
        assert self._relay is not None
        request_id = next(self._ids)
        reply = self._replies[request_id] = asyncio.get_running_loop().create_future()
        try:
            with self.in_flight():
                self._relay_end.send(to_line({"id": request_id, "op": op, "args": args}))
                await self._wait_answer(reply, self._relay, answer_s)
            answer: dict[str, Any] = reply.result()
        except asyncio.CancelledError:
            if op == "look":
                self._relay_end.send(to_line({"op": "enough", "args": {"look": request_id}}))
            raise
        finally:
            del self._replies[request_id]
        if "error" in answer:
            raise SandboxFailed(f"the relay could not do {op}: {answer['error']}")
        return answer

    async def _wait_answer(
        self,
        answer: asyncio.Future[Any],
        stream: DialedStream,
        silence_s: float,
        progress: Callable[[], int] = lambda: 0,
    ) -> None:
        """Wait for an answer that the relay gives on ``stream``.

        Silence counts from the last progress and the last attachment, which may have to send the answer again, and only
        while the relay can answer: not while the link is down.

        Raises:
            TunnelLost: If the relay is silent for ``silence_s``, or makes no progress over all attachments for
                ``resume_lifetime`` longer.
        """
        loop = asyncio.get_running_loop()
        seen, attachments = progress(), stream.attachments
        left_s, until = silence_s, loop.time() + self.lifetime_s + silence_s
        try:
            while not answer.done():
                began, slice_s = loop.time(), min(left_s, silence_s / _SLICES)
                await asyncio.wait({answer}, timeout=slice_s)
                if progress() != seen:
                    seen, left_s, until = progress(), silence_s, loop.time() + self.lifetime_s + silence_s
                elif stream.attachments != attachments:
                    attachments, left_s = stream.attachments, silence_s
                elif not stream.down:
                    left_s -= min(loop.time() - began, slice_s + 1.0)  # more means that this loop was blocked
                if (left_s <= 0 or loop.time() > until) and not answer.done():
                    raise TunnelLost(f"the relay did not answer within {silence_s:g} s")
        finally:
            if not answer.cancel() and not answer.cancelled():
                answer.exception()  # marks it as retrieved: the caller may be cancelled

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
        """Open a new control stream if a restarted relay does not know the old one; otherwise the link is lost."""
        code = getattr(error.__cause__, "code", None)
        if code != CloseCode.UNKNOWN_STREAM or self._loss is not None or not stream.opened.done():
            self._fail(error)
            return
        self._fail_requests(RelayReplaced("the relay was replaced during the request"))
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

        The first connection to a preopened channel gets the stream that was dialled in advance. The kernel must be
        open.
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

    def _dial(self, channel: str, endpoints: _KernelEndpoints, open_within_s: float | None = None) -> DialedStream:
        stream = DialedStream(
            self._dialer, channel, endpoints.kernel_id, self._kernel_stream_gone, open_within_s=open_within_s
        )
        endpoints.streams[stream] = None
        return self._track_stream(stream)

    def _kernel_stream_gone(self, stream: DialedStream, error: KernelError) -> None:
        # Other clients reconnect after a closed connection. The session's own must not: its queue may be stale.
        log.debug("stream %s ended: %s", stream.channel, error)
        for kernel_id, endpoints in self._kernels.items():
            if stream in endpoints.streams:
                del endpoints.streams[stream]
                if stream.host_stream and kernel_id in self._observers:
                    self._observers[kernel_id].streams_broken()
                return

    def _track_stream(self, stream: DialedStream) -> DialedStream:
        self.streams = {other: None for other in self.streams if not other.carrier.ended}
        self.streams[stream] = None
        return stream

    def _spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run ``work`` as a task that :meth:`aclose` cancels and waits for."""
        task = asyncio.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task of the tunnel failed", exc_info=error)
            self._fail(TunnelLost(f"a task of the tunnel failed: {error!r}"))

    # --- keepalive -----------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        """Check every stream four times per keepalive interval."""
        loop, times = asyncio.get_running_loop(), self._dialer.times
        doubtful_until = 0.0
        while True:
            await asyncio.sleep(times.keepalive_s / 4)
            now = loop.time()
            in_flight = self._in_flight > 0 or now < doubtful_until
            # It is unknown here what clients of an interactive kernel wait for, so their idle streams are probed, too.
            warm = any(kernel.personal for kernel in self._kernels.values())
            dead = [
                s
                for s in list(self.streams)
                if s.check_connection(now, in_flight=in_flight, keep_warm=warm or s is self._relay)
            ]
            if dead:  # other streams may be dead as well although nothing is in flight on them
                doubtful_until = now + 2 * times.dead_after_s


async def _never_restart() -> RelayAddress | None:
    return None
