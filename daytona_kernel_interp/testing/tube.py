"""Two connections joined byte by byte, as in the preview proxy after an upgrade."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from .faults import Fault

_HIGH_WATER = 1 << 20
_SLICE_S = 0.02  # a rate-limited stream is forwarded in pieces of this length


class Tube:
    """Both directions of a joined connection. ``closed`` is done after both connections have ended."""

    def __init__(self, client: asyncio.Transport, server: asyncio.Transport, shape: Fault | None) -> None:
        loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = loop.create_future()
        self._open = 2
        self._before = client.get_protocol()
        self.client, self.server = End(self, client), End(self, server)
        self.client.peer, self.server.peer = self.server, self.client
        self._timer = None
        if shape is not None:
            self.client.shaper = Shaper(shape, self, server, counts=False)
            self.server.shaper = Shaper(shape, self, client, counts=True)
            if shape.cut_after_s is not None:
                self._timer = loop.call_later(shape.cut_after_s, self.abort)
        for end in (self.client, self.server):
            end.transport.set_protocol(end)
            end.transport.set_write_buffer_limits(_HIGH_WATER)
            end.transport.resume_reading()

    def abort(self) -> None:
        """Abort both connections and discard unsent bytes."""
        self.client.transport.abort()
        self.server.transport.abort()

    def ended(self, end: End, error: Exception | None) -> None:
        """Record that one connection has ended, and close the other."""
        self._open -= 1
        if end is self.client:
            self._before.connection_lost(error)  # the web server's transport, which waits for it
        if end.peer.shaper is None and end.shaper is None and error is None:
            end.peer.transport.close()
        elif error is not None:
            end.peer.transport.abort()
        elif end.shaper is not None:
            end.shaper.end()
        if self._open == 0:
            if self._timer is not None:
                self._timer.cancel()
            for known in (self.client, self.server):
                if known.shaper is not None:
                    known.shaper.stop()
            if not self.closed.done():
                self.closed.set_result(None)


class End(asyncio.Protocol):
    """The protocol of one connection of a tube."""

    peer: End
    shaper: Shaper | None = None

    def __init__(self, tube: Tube, transport: asyncio.Transport) -> None:
        self.tube, self.transport = tube, transport
        self._write: Callable[[bytes], None] | None = None

    def data_received(self, data: bytes) -> None:
        """Forward bytes to the other connection."""
        if self.shaper is not None:
            self.shaper.feed(data)
        else:
            self.peer.transport.write(data)

    def pause_writing(self) -> None:
        """Pause reading from the other connection while this one cannot send."""
        if not self.peer.transport.is_closing():
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        """Resume reading from the other connection."""
        if not self.peer.transport.is_closing():
            self.peer.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the other connection."""
        self.tube.ended(self, exc)


class Shaper:
    """One direction of a tube with a fault: delayed, limited, collected, stalled or cut."""

    def __init__(self, shape: Fault, tube: Tube, out: asyncio.Transport, *, counts: bool) -> None:
        self._shape, self._tube, self._out = shape, tube, out
        self._counts = counts  # limits in bytes apply to the direction from the sandbox
        self._passed = 0
        self._queue: asyncio.Queue[tuple[float, bytes] | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run())

    def feed(self, data: bytes) -> None:
        """Accept received bytes."""
        self._queue.put_nowait((self._loop.time(), data))

    def end(self) -> None:
        """Close the output after all bytes were forwarded."""
        self._queue.put_nowait(None)

    def stop(self) -> None:
        """Discard bytes that were not forwarded."""
        self._task.cancel()

    async def _run(self) -> None:
        while (item := await self._queue.get()) is not None:
            came_at, data = item
            wait_s = came_at + self._shape.delay_s + self._shape.buffer_s - self._loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            over = False
            while self._shape.buffer_s and not self._queue.empty() and not over:
                more = self._queue.get_nowait()
                data, over = (data, True) if more is None else (data + more[1], False)
            if not await self._pass(data):
                return
            if over:
                break
        self._out.close()

    async def _pass(self, data: bytes) -> bool:
        shape = self._shape
        if self._counts and shape.stall_after_bytes is not None:
            data = data[: max(shape.stall_after_bytes - self._passed, 0)]
        cut = shape.cut_after_bytes if self._counts else None
        last = cut is not None and self._passed + len(data) >= cut
        if cut is not None:
            data = data[: cut - self._passed]
        step = len(data) if shape.bytes_per_s is None else max(int(shape.bytes_per_s * _SLICE_S), 1)
        for start in range(0, len(data), max(step, 1)):
            self._out.write(data[start : start + step])
            if shape.bytes_per_s is not None:
                await asyncio.sleep(_SLICE_S)
        self._passed += len(data)
        if last:
            # close() flushes first: exactly this many bytes arrive.
            self._tube.client.transport.close()
            self._tube.server.transport.abort()
        return not last
