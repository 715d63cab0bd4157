"""What this process has open: sessions, starts under way, ends under way. All is closed when the process ends.

At exit, and on SIGTERM where nobody else handles it. SIGINT arrives as KeyboardInterrupt and closes what it interrupts;
one more of them, from somebody in a hurry, does not keep the end of the process from that.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import functools
import logging
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

log = logging.getLogger(__name__)

_CLOSE_S = 15.0  # for all of them together


class Closable(Protocol):
    """Something open."""

    async def aclose(self) -> None:
        """Close it. Calling it again does nothing."""


_open: dict[Closable, asyncio.AbstractEventLoop] = {}
_process_ending = threading.Event()
_starting: dict[asyncio.Task[Any], asyncio.AbstractEventLoop] = {}
_finishing: dict[asyncio.Task[Any], asyncio.AbstractEventLoop] = {}
_ends: dict[object, asyncio.Task[Any]] = {}  # under way because of close_all()


def register(session: Closable) -> None:
    """Have it closed when the process ends. Call it on the session's loop."""
    _at_exit()
    _open[session] = asyncio.get_running_loop()


def unregister(session: Closable) -> None:
    """It is nobody's any more, or another process's."""
    _open.pop(session, None)


@contextlib.contextmanager
def cancel_on_exit() -> Iterator[None]:
    """While this is open, the current task is cancelled when the process ends, and given time to clean up."""
    _at_exit()
    task = asyncio.current_task()
    assert task is not None
    _starting[task] = asyncio.get_running_loop()
    try:
        yield
    finally:
        _starting.pop(task, None)


async def run_to_completion(work: Coroutine[Any, Any, None]) -> None:
    """Do what must be done to the end, such as deleting a sandbox: a caller that is cancelled only stops waiting.

    The process waits for it before it ends.
    """
    _at_exit()
    task = asyncio.ensure_future(work)
    _finishing[task] = asyncio.get_running_loop()
    task.add_done_callback(_finishing.pop)
    await asyncio.shield(task)


def process_ending() -> bool:
    """Whether the interpreter is shutting down; its loops still run, but threads and executors are gone."""
    return _process_ending.is_set()


def close_all() -> None:
    """Close everything, side by side; returns after some seconds at the latest. Call it from no event loop.

    Of two who press Ctrl-C meanwhile the first is told what goes on, and the second leaves.

    Raises:
        KeyboardInterrupt: At the second.
    """
    deadline, warned = time.monotonic() + _CLOSE_S, False
    while True:
        try:
            # Begun anew where Ctrl-C came in the middle; what was begun before is waited for, and not done twice.
            concurrent.futures.wait(_begin_closing_all(), max(0.0, deadline - time.monotonic()))
            break
        except KeyboardInterrupt:
            if warned:
                raise
            warned = True
            log.warning("sandboxes are being deleted; Ctrl-C again leaves them, to end by themselves")


def _begin_closing_all() -> list[concurrent.futures.Future[Any]]:
    futures: list[concurrent.futures.Future[Any]] = []
    for task, loop in list(_starting.items()):
        _submit(_run_once(task, functools.partial(_cancelled, task)), loop, futures)
    for session, loop in list(_open.items()):
        _submit(_run_once(session, functools.partial(_closed, session)), loop, futures)
    for task, loop in list(_finishing.items()):
        _submit(_over(task), loop, futures)
    return futures


def _submit(
    work: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop, futures: list[concurrent.futures.Future[Any]]
) -> None:
    try:
        futures.append(asyncio.run_coroutine_threadsafe(work, loop))
    except RuntimeError:  # the loop is closed
        work.close()


def install_sigterm_handler() -> None:
    """Close everything on SIGTERM as well, if this is the main thread and the signal would just end the process."""
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
    close_all()
    os.kill(os.getpid(), number)


async def _run_once(what: object, end: Callable[[], Coroutine[Any, Any, None]]) -> None:
    task = _ends.get(what)
    if task is None:
        task = _ends[what] = asyncio.ensure_future(end())
        task.add_done_callback(lambda _: _ends.pop(what, None))
    await asyncio.wait({task})


async def _closed(session: Closable) -> None:
    with contextlib.suppress(Exception):
        await asyncio.wait_for(session.aclose(), _CLOSE_S)
    _open.pop(session, None)


async def _cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait({task}, timeout=_CLOSE_S)


async def _over(task: asyncio.Task[Any]) -> None:
    await asyncio.wait({task}, timeout=_CLOSE_S)


@functools.cache
def _at_exit() -> None:
    atexit.register(_end)


def _end() -> None:
    _process_ending.set()
    close_all()


def _forget_after_fork() -> None:
    _open.clear()  # they are the parent's
    _starting.clear()
    _finishing.clear()
    _ends.clear()


os.register_at_fork(after_in_child=_forget_after_fork)
