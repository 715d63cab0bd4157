"""Async tools that belong to an event loop, on a real kernel, from every way to run code."""

from __future__ import annotations

import asyncio
import pickle
import threading
from typing import TYPE_CHECKING, Any

import dspy
import pytest

from daytona_kernel_interp import KernelInterpreter
from daytona_kernel_interp.demo.script import ScriptedStep, scripted_lm
from daytona_kernel_interp.interpreter.dspy_compat import CodeExecutionError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.dspy

RLM: Any = dspy.RLM
ASYNCIFY: Any = dspy.asyncify  # type: ignore[attr-defined]
LIMIT_S = 60.0
BLOCKED = "RuntimeError: the event loop of this async tool is blocked"


class Belonging:
    """A tool whose requests are answered by a task of the loop that it was made on, like an MCP session."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._requests: asyncio.Queue[tuple[str, asyncio.Future[str]]] = asyncio.Queue()
        self._task = asyncio.create_task(self._answer())

    async def _answer(self) -> None:
        while True:
            text, reply = await self._requests.get()
            reply.set_result(text.upper())

    async def ask(self, text: str) -> str:
        """Ask the task."""
        assert asyncio.get_running_loop() is self._loop, "on another loop"
        reply: asyncio.Future[str] = self._loop.create_future()
        await self._requests.put((text, reply))
        return await reply

    def close(self) -> None:
        self._task.cancel()


@pytest.fixture
async def belonging() -> AsyncIterator[Belonging]:
    made = Belonging()
    yield made
    made.close()


@pytest.fixture(params=["auto", "loop"])
async def interp(request: pytest.FixtureRequest, belonging: Belonging) -> AsyncIterator[KernelInterpreter]:
    """An interpreter that was made on the loop of the tool, with either choice."""
    option: Any = "auto" if request.param == "auto" else asyncio.get_running_loop()
    async with KernelInterpreter({"ask": belonging.ask}, sandbox="local", async_tools=option) as made:
        yield made


async def by_aexecute(interpreter: KernelInterpreter) -> Any:
    interpreter.output_fields = [{"name": "a"}]
    return (await interpreter.aexecute("SUBMIT(ask('a'))")).output["a"]


async def by_thread(interpreter: KernelInterpreter) -> Any:
    interpreter.output_fields = [{"name": "a"}]
    return (await asyncio.to_thread(interpreter.execute, "SUBMIT(await ask.aio('a'))")).output["a"]


async def by_asyncify(interpreter: KernelInterpreter) -> Any:
    made = RLM("q -> a", interpreter=interpreter)
    with dspy.context(lm=scripted_lm([ScriptedStep("Ask.", "SUBMIT(ask(q))")])):
        return (await ASYNCIFY(made)(q="a")).a


async def by_acall(interpreter: KernelInterpreter) -> Any:
    made = RLM("q -> a", interpreter=interpreter)
    if not hasattr(RLM._aexecute_iteration, "_daytona_kernel_awaits"):
        pytest.skip("this version of DSPy has other methods")
    with dspy.context(lm=scripted_lm([ScriptedStep("Ask.", "SUBMIT(ask(q))")])):
        return (await made.acall(q="a")).a


@pytest.mark.parametrize("way", [by_aexecute, by_thread, by_asyncify, by_acall])
async def test_it_works(interp: KernelInterpreter, way: Callable[[KernelInterpreter], Any]) -> None:
    """On the loop to which the tool belongs, which is free meanwhile."""
    for _ in range(2):
        assert await asyncio.wait_for(way(interp), LIMIT_S) == "A"


async def test_a_blocking_call_on_its_loop_says_how(belonging: Belonging) -> None:
    """The tool's loop waits in ``execute``; the error comes at once, and the interpreter goes on."""
    loop = asyncio.get_running_loop()
    with KernelInterpreter({"ask": belonging.ask}, sandbox="local", async_tools=loop) as interpreter:
        with pytest.raises(CodeExecutionError, match=BLOCKED) as caught:
            interpreter.execute("ask('a')")
        assert "use `await interpreter.aexecute(...)`" in str(caught.value)
        assert await interpreter.aexecute("ask('a')") == "A"


async def test_a_tool_that_belongs_to_no_loop_works_everywhere() -> None:
    """Also where the caller's loop is blocked: it gets the interpreter's own loop."""

    async def double(text: str) -> str:
        await asyncio.sleep(0)
        return text * 2

    for option in ("auto", "own"):
        with KernelInterpreter({"double": double}, sandbox="local", async_tools=option) as interpreter:
            assert interpreter.execute("double('a')") == "aa"
            assert await interpreter.aexecute("double('a')") == "aa"
            assert await asyncio.to_thread(interpreter.execute, "double('a')") == "aa"


async def test_a_thread_that_the_loop_waits_for_gets_the_own_loop() -> None:
    """As with ``dspy.Parallel`` in a notebook: the last loop runs, but does not answer."""

    async def double(text: str) -> str:
        return text * 2

    with KernelInterpreter({"double": double}, sandbox="local") as interpreter:
        await interpreter.astart()
        loop = asyncio.get_running_loop()
        found: list[Any] = []

        def work() -> None:
            found.append(interpreter.execute("double('a') + double('b')"))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()  # blocks the loop
        assert found == ["aabb"]
        assert loop.is_running()


async def test_copies_keep_the_choice() -> None:
    """A pickle cannot have a loop, so it has the default."""
    loop = asyncio.get_running_loop()
    assert KernelInterpreter(async_tools="own").spawn()._async_tools == "own"
    assert KernelInterpreter(async_tools=loop).spawn()._async_tools is loop
    assert pickle.loads(pickle.dumps(KernelInterpreter(async_tools="own")))._async_tools == "own"
    assert pickle.loads(pickle.dumps(KernelInterpreter(async_tools=loop)))._async_tools == "auto"
