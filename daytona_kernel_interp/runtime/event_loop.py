"""Background event loops: the only crossing between sync and async code.

One loop per process carries all sandboxes, tunnels and kernels (:func:`io_loop`). It runs no user code: async tools run
on loops of their own.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import os
import queue
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

_CANCEL_S = 30.0  # limit for the clean-up of a cancelled coroutine, e.g. interrupting its cell
_STOP_S = 5.0  # limit for all cancelled coroutines before the loop is closed


class DaemonThreads(concurrent.futures.Executor):
    """A pool of at most ``limit`` daemon threads, started on demand.

    ``ThreadPoolExecutor`` joins its threads at exit: one host tool that never returns would keep a finished program
    running forever.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._limit, self._name = limit, name
        self._work: queue.SimpleQueue[tuple[concurrent.futures.Future[Any], Callable[[], Any]] | None] = (
            queue.SimpleQueue()
        )
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0
        self._closed = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[T]:
        """Run ``fn`` in a thread of the pool.

        Raises:
            RuntimeError: After :meth:`shutdown`.
        """
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("this pool was shut down")
            if self._idle > 0:
                self._idle -= 1
            elif self._threads < self._limit:
                self._threads += 1
                threading.Thread(target=self._serve, name=self._name, daemon=True).start()
            self._work.put((future, functools.partial(fn, *args, **kwargs)))
        return future

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:
        """Accept no further work; threads end with their current job. Never waits, even if ``wait`` is true."""
        with self._lock:
            self._closed = True
            while cancel_futures and not self._work.empty():
                item = self._work.get()
                if item is not None:
                    item[0].cancel()
            for _ in range(self._threads):
                self._work.put(None)

    def _serve(self) -> None:
        while (item := self._work.get()) is not None:
            future, work = item
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:
                    future.set_exception(error)
            del item, future, work  # otherwise the last call's values live while this thread is idle
            with self._lock:
                self._idle += 1


class LoopThread:
    """An event loop in a daemon thread of its own."""

    def __init__(self, name: str) -> None:
        # A loop keeps the context in which it is created; an empty one keeps no values of the caller alive.
        self.loop = contextvars.Context().run(asyncio.new_event_loop)
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.wait(tasks, timeout=_STOP_S))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start ``coroutine`` on the loop; callable from any thread.

        It does not run in the caller's context: it may live as long as a session, and would keep the values of the
        caller's context variables alive, such as the program that holds the interpreter.
        """
        return contextvars.Context().run(asyncio.run_coroutine_threadsafe, coroutine, self.loop)

    @property
    def is_here(self) -> bool:
        """Return whether the caller runs on this thread."""
        return threading.current_thread() is self._thread

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run ``coroutine`` on the loop and wait for its result.

        When Ctrl-C interrupts the wait, the coroutine is cancelled and given time to clean up; a second Ctrl-C returns
        at once.
        """
        if self.is_here:
            coroutine.close()
            raise RuntimeError("a sync call from the event loop's own thread would wait for itself")
        ended = threading.Event()
        future = self.submit(_notify_after(coroutine, ended))
        try:
            return future.result()
        except BaseException:
            if not future.done():
                future.cancel()
                ended.wait(_CANCEL_S)
            raise

    async def arun(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Await ``coroutine``, run on this loop, from another loop. Cancelling waits for its clean-up."""
        ended = threading.Event()
        future = self.submit(_notify_after(coroutine, ended))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            await asyncio.get_running_loop().run_in_executor(None, ended.wait, _CANCEL_S)
            raise

    def stop(self, *, wait: bool = True) -> None:
        """Stop the loop: cancel its tasks; its thread then closes it and ends."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        if wait and not self.is_here:
            self._thread.join(2 * _STOP_S)


async def _notify_after(coroutine: Coroutine[Any, Any, T], ended: threading.Event) -> T:
    try:
        return await coroutine
    finally:
        ended.set()


_io_loop: LoopThread | None = None
_lock = threading.RLock()  # the garbage collector may close an abandoned interpreter here, which calls io_loop()


def io_loop() -> LoopThread:
    """Return the process's I/O loop, started at its first use."""
    global _io_loop
    with _lock:
        if _io_loop is None:
            _io_loop = LoopThread("daytona-kernel-io")
        return _io_loop


def _forget_after_fork() -> None:
    # A forked child has the object but not the thread, and must not use its parent's sandboxes.
    global _io_loop, _lock
    _io_loop, _lock = None, threading.RLock()


os.register_at_fork(after_in_child=_forget_after_fork)
