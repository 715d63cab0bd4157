"""Tests of ``runtime.cleanup``: the close of open resources at the end of the process."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

from daytona_kernel_interp.runtime import cleanup as registry
from daytona_kernel_interp.runtime.event_loop import LoopThread

if TYPE_CHECKING:
    from collections.abc import Iterator

WAIT_S = 20.0


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    made = LoopThread("registry-test")
    yield made
    made.stop()


class Open:
    """A resource whose close the test completes."""

    def __init__(self) -> None:
        self.begun, self.may_end, self.closed = threading.Event(), threading.Event(), False
        self.closes = 0

    async def aclose(self) -> None:
        self.closes += 1
        self.begun.set()
        while not self.may_end.is_set():  # noqa: ASYNC110 - it is set by another thread
            await asyncio.sleep(0.01)
        self.closed = True


async def _open(session: Open) -> None:
    registry.register(session)


def test_one_more_ctrl_c_does_not_keep_it_from_closing(loop: LoopThread) -> None:
    """A message explains the wait to the user; all resources are closed afterwards."""
    session = Open()
    loop.run(_open(session))

    def in_a_hurry() -> None:
        session.begun.wait(WAIT_S)
        os.kill(os.getpid(), signal.SIGINT)
        session.may_end.set()

    hurrying = threading.Thread(target=in_a_hurry)
    hurrying.start()
    registry.close_all()
    hurrying.join()
    assert session.closed


@pytest.mark.parametrize("begun", [False, True])
def test_ctrl_c_before_all_ends_are_begun(
    loop: LoopThread, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, begun: bool
) -> None:
    """Ctrl-C comes just before or after the first close begins: each resource is closed once and awaited."""
    sessions = [Open(), Open()]
    for session in sessions:
        loop.run(_open(session))
    submit = registry._submit

    def interrupted(work: Any, *args: Any) -> None:
        monkeypatch.setattr(registry, "_submit", submit)
        if begun:
            submit(work, *args)
        else:
            work.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(registry, "_submit", interrupted)
    for session in sessions:
        threading.Timer(0.05, session.may_end.set).start()
    registry.close_all()
    assert [session.closes for session in sessions] == [1, 1]
    assert all(session.closed for session in sessions)
    assert caplog.text.count("Ctrl-C again to leave them") == 1


def test_the_second_ctrl_c_leaves(loop: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second Ctrl-C ends the wait; closes in progress continue while the process is alive."""
    session, told = Open(), threading.Event()
    loop.run(_open(session))
    monkeypatch.setattr(registry.log, "warning", lambda *_: told.set())

    def in_a_hurry() -> None:
        for ready in (session.begun, told):
            ready.wait(WAIT_S)
            os.kill(os.getpid(), signal.SIGINT)

    hurrying = threading.Thread(target=in_a_hurry)
    hurrying.start()
    with pytest.raises(KeyboardInterrupt):
        registry.close_all()
    hurrying.join()
    assert not session.closed
    session.may_end.set()
    registry.close_all()
    assert session.closed


def test_what_must_be_done_outlives_who_waited_for_it(loop: LoopThread) -> None:
    """If the waiting caller is cancelled, the end of the process waits instead."""
    work = Open()

    async def cancelled() -> None:
        caller = asyncio.ensure_future(registry.run_to_completion(work.aclose()))
        while not work.begun.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        caller.cancel()
        await asyncio.wait({caller})
        assert caller.cancelled()

    loop.run(cancelled())
    assert not work.closed
    threading.Timer(0.05, work.may_end.set).start()
    registry.close_all()
    assert work.closed
    registry.close_all()  # nothing is left to wait for


def test_what_is_left_is_named_once(
    loop: LoopThread, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Operations that do not end in time are named in one warning, with what ends what they leave."""
    monkeypatch.setattr(registry, "_CLOSE_S", 0.2)
    works = [Open(), Open(), Open()]

    async def begin() -> None:
        for number, work in enumerate(works):
            registry.begin(work.aclose(), f"sandbox {number} (`delete {number}` deletes it)")

    loop.run(begin())
    works[1].may_end.set()
    registry.close_all()
    expected = "sandbox 0 (`delete 0` deletes it), sandbox 2 (`delete 2` deletes it)"
    assert caplog.messages == [f"the process ends before this is deleted: {expected}"]
    for work in works:
        work.may_end.set()
    registry.close_all()
    assert all(work.closed for work in works)


def test_what_a_closing_begins_is_waited_for(loop: LoopThread) -> None:
    """A session whose close returns early goes on in the background; the end of the process waits for that, too."""
    work = Open()

    class Session:
        async def aclose(self) -> None:
            registry.begin(work.aclose())

    async def opened() -> None:
        registry.register(Session())

    loop.run(opened())
    threading.Timer(0.1, work.may_end.set).start()
    registry.close_all()
    assert work.closed
