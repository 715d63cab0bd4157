"""Tests of ``client.inspect_request``: requests go to kernel and relay at the same time, and the host adds its data."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, cast

import pytest

from daytona_kernel_interp.client import inspect_request
from daytona_kernel_interp.client.inspect_request import InspectClient
from daytona_kernel_interp.errors import KernelError, SandboxFailed, SandboxGone, TunnelLost

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daytona_kernel_interp.client.channels import Channels
    from daytona_kernel_interp.tunnel.tunnel import Tunnel

NEVER = 3600.0


class Side:
    """A fake of a kernel's channels or a tunnel: a reply or an error after a delay."""

    def __init__(self, answer: Any, after_s: float = 0.0) -> None:
        self._answer, self._after_s = answer, after_s
        self.asked: list[Any] = []
        self.cancelled = False

    async def _speak(self, question: Any) -> Any:
        self.asked.append(question)
        try:
            await asyncio.sleep(self._after_s)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    async def request_control(self, question: Any) -> Any:
        return {"content": {"data": await self._speak(question)}}

    kernel_status = _speak

    @contextlib.contextmanager
    def in_flight(self) -> Iterator[None]:
        yield


CELL = {"cell": "1", "code": "x", "number": 1, "elapsed_s": 2.0, "calls": [["llm_query", 1.0]]}
STATUS = {"cpu_percent": 3.0, "memory_bytes": 1024}


async def inspect(
    kernel: Side | None,
    relay: Side,
    name: str | None = None,
    *,
    running: dict[str, object] | None = None,
    client: InspectClient | None = None,
) -> dict[str, Any]:
    return await (client or InspectClient()).inspect(
        cast("Channels | None", kernel), cast("Tunnel", relay), "1", name, lambda: running
    )


async def test_the_kernel_is_heard_first() -> None:
    """The kernel's reply is used, and the request to the relay is cancelled."""
    kernel, relay = Side({"variables": []}), Side({}, NEVER)
    assert await inspect(kernel, relay) == {"variables": [], "by": "kernel"}
    assert relay.cancelled
    assert kernel.asked == [{"op": "inspect"}]


async def test_the_relay_speaks_for_a_kernel_that_does_not() -> None:
    """The relay's reply has CPU and memory of the process; the host adds the running cell with its calls."""
    kernel, relay = Side({}, NEVER), Side(STATUS)
    found = await inspect(kernel, relay, running=CELL)
    assert found == {"by": "relay", "summary": None, "age_s": None, "running": CELL, **STATUS}
    assert kernel.cancelled
    assert (await inspect(None, relay, running=CELL))["by"] == "relay"


async def test_the_last_inspection_stands_in_for_a_kernel_that_does_not_answer() -> None:
    """The reply has the kernel's last complete inspection with its age; inspections of one variable are not kept."""
    client = InspectClient()
    await inspect(Side({"variables": [["a"]]}), Side({}, NEVER), client=client)
    await inspect(Side({"variables": [["b"]]}), Side({}, NEVER), "b", client=client)
    await asyncio.sleep(0.01)
    found = await inspect(Side({}, NEVER), Side(STATUS), running=CELL, client=client)
    assert (found["by"], found["summary"]) == ("relay", {"variables": [["a"]]})
    assert 0.01 <= found["age_s"] < 10


async def test_an_older_relays_own_summary_does_not_count() -> None:
    """An earlier version's relay also reports variables and a cell; the host's own knowledge is used instead."""
    older = {"summary": {"variables": [1]}, "age_s": 5.0, "running": {"code": "y"}, **STATUS}
    found = await inspect(Side({}, NEVER), Side(older), running=CELL)
    assert (found["summary"], found["age_s"], found["running"]) == (None, None, CELL)


async def test_of_one_variable_of_an_idle_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable's repr may take a second; after that the relay's reply is used, or at once while a cell runs."""
    monkeypatch.setattr(inspect_request, "REPR_S", 0.05)
    relay = Side({})
    assert (await inspect(Side({"variables": [1]}, 0.01), relay, "x"))["by"] == "kernel"
    assert (await inspect(Side({}, NEVER), relay, "x"))["by"] == "relay"
    monkeypatch.setattr(inspect_request, "REPR_S", NEVER)
    assert (await inspect(Side({}, NEVER), Side({}), "x", running=CELL))["by"] == "relay"


async def test_an_idle_kernel_is_given_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without a cell is slow unless its process is busy: then native code holds it."""
    monkeypatch.setattr(inspect_request, "REPR_S", 0.05)
    assert (await inspect(Side({"variables": [1]}, 0.01), Side(STATUS)))["by"] == "kernel"
    assert (await inspect(Side({}, NEVER), Side(STATUS)))["by"] == "relay"
    monkeypatch.setattr(inspect_request, "REPR_S", NEVER)
    assert (await inspect(Side({}, NEVER), Side({"cpu_percent": 99.0})))["by"] == "relay"


async def test_a_relay_that_cannot_tell_is_no_end() -> None:
    """If a relay of another version refuses, the kernel's reply is awaited."""
    found = await inspect(Side({"count": 1}, 0.05), Side(SandboxFailed("the relay has no operation 'look'")))
    assert found == {"count": 1, "by": "kernel"}


@pytest.mark.parametrize("error", [SandboxGone("deleted"), TunnelLost("gone")])
async def test_a_relay_that_is_gone_is(error: KernelError) -> None:
    """Without the relay the kernel cannot reply either, and its request is cancelled."""
    kernel = Side({}, NEVER)
    with pytest.raises(type(error), match=str(error)):
        await inspect(kernel, Side(error))
    assert kernel.cancelled


async def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any reply, the call raises an error after a timeout and leaves no request pending."""
    monkeypatch.setattr(inspect_request, "_ANSWER_S", 0.05)
    kernel, relay = Side({}, NEVER), Side({}, NEVER)
    with pytest.raises(TunnelLost, match="neither the kernel nor its relay answered"):
        await inspect(kernel, relay)
    assert kernel.cancelled
    assert relay.cancelled
