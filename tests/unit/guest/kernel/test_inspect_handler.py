"""``looking.py``: kernel and relay are asked side by side; whoever can tell is heard."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, cast

import pytest

from daytona_kernel_interp.client import inspect_request as looking
from daytona_kernel_interp.client.inspect_request import inspect_kernel
from daytona_kernel_interp.errors import KernelError, SandboxFailed, SandboxGone, TunnelLost

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daytona_kernel_interp.client.channels import Channels
    from daytona_kernel_interp.tunnel.tunnel import Tunnel

NEVER = 3600.0


class Side:
    """A kernel's channels or a tunnel, in what a look asks of them: an answer or an error, after a time."""

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


async def looked(kernel: Side | None, relay: Side, name: str | None = None) -> dict[str, Any]:
    calls = [["llm_query", 1.0]]
    return await inspect_kernel(cast("Channels | None", kernel), cast("Tunnel", relay), "1", name, lambda: calls)


async def test_the_kernel_is_heard_first() -> None:
    """Its answer counts, and the relay is told that it need not speak."""
    kernel, relay = Side({"variables": []}), Side({}, NEVER)
    assert await looked(kernel, relay) == {"variables": [], "by": "kernel"}
    assert relay.cancelled
    assert kernel.asked == [{"op": "inspect"}]


async def test_the_relay_speaks_for_a_kernel_that_does_not() -> None:
    """It says what runs, and the host adds the calls that it is at."""
    kernel, relay = Side({}, NEVER), Side({"summary": None, "running": {"code": "x"}})
    found = await looked(kernel, relay)
    assert found == {"summary": None, "running": {"code": "x", "calls": [["llm_query", 1.0]]}, "by": "relay"}
    assert kernel.cancelled
    assert (await looked(None, relay))["by"] == "relay"


async def test_of_one_variable_of_an_idle_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own text may take a second; the relay is heard after that, or at once where a cell runs."""
    monkeypatch.setattr(looking, "REPR_S", 0.05)
    relay = Side({"summary": None, "running": None})
    assert (await looked(Side({"variables": [1]}, 0.01), relay, "x"))["by"] == "kernel"
    assert (await looked(Side({}, NEVER), relay, "x"))["by"] == "relay"
    monkeypatch.setattr(looking, "REPR_S", NEVER)
    assert (await looked(Side({}, NEVER), Side({"running": {"code": "x"}}), "x"))["by"] == "relay"


async def test_an_idle_kernel_is_given_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it left for the relay is from before; unless its process works, it is slow, and not held by native code."""
    monkeypatch.setattr(looking, "REPR_S", 0.05)
    old = {"summary": None, "running": None, "cpu_percent": 3.0}
    assert (await looked(Side({"variables": [1]}, 0.01), Side(old)))["by"] == "kernel"
    assert (await looked(Side({}, NEVER), Side(old)))["by"] == "relay"
    monkeypatch.setattr(looking, "REPR_S", NEVER)
    assert (await looked(Side({}, NEVER), Side({**old, "cpu_percent": 99.0})))["by"] == "relay"


async def test_a_relay_that_cannot_tell_is_no_end() -> None:
    """One of another version refuses; the kernel is waited for."""
    found = await looked(Side({"count": 1}, 0.05), Side(SandboxFailed("the relay has no operation 'look'")))
    assert found == {"count": 1, "by": "kernel"}


@pytest.mark.parametrize("error", [SandboxGone("deleted"), TunnelLost("gone")])
async def test_a_relay_that_is_gone_is(error: KernelError) -> None:
    """Then nothing behind it answers either, and nobody waits for it."""
    kernel = Side({}, NEVER)
    with pytest.raises(type(error), match=str(error)):
        await looked(kernel, Side(error))
    assert kernel.cancelled


async def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while that is an error, and nothing is left waiting."""
    monkeypatch.setattr(looking, "_ANSWER_S", 0.05)
    kernel, relay = Side({}, NEVER), Side({}, NEVER)
    with pytest.raises(TunnelLost, match="neither the kernel nor its relay answered"):
        await looked(kernel, relay)
    assert kernel.cancelled
    assert relay.cancelled
