"""A TCP proxy between host and relay that does to a link what networks do: cut, freeze, delay, throttle, refuse.

It has a thread and an event loop of its own, so it goes on while the host's loop is blocked. What it does at random is
drawn per connection from ``seed`` and the connection's number: the same seed gives every connection the same fate.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from typing_extensions import Self

UP, DOWN = "up", "down"  # host to relay, relay to host

_CHUNK_BYTES = 256 * 1024
_SLICE_BYTES = 16 * 1024  # of a throttled link: connections take turns after so much
_QUEUE_BYTES = 4 * 1024 * 1024  # on the way in one direction of a connection; then the sender has to wait
_LOOK_FOR_BYTES_S = 0.02  # a cut waits this long for bytes to fall between
_LOOK_FOR_FAULTS_S = 0.05
_HALF_OPEN_S = 0.05  # at most so much later than the first end of a connection the second is cut
_LATE_S = 0.01
_BAD_GATEWAY = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True)
class Faults:
    """What the proxy does to connections, beginning with the next byte, or cut, of each."""

    cut_after_s: tuple[float, float] | None = None  # each connection is cut at a random time of its life
    delay_s: float = 0.0  # one way; bytes stay in order
    bytes_per_s: float | None = None  # each way, shared by all connections
    bad_gateway: bool = False  # new connections get a 502


class Proxy:
    """Listens on a loopback port and leads to whatever :meth:`lead_to` named last. A context manager."""

    def __init__(self, faults: Faults | None = None, *, seed: int = 0) -> None:
        self.faults = faults or Faults()
        self.seed = seed
        self.cuts: Counter[str] = Counter()  # "rst" and "fin": connections cut, by how their first end was
        self.dials = 0
        self.passed: Counter[str] = Counter({UP: 0, DOWN: 0})  # bytes handed on
        self._progress = threading.Condition()
        self._target = 0
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._wires = {UP: _Wire(), DOWN: _Wire()}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._listener: socket.socket | None = None
        # Bound for the lifetime of the proxy, so that no other process gets the port while the proxy refuses.
        self._reserved = self._bound(0)
        self.port = int(self._reserved.getsockname()[1])
        self.accept()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def lead_to(self, port: int) -> None:
        """Connect what comes from now on to ``port``."""
        self._target = port

    @property
    def cut_count(self) -> int:
        return sum(self.cuts.values())

    # --- what is done to every connection that there is ------------------------------------------------

    def cut(self, how: str = "rst") -> None:
        """Cut every connection now, both ends."""

        def cut() -> None:
            for connection in list(self._connections):
                connection.cut(how)

        self._call(cut)

    def freeze(self, *directions: str) -> None:
        """Let nothing pass any more on the connections that there are; no end sees a FIN, ever. New ones are free."""

        def freeze() -> None:
            for connection in self._connections:
                connection.freeze(directions or (UP, DOWN))

        self._call(freeze)

    def refuse(self) -> None:
        """Refuse new connections, as a closed port does, until :meth:`accept`."""
        self._call(self._stop_listening)

    def accept(self) -> None:
        """Take connections, on the same port as before."""
        self._call(self._listen)

    def until_passed(self, direction: str, size: int, limit_s: float = 30.0) -> None:
        """Return when ``size`` bytes in all were handed on in ``direction``."""
        with self._progress:
            assert self._progress.wait_for(lambda: self.passed[direction] >= size, limit_s), self.passed

    def until_dialled(self, count: int, limit_s: float = 30.0) -> None:
        """Return when ``count`` connections in all were accepted."""
        with self._progress:
            assert self._progress.wait_for(lambda: self.dials >= count, limit_s), self.dials

    def close(self) -> None:
        """End the proxy and every connection through it."""

        async def end() -> None:
            self._stop_listening()
            for connection in list(self._connections):
                connection.cut("rst", count=False)
            while tasks := [task for task in self._tasks if not task.done()]:
                await asyncio.wait(tasks)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()
        self._reserved.close()

    # --- on the proxy's loop ---------------------------------------------------------------------------

    def _call(self, function: Callable[[], None]) -> None:
        async def call() -> None:
            function()

        asyncio.run_coroutine_threadsafe(call(), self._loop).result(30)

    def _listen(self) -> None:
        if self._listener is not None:
            return
        self._listener = self._bound(self.port)
        self._listener.listen(64)
        self._loop.add_reader(self._listener, self._take, self._listener)

    @staticmethod
    def _bound(port: int) -> socket.socket:
        made = socket.socket()
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("127.0.0.1", port))
        return made

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _take(self, listener: socket.socket) -> None:
        try:
            host, _ = listener.accept()
        except OSError:
            return
        host.setblocking(False)
        number, self.dials = self.dials, self.dials + 1
        self.spawn(self._serve(host, random.Random(f"{self.seed}-{number}")))
        self.progressed()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _serve(self, host: socket.socket, fate: random.Random) -> None:
        if self.faults.bad_gateway:
            with contextlib.closing(host), contextlib.suppress(OSError):
                await self._loop.sock_recv(host, _CHUNK_BYTES)
                await self._loop.sock_sendall(host, _BAD_GATEWAY)
            return
        relay = socket.socket()
        relay.setblocking(False)
        try:
            await self._loop.sock_connect(relay, ("127.0.0.1", self._target))
        except OSError:
            relay.close()
            _reset(host)
            return
        connection = _Connection(self, host, relay, fate)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)

    def count(self, direction: str, size: int) -> None:
        self.passed[direction] += size
        self.progressed()

    def progressed(self) -> None:
        with self._progress:
            self._progress.notify_all()

    async def transmit(self, direction: str, size: int) -> None:
        """Return when the wire, which all connections share, has taken ``size`` bytes."""
        if (rate := self.faults.bytes_per_s) is not None:
            await self._wires[direction].take(size / rate)


class _Wire:
    """One direction of a link with limited bandwidth, shared in order of the requests."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._busy_until = 0.0

    async def take(self, duration_s: float) -> None:
        async with self._turn:
            now = asyncio.get_running_loop().time()
            self._busy_until = max(now - _LATE_S, self._busy_until) + duration_s  # a timer that was late costs nothing
            if self._busy_until - now > 0.001:
                await asyncio.sleep(self._busy_until - now)


