"""Tests of ``tools.tool_loop``: which event loop an async tool gets, and what happens if it does not answer."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from daytona_kernel_interp.codec import values
from daytona_kernel_interp.tools.binding import ToolRunner, call
from daytona_kernel_interp.tools.tool_loop import LoopChoice, ToolLoop, check_async_tools
from daytona_kernel_interp.wire.comm import ToolFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.python


@pytest.fixture
def other_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that runs in another thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def in_thread(work: Callable[[], Any]) -> Any:
    """Return what ``work`` returns in a thread without a loop."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join()
    return results[0]


@pytest.mark.parametrize("option", ["auto", "own"])
def test_the_choices(option: str) -> None:
    """Both names and a loop are accepted."""
    check_async_tools(option)
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        check_async_tools(loop)


@pytest.mark.parametrize(
    ("option", "error"), [("Auto", ValueError), ("", ValueError), (None, TypeError), (5, TypeError)]
)
def test_another_choice_is_refused(option: Any, error: type[Exception]) -> None:
    """The text names the choices."""
    with pytest.raises(error, match="async_tools must be 'auto', 'own' or an event loop, not "):
        check_async_tools(option)


async def test_auto_is_the_loop_of_the_caller_if_it_is_free() -> None:
    """Else the interpreter's own: the caller's loop waits for the cell."""
    here = asyncio.get_running_loop()
    choice = LoopChoice("auto")
    assert choice.for_cell(awaited=True) == ToolLoop(here)
    assert choice.for_cell(awaited=False) is None


async def test_auto_is_the_last_loop_for_a_thread() -> None:
    """As under ``dspy.asyncify`` and ``asyncio.to_thread``; that loop is free."""
    choice = LoopChoice("auto")
    assert in_thread(lambda: choice.for_cell(awaited=False)) == ToolLoop(asyncio.get_running_loop())


def test_auto_without_a_loop_is_the_own_one() -> None:
    """Also after the last loop has ended, or was collected."""
    choice = LoopChoice("auto")
    assert choice.for_cell(awaited=False) is None

    async def use() -> None:
        choice.note_use()

    asyncio.run(use())
    assert choice.for_cell(awaited=False) is None
    gc.collect()
    assert choice.for_cell(awaited=False) is None


async def test_own_is_never_another() -> None:
    """Whoever calls."""
    choice = LoopChoice("own")
    assert choice.for_cell(awaited=True) is None
    assert in_thread(lambda: choice.for_cell(awaited=False)) is None


async def test_a_given_loop_is_required(other_loop: asyncio.AbstractEventLoop) -> None:
    """It is known to be blocked where the call itself blocks it."""
    assert LoopChoice(other_loop).for_cell(awaited=False) == ToolLoop(other_loop, is_required=True)
    here = asyncio.get_running_loop()
    assert LoopChoice(here).for_cell(awaited=True) == ToolLoop(here, is_required=True)
    assert LoopChoice(here).for_cell(awaited=False) == ToolLoop(here, is_required=True, is_blocked=True)


# --- calls ------------------------------------------------------------------------------------------


async def where() -> int:
    """Return the thread in which the tool runs."""
    await asyncio.sleep(0)
    return threading.get_ident()


def run(tool_loop: ToolLoop | None, calls: int = 1) -> tuple[list[Any], float]:
    """Run calls of ``where`` in one cell, and return their results and the seconds that they took."""
    runner = ToolRunner(lambda name, arguments: runner.wait_for(call(where, arguments)), None)
    runner.begin_cell({"where": where}, contextvars.copy_context(), tool_loop)

    async def make() -> list[Any]:
        replies = [await runner.run("where", values.dumps([[], {}])) for _ in range(calls)]
        found = [(reply.op, values.loads(reply.buffers)) for reply in replies]
        return [ToolFailure.from_value(value) if op == "error" else value for op, value in found]

    began = time.monotonic()
    try:
        return asyncio.run(make()), time.monotonic() - began
    finally:
        runner.close()


@contextlib.contextmanager
def blocked(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Block a loop, as a synchronous call in one of its tasks does."""
    entered, leave = threading.Event(), threading.Event()

    def block() -> None:
        entered.set()
        leave.wait(30)

    loop.call_soon_threadsafe(block)
    assert entered.wait(10)
    try:
        yield
    finally:
        leave.set()


def thread_of(loop: asyncio.AbstractEventLoop) -> int:
    async def ident() -> int:
        return threading.get_ident()

    return asyncio.run_coroutine_threadsafe(ident(), loop).result(10)


@pytest.mark.parametrize("is_required", [True, False])
def test_a_tool_runs_on_its_loop(other_loop: asyncio.AbstractEventLoop, is_required: bool) -> None:
    """Whether it is required or preferred."""
    results, _ = run(ToolLoop(other_loop, is_required=is_required), calls=3)
    assert results == [thread_of(other_loop)] * 3


def test_a_blocked_loop_is_left_for_the_own_one(other_loop: asyncio.AbstractEventLoop) -> None:
    """After half a second, once in a cell; the tool runs once."""
    theirs = thread_of(other_loop)
    with blocked(other_loop):
        results, took_s = run(ToolLoop(other_loop), calls=3)
    assert len(set(results)) == 1
    assert theirs not in results
    assert took_s < 5
    assert thread_of(other_loop) == theirs  # it goes on


def test_a_required_loop_that_is_blocked_is_an_error(other_loop: asyncio.AbstractEventLoop) -> None:
    """The sentence says what to call instead."""
    with blocked(other_loop):
        (failure,), took_s = run(ToolLoop(other_loop, is_required=True))
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), other_loop).result(30)  # it handles what was given up
    assert failure.type == "RuntimeError"
    assert failure.message.endswith(
        "use `await interpreter.aexecute(...)`, `await rlm.acall(...)` or `await dspy.asyncify(rlm)(...)`"
    )
    assert took_s < 5


def test_a_loop_that_waits_for_the_cell_is_an_error_at_once(other_loop: asyncio.AbstractEventLoop) -> None:
    """Nothing is tried."""
    (failure,), _ = run(ToolLoop(other_loop, is_required=True, is_blocked=True))
    assert "is blocked, possibly because it waits for this cell" in failure.message


@pytest.mark.parametrize("closed", [True, False])
def test_a_required_loop_that_does_not_run_is_an_error(closed: bool) -> None:
    """Closed, or never started."""
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        if closed:
            loop.close()
        (failure,), _ = run(ToolLoop(loop, is_required=True))
    assert failure.message == "the event loop of this async tool, async_tools=, does not run"


def test_a_preferred_loop_that_does_not_run_is_left() -> None:
    """The tool runs on the own loop at once."""
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        results, _ = run(ToolLoop(loop))
    assert results != [threading.get_ident()]
    assert type(results[0]) is int
