"""Tests of ``client.tool_calls``: calls are made once, and replies are repeated after a lost link."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest

from daytona_kernel_interp.client import tool_calls as calls
from daytona_kernel_interp.client.output_collector import ToolCalled
from daytona_kernel_interp.client.tool_calls import HOST_LOST, ToolCalls
from daytona_kernel_interp.codec import values
from daytona_kernel_interp.tools.binding import ToolAborted, ToolReply
from daytona_kernel_interp.wire.comm import ToolFailure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daytona_kernel_interp.tools.binding import ToolRunner


class Runner:
    """A tool runner whose calls the test completes."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.results: dict[str, asyncio.Future[ToolReply]] = {}
        self.cancelled: list[str] = []

    async def run(
        self, name: str, buffers: Sequence[values.Buffer], call_id: int = 0, *, arrow: bool = False
    ) -> ToolReply:
        self.started.append(name)
        self.results[name] = asyncio.get_running_loop().create_future()
        try:
            return await self.results[name]
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise


class Host:
    """Tool calls and their sent messages."""

    def __init__(self) -> None:
        self.sent: list[tuple[dict[str, Any], bytes]] = []
        self.aborts: list[ToolAborted] = []
        self.runner = Runner()
        self.calls = ToolCalls(self._send)

    def _send(self, data: dict[str, Any], buffers: Sequence[Any]) -> None:
        self.sent.append((data, b"".join(map(bytes, buffers))))

    def take(self, call_id: int, arguments: bytes = b"") -> None:
        """Receive a call of the tool with the name of its id."""
        call = ToolCalled(call_id, str(call_id), [arguments])
        self.calls.start_call(call, cast("ToolRunner", self.runner), self.aborts.append)

    async def make(self, *ids: int) -> None:
        """Receive calls and start them."""
        for call_id in ids:
            self.take(call_id)
        await settle()

    async def answer(self, call_id: int, payload: bytes = b"result", op: str = "result") -> None:
        """Complete a call's tool."""
        self.runner.results[str(call_id)].set_result(ToolReply(op, [payload]))
        await settle()

    def told(self) -> list[tuple[str, int]]:
        """Return the messages sent since the last call."""
        found = [(data["op"], data["id"]) for data, _ in self.sent]
        self.sent.clear()
        return found


async def settle() -> None:
    """Run the ready tasks; one step takes at most three turns of the event loop."""
    for _ in range(5):
        await asyncio.sleep(0)


def failure_in(sent: tuple[dict[str, Any], bytes]) -> ToolFailure:
    """Return the failure in a message to the cell."""
    return ToolFailure.from_value(values.loads([sent[1]]))


async def test_a_call_is_made_and_answered() -> None:
    """A reply or error is sent to the cell with the call's id, and only once without a request."""
    host = Host()
    await host.make(1, 2)
    await host.answer(2, b"two", op="error")
    await host.answer(1, b"one")
    assert host.sent == [({"op": "error", "id": 2}, b"two"), ({"op": "result", "id": 1}, b"one")]


async def test_a_call_that_is_told_twice_is_made_once() -> None:
    """A repeated message after a lost link does not repeat the call, while it runs or its reply is kept."""
    host = Host()
    await host.make(1, 1, 1)
    assert host.runner.started == ["1"]
    await host.answer(1)
    await host.make(1)
    assert host.runner.started == ["1"]
    assert host.told() == [("result", 1)]


async def test_a_reply_is_repeated_to_the_calls_that_wait() -> None:
    """After a reconnection the cell lists its pending calls, and the same replies are sent again, for each request."""
    host = Host()
    await host.make(1, 2, 3)
    await host.answer(1, b"one")
    await host.answer(2, b"two")
    host.told()
    host.calls.resend_replies([1])
    host.calls.resend_replies([1])
    assert host.sent == [({"op": "result", "id": 1}, b"one")] * 2
    assert host.runner.started == ["1", "2", "3"]


async def test_a_fault_of_our_own_is_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    """An internal error of a call is a reply too, so that the cell does not wait forever."""
    host = Host()
    await host.make(1)
    host.runner.results["1"].set_exception(RuntimeError("no thread can be started"))
    await settle()
    assert failure_in(host.sent[0]).message == "no thread can be started"
    assert "could not be started" in caplog.text


async def test_a_call_under_way_is_left_alone() -> None:
    """The reply is sent when the tool returns, over the current link."""
    host = Host()
    await host.make(1)
    host.calls.resend_replies([1])
    assert host.told() == []
    await host.answer(1)
    assert host.told() == [("result", 1)]


async def test_a_call_without_a_reply_is_refused_and_not_made_again() -> None:
    """The cell gets one clear error, and the tool does not run."""
    host = Host()
    host.calls.resend_replies([7])
    assert "not repeated" in failure_in(host.sent[0]).message
    assert host.told() == [("error", 7)]
    assert host.runner.started == []


