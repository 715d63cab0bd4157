"""Replies to inspect requests, on a shell and a bridge that are only as much as the handler uses."""

from __future__ import annotations

import asyncio
import threading
import time
import types
from typing import TYPE_CHECKING, Any, cast

import pytest

from daytona_kernel_interp.codec import values
from daytona_kernel_interp.guest.kernel import inspect_handler
from daytona_kernel_interp.guest.kernel.inspect_handler import InspectHandler

if TYPE_CHECKING:
    from daytona_kernel_interp.guest.kernel.bridge import Bridge

pytestmark = pytest.mark.kernel


class IdleBridge:
    """A bridge with one tool, which one call waits for."""

    def bound_callables(self) -> dict[str, object]:
        return {"ask": len}

    def pending_calls(self) -> list[tuple[str, float]]:
        return [("ask", time.monotonic())]


def make_handler(**namespace: object) -> InspectHandler:
    shell = types.SimpleNamespace(user_ns=namespace, user_ns_hidden={"hidden": 1})
    return InspectHandler(cast("Bridge", IdleBridge()), shell)


async def test_a_summary_of_an_idle_kernel() -> None:
    """Variables without what IPython and the bridge put there, and the host's tools."""
    summary = make_handler(x=1, ask=len, hidden=1).summary()
    assert [row[0] for row in cast("list[Any]", summary["variables"])] == ["x"]
    assert (summary["running"], summary["tools"], summary["count"]) == (None, ["ask"], 0)


async def test_a_summary_while_a_cell_runs() -> None:
    """The running cell has its code, its time, and the calls and tasks that it waits for."""

    async def fetch() -> None:
        await asyncio.Event().wait()

    handler, task = make_handler(), asyncio.create_task(fetch())
    handler.cell_started("1", "ask('?')", 3)
    running = cast("dict[str, Any]", handler.summary()["running"])
    assert (running["cell"], running["code"], running["number"]) == ("1", "ask('?')", 3)
    assert 0 <= running["elapsed_s"] < 60
    assert [call[0] for call in running["calls"]] == ["ask"]
    assert "fetch" in running["tasks"]
    handler.cell_ended()
    assert handler.summary()["running"] is None
    task.cancel()


class Task(asyncio.Task):  # type: ignore[type-arg]
    """A task whose class is the session's own."""

    def done(self) -> bool:
        raise SystemExit


async def test_a_foreign_task_does_not_end_the_summary() -> None:
    """asyncio asks every task whether it is done; where one raises, no task is listed."""
    event = asyncio.Event()
    task = Task(event.wait(), loop=asyncio.get_running_loop())
    handler = make_handler()
    handler.cell_started("1", "", 1)
    assert cast("dict[str, Any]", handler.summary()["running"])["tasks"] == []
    handler.cell_ended()
    del Task.done
    event.set()
    await task


async def test_one_variable() -> None:
    """A variable has its own repr or its encoded value; one that does not exist is reported missing."""
    handler = make_handler(x=[1, 2])
    reply, buffers = await handler.variable("x", with_value=False, max_bytes=None)
    assert (cast("Any", reply["variables"])[0][4], buffers) == ("[1, 2]", [])
    reply, buffers = await handler.variable("x", with_value=True, max_bytes=None)
    assert values.loads(buffers) == [1, 2]
    for name in ("y", 7, None):
        assert (await handler.variable(name, with_value=False, max_bytes=None))[0]["missing"] is True


async def test_a_value_that_cannot_be_sent() -> None:
    """The reply says why: a type the codec does not carry, a value that is too large, a cell that runs."""
    handler = make_handler(x=object(), y="x" * 100)
    assert "cannot be sent" in str((await handler.variable("x", with_value=True, max_bytes=None))[0]["refused"])
    assert "cannot be sent" in str((await handler.variable("y", with_value=True, max_bytes=10))[0]["refused"])
    handler.cell_started("1", "", 1)
    assert "a cell is running" in str((await handler.variable("y", with_value=True, max_bytes=None))[0]["refused"])


class Slow:
    """A value whose repr does not return in time."""

    go_on = threading.Event()

    def __repr__(self) -> str:
        self.go_on.wait(30)
        return "slow"


class Raises:
    """A value whose repr ends the process, if it may."""

    def __repr__(self) -> str:
        raise SystemExit


async def test_a_repr_that_fails_or_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row stays as it is without it. After four threads that hang, no further repr is called."""
    monkeypatch.setattr(inspect_handler, "REPR_S", 0.01)
    handler = make_handler(slow=Slow(), raises=Raises(), x=Slow)
    try:
        assert (await handler.variable("raises", with_value=False, max_bytes=None))[0]["own_repr"] is False
        for _ in range(4):
            reply, _ = await handler.variable("slow", with_value=False, max_bytes=None)
            assert reply["own_repr"] is False
        assert "own_repr" not in (await handler.variable("slow", with_value=False, max_bytes=None))[0]
    finally:
        Slow.go_on.set()
    for _ in range(1000):  # the threads return
        reply, _ = await handler.variable("slow", with_value=False, max_bytes=None)
        if cast("Any", reply["variables"])[0][4] == "slow":
            break
        await asyncio.sleep(0.01)
    assert cast("Any", reply["variables"])[0][4] == "slow"
