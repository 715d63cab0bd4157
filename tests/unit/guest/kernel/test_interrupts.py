"""SIGINT and a cell that waits in a top-level ``await``."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from daytona_kernel_interp.guest.kernel.interrupts import cancelled_by_sigint

pytestmark = pytest.mark.python


async def test_sigint_wakes_and_cancels_a_future_that_waits() -> None:
    """The event loop sleeps without a deadline, and the signal's handler wakes it."""
    before = signal.getsignal(signal.SIGINT)
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    with cancelled_by_sigint(future):
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(asyncio.CancelledError):
            await future
    timer.join()
    assert signal.getsignal(signal.SIGINT) is before


async def test_a_handler_of_the_code_is_put_back() -> None:
    """The handler that was there before is there afterwards, also when the cell fails."""
    calls: list[int] = []
    before = signal.signal(signal.SIGINT, lambda *_: calls.append(1))
    try:
        with pytest.raises(ValueError, match="the cell"), cancelled_by_sigint(asyncio.Future()):
            raise ValueError("the cell")
        os.kill(os.getpid(), signal.SIGINT)
        assert calls == [1]
    finally:
        signal.signal(signal.SIGINT, before)