async def test_kept_replies_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are dropped; a reply above the limit is kept alone, as it may be the lost one."""
    monkeypatch.setattr(calls, "STORED_REPLY_BYTES", 100)
    host = Host()
    await host.make(*range(6))
    for call_id in range(5):
        await host.answer(call_id, b"x" * 40)
    host.told()
    host.calls.resend_replies(range(5))
    assert host.told() == [("error", 0), ("error", 1), ("error", 2), ("result", 3), ("result", 4)]
    await host.answer(5, b"x" * 500)
    host.told()
    host.calls.resend_replies(range(6))
    assert host.told() == [("error", number) for number in range(5)] + [("result", 5)]
    await host.make(6, 7)
    await host.answer(6, b"x" * 50)
    await host.answer(7, b"x" * 50)
    host.told()
    host.calls.resend_replies([5, 6, 7])
    assert host.told() == [("error", 5), ("result", 6), ("result", 7)]


async def test_bytes_are_counted_whatever_they_are_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A memoryview counts its bytes, not its items."""
    monkeypatch.setattr(calls, "STORED_REPLY_BYTES", 100)
    host = Host()
    await host.make(1, 2)
    host.runner.results["1"].set_result(ToolReply("result", [memoryview(bytes(80)).cast("I"), b"x" * 15]))
    await settle()
    await host.answer(2, b"123456")
    host.told()
    host.calls.resend_replies([1, 2])
    assert host.told() == [("error", 1), ("result", 2)]


async def test_the_end_of_a_cell_drops_its_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    """They no longer have a waiting cell, and the next cell can use the whole limit."""
    monkeypatch.setattr(calls, "STORED_REPLY_BYTES", 100)
    host = Host()
    await host.make(1)
    await host.answer(1, b"x" * 90)
    host.calls.end_cell()
    await host.make(2, 3)
    await host.answer(2, b"x" * 50)
    await host.answer(3, b"x" * 50)
    host.told()
    host.calls.resend_replies([1, 2, 3])
    assert host.told() == [("error", 1), ("result", 2), ("result", 3)]


async def test_calls_at_once_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call above the limit is refused with the number; the end of a call admits another."""
    monkeypatch.setattr(calls, "MAX_PENDING_CALLS", 3)
    host = Host()
    await host.make(1, 2, 3, 4)
    assert "more than 3 tool calls" in failure_in(host.sent[0]).message
    assert host.told() == [("error", 4)]
    await host.answer(2)
    await host.make(5)
    assert host.runner.started == ["1", "2", "3", "5"]


async def test_their_arguments_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is for all calls together; completed and refused calls do not count."""
    monkeypatch.setattr(calls, "PENDING_CALL_BYTES", 100)
    host = Host()
    for call_id, size in ((1, 200), (2, 1)):
        host.take(call_id, b"x" * size)
    await settle()
    assert "pending tool calls exceed 100 bytes" in failure_in(host.sent[0]).message
    await host.answer(1)
    assert host.told() == [("error", 2), ("result", 1)]
    for call_id in (3, 4, 5):
        host.take(call_id, b"x" * 50)
    await settle()
    assert host.runner.started == ["1", "3", "4"]
    assert host.told() == [("error", 5)]


async def test_a_flood_under_one_id_is_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeated ids do not bypass the limit."""
    monkeypatch.setattr(calls, "MAX_PENDING_CALLS", 3)
    host = Host()
    await host.make(*[1] * 1000)
    assert host.runner.started == ["1"]


async def test_what_a_tool_raises_past_exceptions_is_the_hosts() -> None:
    """A KeyboardInterrupt is raised from execute, and the cell gets no reply."""
    host = Host()
    await host.make(1)
    aborted = ToolAborted(KeyboardInterrupt())
    host.runner.results["1"].set_exception(aborted)
    await settle()
    assert host.aborts == [aborted]
    assert host.told() == []


# --- a host that attaches to a session ----------------------------------------------------------------------------


@pytest.mark.parametrize(("all_read", "data"), [(True, {"op": "abandon", "upto": 9}), (False, {"op": "abandon"})])
async def test_calls_of_a_cell_that_another_host_began_are_not_made(all_read: bool, data: dict[str, Any]) -> None:
    """The earlier host may have made them, so the calls that it read, or else all pending ones, raise HostLost."""
    host = Host()
    host.calls.begin_foreign_cell()
    await host.make(9, 2)
    assert host.runner.started == []
    assert host.told() == []
    host.calls.abandon_foreign_calls(all_read=all_read)
    ((sent, payload),) = host.sent
    assert sent == data
    assert ToolFailure.from_value(values.loads([payload])) == HOST_LOST
    assert HOST_LOST.type == "HostLost"
    assert "not repeated" in HOST_LOST.message
    await host.make(10)
    assert host.runner.started == ["10"]


async def test_closing_drops_the_calls_under_way() -> None:
    """They are cancelled without a reply; a second close does nothing."""
    host = Host()
    await host.make(1, 2)
    await host.calls.aclose()
    await host.calls.aclose()
    assert host.runner.cancelled == ["1", "2"]
    assert host.told() == []
