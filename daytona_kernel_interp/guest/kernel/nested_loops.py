"""``asyncio.run(main())`` and ``loop.run_until_complete(main())`` in a cell, as scripts call them.

A cell runs inside the kernel's event loop, where asyncio refuses to run another one. The functions installed here leave
the kernel's loop for the time of the call: the coroutine runs in a loop of its own, as in a script. The kernel's loop
waits meanwhile, as it does for any cell without ``await``. Tools work, because their replies come on another thread,
and an interrupt ends the call with KeyboardInterrupt.

A future or task of the kernel's loop cannot run in another loop; the error says to await it. In other threads, and
within a loop that code has started itself, asyncio's own functions apply.
"""

from __future__ import annotations

import asyncio
import functools
import signal
import threading
from typing import TYPE_CHECKING, Any

from .ipykernel_compat import outside_of_loop

if TYPE_CHECKING:
    from collections.abc import Callable

_ADVICE = "use `await main()`: a task or future of the running event loop cannot be waited for in another way"


def allow_nested_loops(kernel_loop: asyncio.AbstractEventLoop) -> None:
    """Let code that ``kernel_loop`` runs call the functions that run an event loop."""

    def outside(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if not _is_running(kernel_loop):
                return function(*args, **kwargs)
            return _outside(kernel_loop, function, *args, **kwargs)

        return call

    run = asyncio.run
    asyncio.run = asyncio.runners.run = outside(run)
    if hasattr(asyncio, "Runner"):
        asyncio.Runner.run = outside(asyncio.Runner.run)  # type: ignore[method-assign]
    until_complete = asyncio.BaseEventLoop.run_until_complete

    @functools.wraps(until_complete)
    def run_until_complete(self: asyncio.BaseEventLoop, future: Any) -> Any:
        if not _is_running(kernel_loop):
            return until_complete(self, future)
        if self is not kernel_loop:
            return _outside(kernel_loop, until_complete, self, future)
        if not asyncio.iscoroutine(future):
            raise RuntimeError(f"This event loop is already running: {_ADVICE}")
        return _outside(kernel_loop, run, future)

    asyncio.BaseEventLoop.run_until_complete = run_until_complete  # type: ignore[method-assign]


def _is_running(loop: asyncio.AbstractEventLoop) -> bool:
    if threading.current_thread() is not threading.main_thread():
        return False
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _outside(loop: asyncio.AbstractEventLoop, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    # An async cell has a handler that cancels a future of the kernel's loop, which now waits.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with outside_of_loop(loop):
            return function(*args, **kwargs)
    finally:
        asyncio.set_event_loop(loop)  # asyncio.run leaves none
        signal.signal(signal.SIGINT, handler)
