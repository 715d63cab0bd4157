"""How long a relay waits for a host, on a clock that the test moves."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from daytona_kernel_interp.guest.relay.server import Relay

LIFETIME_S = 0.2  # looks are 10 ms apart
LOOK_S = LIFETIME_S / 20


class Clock:
    """A loop's clock, which tells when it was read."""

    def __init__(self) -> None:
        self.now, self.read = 1000.0, asyncio.Event()

    def time(self) -> float:
        self.read.set()
        return self.now


@pytest.mark.parametrize("paused_s", [0.0, 100_000.0])
async def test_time_in_which_it_stood_still_does_not_count(paused_s: float) -> None:
    """A paused sandbox goes on after a day with its whole lifetime left; one that runs ends when that is over."""
    kernels: Any = SimpleNamespace(on_exit=None)
    relay = Relay("secret", kernels, LIFETIME_S)
    clock: Any = Clock()
    relay._loop = clock
    relay.host_seen()
    waiting = asyncio.ensure_future(relay.wait_end())

    async def look() -> bool:
        """Return whether it waits on after its next look."""
        clock.read.clear()
        read = asyncio.ensure_future(clock.read.wait())
        await asyncio.wait({waiting, read}, return_when=asyncio.FIRST_COMPLETED)
        read.cancel()
        return not waiting.done()

    assert await look()
    clock.now += paused_s
    assert await look()
    assert await look()
    looks = 0
    while await look():
        clock.now += LOOK_S
        looks += 1
    assert 15 < looks < 25
