"""Tests of ``runtime.event_loop``."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import signal
import threading
import weakref
from typing import TYPE_CHECKING

import pytest

from daytona_kernel_interp.runtime import event_loop as loop_module
from daytona_kernel_interp.runtime.event_loop import DaemonThreads, LoopThread, io_loop

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    """Provide a loop for one test."""
    thread = LoopThread("test-loop")
    yield thread
    thread.stop()


async def name_of_thread() -> str:
    return threading.current_thread().name


async def fail() -> None:
    raise KeyError("k")


class Tidy:
    """A coroutine that waits forever and records its clean-up after a cancellation."""

    def __init__(self) -> None:
        self.started, self.cleaned_up = threading.Event(), False
        self.may_end = threading.Event()

    async def wait(self) -> None:
        try:
            self.started.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.to_thread(self.may_end.wait, 10)
            self.cleaned_up = True


def test_a_coroutine_runs_in_the_loops_thread(thread: LoopThread) -> None:
    """``run`` returns the result of a coroutine that ran in the loop's thread."""
    assert thread.run(name_of_thread()) == "test-loop"


def test_an_exception_reaches_the_caller(thread: LoopThread) -> None:
    """``run`` raises the exception of the coroutine."""
    with pytest.raises(KeyError, match="k"):
        thread.run(fail())


def test_submit_does_not_wait(thread: LoopThread) -> None:
    """``submit`` returns a future at once; it can be waited for and cancelled."""
    tidy = Tidy()
    future = thread.submit(tidy.wait())
    assert tidy.started.wait(10)
    assert not future.done()
    tidy.may_end.set()
    future.cancel()


def test_waiting_for_oneself_is_refused(thread: LoopThread) -> None:
    """A sync call from the loop's thread raises an error instead of a deadlock."""

    async def call_back() -> str:
        return thread.run(name_of_thread())

    with pytest.raises(RuntimeError, match="wait for itself"):
        thread.run(call_back())


def test_ctrl_c_waits_for_the_clean_up(thread: LoopThread) -> None:
    """After Ctrl-C, the coroutine is cancelled and has cleaned up before the caller continues."""
    tidy = Tidy()
    main = threading.get_ident()

    async def press_ctrl_c() -> None:
        await asyncio.to_thread(tidy.started.wait, 10)
        signal.pthread_kill(main, signal.SIGINT)
        tidy.may_end.set()

    thread.submit(press_ctrl_c())
    with pytest.raises(KeyboardInterrupt):
        thread.run(tidy.wait())
    assert tidy.cleaned_up


async def test_the_callers_loop_goes_on(thread: LoopThread) -> None:
    """``arun`` waits without blocking the loop that it is called on."""
    gate = asyncio.Event()
    here = asyncio.get_running_loop()

    async def open_gate() -> str:
        here.call_soon_threadsafe(gate.set)
        return threading.current_thread().name

    name, opened = await asyncio.gather(thread.arun(open_gate()), gate.wait())
    assert (name, opened) == ("test-loop", True)


async def test_an_exception_reaches_the_awaiting_caller(thread: LoopThread) -> None:
    """``arun`` raises the exception of the coroutine."""
    with pytest.raises(KeyError, match="k"):
        await thread.arun(fail())


async def test_cancelling_waits_for_the_clean_up(thread: LoopThread) -> None:
    """A cancelled ``arun`` ends after its coroutine has cleaned up."""
    tidy = Tidy()
    task = asyncio.create_task(thread.arun(tidy.wait()))
    await asyncio.to_thread(tidy.started.wait, 10)
    task.cancel()
    await asyncio.wait([task], timeout=0.05)
    assert not task.done()
    tidy.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert tidy.cleaned_up


async def test_cancelling_what_has_not_begun_does_not_hang(thread: LoopThread) -> None:
    """A call that is cancelled before the busy loop started it ends as soon as the loop is free."""
    busy = threading.Event()
    thread.loop.call_soon_threadsafe(busy.wait, 10)
    task = asyncio.create_task(thread.arun(asyncio.sleep(0)))
    await asyncio.sleep(0)
    task.cancel()
    busy.set()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 10)


def test_stop_ends_the_thread() -> None:
    """After ``stop`` the thread is gone and its loop closed."""
    thread = LoopThread("test-stop")
    thread.stop()
    assert "test-stop" not in {other.name for other in threading.enumerate()}
    assert thread.loop.is_closed()


def test_the_process_has_one_io_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every caller gets the same loop, started at its first use."""
    monkeypatch.setattr(loop_module, "_io_loop", None)
    first = io_loop()
    assert io_loop() is first
    assert first.run(name_of_thread()) == "daytona-kernel-io"
    first.stop()


def test_a_forked_child_starts_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child has its parent's object without the thread, so it drops it, with the lock that a thread may hold."""
    monkeypatch.setattr(loop_module, "_io_loop", None)
    monkeypatch.setattr(loop_module, "_lock", threading.Lock())
    parents = io_loop()
    loop_module._lock.acquire()
    loop_module._forget_after_fork()
    own = io_loop()
    assert own is not parents
    own.stop()
    parents.stop()


# --- DaemonThreads ----------------------------------------------------------------------------------


@pytest.fixture
def pool() -> Iterator[DaemonThreads]:
    """A pool of at most two threads."""
    pool = DaemonThreads(2, "test-pool")
    yield pool
    pool.shutdown()


def test_a_pool_runs_side_by_side_up_to_its_limit(pool: DaemonThreads) -> None:
    """Two calls wait for each other and meet; further ones queue, and all of them end."""
    barrier = threading.Barrier(2, timeout=10)

    def meet() -> int:
        barrier.wait()
        return threading.get_ident()

    idents = {future.result(10) for future in [pool.submit(meet) for _ in range(10)]}
    assert len(idents) == 2


def test_an_idle_thread_is_used_again(pool: DaemonThreads) -> None:
    """Sequential calls share a thread, and a thread does not delay the end of the process."""
    threads = {pool.submit(threading.current_thread).result(10) for _ in range(20)}
    assert len(threads) <= 2
    assert all(thread.daemon and thread.name == "test-pool" for thread in threads)


@pytest.mark.parametrize("error", [KeyError("k"), SystemExit(3)])
def test_what_a_call_raises_is_in_its_future(pool: DaemonThreads, error: BaseException) -> None:
    """Any BaseException is set on the future; the thread continues."""

    def fail() -> None:
        raise error

    assert pool.submit(fail).exception(10) is error
    assert pool.submit(len, "abc").result(10) == 3


def test_a_pool_that_was_shut_down_takes_no_work(pool: DaemonThreads) -> None:
    """After one or two calls of ``shutdown``, no work is accepted."""
    pool.shutdown()
    pool.shutdown()
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(len, "abc")


def test_a_loop_keeps_nothing_of_its_callers_context() -> None:
    """Values of a caller's context variables can be collected while its tasks still run."""

    class Held:
        pass

    variable: contextvars.ContextVar[Held] = contextvars.ContextVar("held")
    started, threads = threading.Event(), []

    async def stay() -> None:
        started.set()
        await asyncio.Event().wait()

    async def begin() -> asyncio.Task[None]:
        return asyncio.ensure_future(stay())

    def call() -> asyncio.Task[None]:
        variable.set(Held())
        threads.append(LoopThread("test-loop"))  # a loop keeps the context of its creation
        task = threads[0].run(begin())
        started.wait(10)
        return task

    context = contextvars.Context()
    task = context.run(call)
    held = weakref.ref(context[variable])
    del context
    try:
        gc.collect()
        assert held() is None
        assert not task.done()
    finally:
        threads[0].stop()
