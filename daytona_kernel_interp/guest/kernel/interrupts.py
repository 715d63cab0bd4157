"""Interrupts of cells that wait in a top-level ``await``."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def cancelled_by_sigint(future: asyncio.Future[Any]) -> Iterator[None]:
    """Let SIGINT cancel ``future`` while this is open.

    ipykernel schedules the cancellation from the signal handler without waking the event loop, so a top-level await
    would sleep on until something else wakes it (ipython/ipykernel#1239).
    """
    loop = asyncio.get_running_loop()
    previous = signal.signal(signal.SIGINT, lambda *_: loop.call_soon_threadsafe(future.cancel))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
