"""Registry of the open sessions, pending starts and pending shutdowns of this process, closed at its end.

Closing happens at exit, and on SIGTERM unless the program handles that signal. SIGINT arrives as KeyboardInterrupt and
closes what it interrupts; a further SIGINT during the clean-up at exit does not stop the clean-up.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import logging
import os
import queue
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

log = logging.getLogger(__name__)

_CLOSE_S = 15.0  # limit for all of them together


class Closable(Protocol):
    """A resource that is closed asynchronously."""

    async def aclose(self) -> None:
        """Close the resource. A second call does nothing."""


_process_ending = threading.Event()
# What the end of the process ends: how each resource or task is ended, and on which loop.
_open: dict[object, tuple[Callable[[], Coroutine[Any, Any, object]], asyncio.AbstractEventLoop]] = {}
_left: dict[object, str] = {}  # what is left behind if such a task does not end
_ends: dict[object, asyncio.Task[Any]] = {}  # those that close_all() has begun


def register(session: Closable) -> None:
    """Register a resource to be closed when the process ends. Call this on the resource's loop."""
    _track(session, functools.partial(_close, session))


def unregister(session: object) -> None:
    """Stop tracking a resource that was closed or handed to another process."""
    _open.pop(session, None)


@contextlib.contextmanager
def cancel_on_exit() -> Iterator[None]:
    """Cancel the current task if the process ends inside this context, and give it time to clean up."""
    task = asyncio.current_task()
    assert task is not None
    _track(task, functools.partial(_cancel, task))
    try:
        yield
    finally:
        unregister(task)


async def run_to_completion(work: Coroutine[Any, Any, None]) -> None:
    """Run an operation that must complete, such as deleting a sandbox; cancelling the caller only ends its wait.

    The process waits for the operation before it exits.
    """
    await asyncio.shield(begin(work))


def begin(work: Coroutine[Any, Any, None], left: str = "") -> asyncio.Task[None]:
    """Start an operation that must complete. The process waits for it before it exits, and names what is ``left``."""
    task = asyncio.ensure_future(work)
    _track(task, functools.partial(asyncio.wait, {task}, timeout=_CLOSE_S))
    task.add_done_callback(unregister)
    if left:
        _left[task] = left
        task.add_done_callback(_left.pop)
    return task


def _track(what: object, end: Callable[[], Coroutine[Any, Any, object]]) -> None:
    _at_exit()
    _open[what] = end, asyncio.get_running_loop()


def process_ending() -> bool:
    """Return whether the interpreter is shutting down: loops still run, but no thread can be started."""
    return _process_ending.is_set()


def close_all() -> None:
    """Close all registered resources concurrently; return after a bounded time. Do not call this on an event loop.

    The first Ctrl-C meanwhile prints what is going on; the second ends the wait.

    Raises:
        KeyboardInterrupt: On the second Ctrl-C.
    """
    deadline, warned = time.monotonic() + _CLOSE_S, False
    while True:
        try:
            # Repeated if Ctrl-C interrupted it. A closing that was begun before is waited for, not begun twice.
            while _close_open(deadline):  # a closing may have begun another, which goes on without it
                pass
            break
        except KeyboardInterrupt:
            if warned:
                raise
            warned = True
            log.warning("deleting sandboxes; press Ctrl-C again to leave them to their own time limits")
    if left := ", ".join(sorted(_left.values())):
        log.warning("the process ends before this is deleted: %s", left)


def _close_open(deadline: float) -> bool:
    """Close what is open now; return whether that was something, and it was closed before ``deadline``.

    Ctrl-C may come at any instruction. A Condition, as in concurrent.futures, could stay locked then, and the loop
    would wait for it for ever; a SimpleQueue cannot.
    """
    ended: queue.SimpleQueue[None] = queue.SimpleQueue()
    begun = [_submit(_run_once(what, end, ended), loop) for what, (end, loop) in list(_open.items())].count(True)
    try:
        for _ in range(begun):
            ended.get(timeout=max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        return False
    return begun > 0


def _submit(work: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> bool:
    try:
        asyncio.run_coroutine_threadsafe(work, loop)
    except RuntimeError:  # the loop was closed meanwhile
        work.close()
        return False
    return True


def install_sigterm_handler() -> None:
    """Close all resources on SIGTERM too, if this is the main thread and the signal has its default action."""
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second SIGTERM ends the process at once
    close_all()
    os.kill(os.getpid(), number)


async def _run_once(
    what: object, end: Callable[[], Coroutine[Any, Any, object]], ended: queue.SimpleQueue[None]
) -> None:
    task = _ends.get(what)
    if task is None:
        task = _ends[what] = asyncio.ensure_future(end())
        task.add_done_callback(lambda _: _ends.pop(what, None))
    await asyncio.wait({task})
    ended.put(None)


async def _close(session: Closable) -> None:
    with contextlib.suppress(Exception):
        await asyncio.wait_for(session.aclose(), _CLOSE_S)
    unregister(session)


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait({task}, timeout=_CLOSE_S)


@functools.cache
def _at_exit() -> None:
    atexit.register(_end)


def _end() -> None:
    _process_ending.set()
    close_all()


def _forget_after_fork() -> None:
    _open.clear()  # the resources belong to the parent
    _left.clear()
    _ends.clear()


os.register_at_fork(after_in_child=_forget_after_fork)
