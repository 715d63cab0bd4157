"""The clock of the emulator's timers: real time plus an offset that a test sets."""

from __future__ import annotations

import asyncio
import datetime
import time


class Clock:
    """Wall-clock time that can be moved forward. All but :meth:`now` and :meth:`stamp` belong to the event loop."""

    def __init__(self) -> None:
        self._base_s = time.time() - time.monotonic()
        self._waiting: set[asyncio.Future[None]] = set()

    def now(self) -> float:
        """Return seconds since the epoch."""
        return self._base_s + time.monotonic()

    def advance(self, seconds: float) -> None:
        """Move the clock forward and wake all sleeping tasks.

        Raises:
            ValueError: If ``seconds`` is negative.
        """
        if seconds < 0:
            raise ValueError(f"a clock moves forward only, not by {seconds} s")
        self._base_s += seconds
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def sleep(self, seconds: float) -> None:
        """Wait until this clock has advanced by ``seconds``."""
        await self.sleep_until(self.now() + seconds)

    async def sleep_until(self, deadline: float) -> None:
        """Wait until this clock reaches ``deadline``."""
        while (left_s := deadline - self.now()) > 0:
            await self.moved(left_s)

    async def moved(self, timeout_s: float | None = None) -> None:
        """Wait until the clock is moved, or for ``timeout_s`` of real time."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            await asyncio.wait((waiter,), timeout=timeout_s)
        finally:
            self._waiting.discard(waiter)


def stamp(now: float) -> str:
    """Return a time in the service's format: ISO 8601 in UTC, with milliseconds."""
    moment = datetime.datetime.fromtimestamp(now, datetime.timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