class _Connection:
    """One connection of the host and the one to the relay that goes with it."""

    def __init__(self, proxy: Proxy, host: socket.socket, relay: socket.socket, fate: random.Random) -> None:
        self._proxy, self._host, self._relay, self._fate = proxy, host, relay, fate
        self._loop = asyncio.get_running_loop()
        self._flowing = {UP: asyncio.Event(), DOWN: asyncio.Event()}
        for flowing in self._flowing.values():
            flowing.set()
        for end in (host, relay):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._over: asyncio.Future[str] = self._loop.create_future()  # how it is cut; "" if an end closed
        self._cut_due = False
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        pipes = [_Pipe(self._host, self._relay), _Pipe(self._relay, self._host)]
        spawn = self._proxy.spawn
        for direction, pipe in zip((UP, DOWN), pipes, strict=True):
            self._tasks += [spawn(self._read(direction, pipe)), spawn(self._write(direction, pipe))]
        self._tasks.append(spawn(self._wait_for_cut()))
        how = await self._over
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if not how:
            self._host.close()
            self._relay.close()
            return
        ends = [self._host, self._relay]
        self._fate.shuffle(ends)
        _close(ends[0], how)
        await asyncio.sleep(self._fate.random() * _HALF_OPEN_S)  # one end still believes in it
        _close(ends[1], self._fate.choice(("rst", "fin")))

    def freeze(self, directions: tuple[str, ...]) -> None:
        for direction in directions:
            self._flowing[direction].clear()

    def cut(self, how: str, *, count: bool = True) -> None:
        if not self._over.done():
            self._proxy.cuts[how] += count
            self._over.set_result(how)

    async def _wait_for_cut(self) -> None:
        while (limits := self._proxy.faults.cut_after_s) is None:  # noqa: ASYNC110 - another thread sets it
            await asyncio.sleep(_LOOK_FOR_FAULTS_S)
        await asyncio.sleep(self._fate.uniform(*limits))
        self._cut_due = True
        await asyncio.sleep(_LOOK_FOR_BYTES_S)
        self.cut(self._fate.choice(("rst", "fin")))

    async def _read(self, direction: str, pipe: _Pipe) -> None:
        while True:
            await pipe.room.wait()
            await self._flowing[direction].wait()
            try:
                data = await self._loop.sock_recv(pipe.source, _CHUNK_BYTES)
            except OSError:
                data = b""
            pipe.put(self._loop.time() + self._proxy.faults.delay_s, data)
            if not data:
                return

    async def _write(self, direction: str, pipe: _Pipe) -> None:
        while True:
            due, data = await pipe.get()
            if (wait_s := due - self._loop.time()) > 0:
                await asyncio.sleep(wait_s)
            step = _SLICE_BYTES if self._proxy.faults.bytes_per_s is not None else _CHUNK_BYTES
            for start in range(0, len(data), step):
                piece = data[start : start + step]
                await self._proxy.transmit(direction, len(piece))
                if not await self._send(direction, pipe.target, piece):
                    return
            if not data:
                # One direction's end ends the other too: websockets closes both within a round trip.
                await self._flowing[direction].wait()
                self._end()
                return

    async def _send(self, direction: str, target: socket.socket, piece: bytes) -> bool:
        await self._flowing[direction].wait()
        if self._cut_due:
            piece = piece[: self._fate.randrange(len(piece) + 1)]
        try:
            await self._loop.sock_sendall(target, piece)
        except OSError:
            self._end()
            return False
        self._proxy.count(direction, len(piece))
        if self._cut_due:
            self.cut(self._fate.choice(("rst", "fin")))
        return not self._cut_due

    def _end(self) -> None:
        if not self._over.done():
            self._over.set_result("")


class _Pipe:
    """What is on its way in one direction of a connection."""

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self.source, self.target = source, target
        self.room, self._filled = asyncio.Event(), asyncio.Event()
        self.room.set()
        self._queue: deque[tuple[float, bytes]] = deque()
        self._size = 0

    def put(self, due: float, data: bytes) -> None:
        self._queue.append((due, data))
        self._size += len(data)
        self._filled.set()
        if self._size >= _QUEUE_BYTES:
            self.room.clear()

    async def get(self) -> tuple[float, bytes]:
        await self._filled.wait()
        due, data = self._queue.popleft()
        self._size -= len(data)
        if not self._queue:
            self._filled.clear()
        if self._size < _QUEUE_BYTES:
            self.room.set()
        return due, data


def _close(end: socket.socket, how: str) -> None:
    if how == "rst":
        _reset(end)
        return
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_WR)
    end.close()


def _reset(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()
