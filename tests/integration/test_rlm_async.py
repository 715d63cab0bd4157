"""``RLM.acall`` on a real kernel: the caller's loop goes on, and tools that need it work."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import dspy
import pytest
from dspy.primitives.code_interpreter import CodeInterpreterError

from daytona_kernel_interp import KernelError, KernelInterpreter, LocalSandbox
from daytona_kernel_interp.demo.script import ScriptedStep, rule_based_lm, scripted_lm
from daytona_kernel_interp.interpreter import rlm_async
from tests.access import access_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.dspy

RLM: Any = dspy.RLM
LIMIT_S = 60.0


@pytest.fixture(scope="module", autouse=True)
def _supported() -> None:
    _ = KernelInterpreter
    if not getattr(RLM._aexecute_iteration, rlm_async._WRAPPED, False):
        pytest.skip("this version of DSPy has other methods")


@pytest.fixture(scope="module")
def interp() -> Iterator[KernelInterpreter]:
    with KernelInterpreter(sandbox="local") as interpreter:
        yield interpreter


async def arun(steps: list[ScriptedStep], interpreter: Any, *, rlm: Any = RLM, **options: Any) -> Any:
    """Run an RLM whose model says ``steps`` and return its prediction; a loop that is blocked for ever fails."""
    made = rlm("q -> a", interpreter=interpreter, **options)
    with dspy.context(lm=scripted_lm(steps)):
        return await asyncio.wait_for(made.acall(q="x"), LIMIT_S)


def shown(result: Any) -> list[str]:
    """Return what the model read, without the numbers of the cells."""
    return [re.sub(r"In\[\d+\]", "In[n]", step["output"]) for step in result.trajectory]


class Server:
    """A client whose requests are answered by a task of one event loop, like the session of an MCP server."""

    def __init__(self) -> None:
        self._requests: asyncio.Queue[tuple[str, asyncio.Future[str]]] = asyncio.Queue()
        self._task = asyncio.create_task(self._answer())

    async def _answer(self) -> None:
        while True:
            text, reply = await self._requests.get()
            await asyncio.sleep(0)
            reply.set_result(text.upper())

    async def ask(self, text: str) -> str:
        """Ask the task, which must run meanwhile."""
        reply: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        await self._requests.put((text, reply))
        return await reply

    def close(self) -> None:
        self._task.cancel()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A client that belongs to the test's loop."""
    made = Server()
    yield made
    made.close()


@pytest.mark.parametrize(
    "code",
    [
        "SUBMIT(ask('a') + ask(text='b'))",
        "SUBMIT(await ask.aio('a') + (await ask.aio('b')))",
        "a = ask('a')\nb = ask('b')\nSUBMIT(a + b)",
    ],
    ids=["sync", "aio", "lines"],
)
async def test_a_tool_that_belongs_to_the_callers_loop_works(
    interp: KernelInterpreter, server: Server, code: str
) -> None:
    """It runs on that loop, which is free while the cell waits for it."""

    async def ask(text: str) -> str:
        return await server.ask(text)

    result = await arun([ScriptedStep("Ask.", code)], interp, tools=[ask])
    assert result.a == "AB"


async def test_the_loop_is_free_while_a_cell_runs(interp: KernelInterpreter) -> None:
    """A task of the loop ends a cell that waits for it in a sync tool, which runs in a thread."""
    entered = asyncio.Event()
    loop = asyncio.get_running_loop()
    leave = asyncio.Event()

    def meet() -> str:
        loop.call_soon_threadsafe(entered.set)
        asyncio.run_coroutine_threadsafe(leave.wait(), loop).result(LIMIT_S)
        return "met"

    async def other() -> None:
        await entered.wait()
        leave.set()

    task = asyncio.create_task(other())
    result = await arun([ScriptedStep("Meet.", "SUBMIT(meet())")], interp, tools=[meet])
    await task
    assert result.a == "met"


async def test_a_step_ends_as_in_a_blocking_call(interp: KernelInterpreter) -> None:
    """Output, error, invalid syntax, a wrong fence and a wrong field reach the model; then the answer counts."""
    steps = [
        ScriptedStep("Print.", "print('seen', len(q))"),
        ScriptedStep("Err.", "print('kept'); undefined"),
        ScriptedStep("Syntax.", "def"),
        ScriptedStep("Value.", "kept = [1, 2]; kept"),
        ScriptedStep("Wrong.", "SUBMIT(nothing=1)"),
        ScriptedStep("Right.", "SUBMIT(str(kept))"),
    ]
    result = await arun(steps, interp)
    with dspy.context(lm=scripted_lm(steps)):
        blocking = RLM("q -> a", interpreter=interp)(q="x")
    assert shown(result) == shown(blocking)
    assert result.a == blocking.a == "[1, 2]"


async def test_tools_see_the_callers_context(interp: KernelInterpreter) -> None:
    """The model of ``dspy.context`` answers ``llm_query``."""

    def say(prompt: str) -> str:
        return (
            "from the context"
            if prompt == "which?"
            else ScriptedStep("Ask.", "SUBMIT(llm_query('which?'))").completion()
        )

    with dspy.context(lm=rule_based_lm("context", say)):
        made = RLM("q -> a", interpreter=interp)
        assert (await asyncio.wait_for(made.acall(q="x"), LIMIT_S)).a == "from the context"


async def test_two_runs_at_once(interp: KernelInterpreter, server: Server) -> None:
    """The second one gets an interpreter of its own."""

    async def ask(text: str) -> str:
        return await server.ask(text)

    made = RLM("q -> a", interpreter=interp, tools=[ask])

    async def one() -> Any:
        with dspy.context(lm=scripted_lm([ScriptedStep("Ask.", "SUBMIT(ask(q))")])):
            return (await asyncio.wait_for(made.acall(q="x"), LIMIT_S)).a

    assert list(await asyncio.gather(one(), one())) == ["X", "X"]


async def test_runs_that_begin_together_start_once(server: Server) -> None:
    """The loop is free while the sandbox starts."""

    async def ask(text: str) -> str:
        return await server.ask(text)

    with KernelInterpreter(sandbox="local") as interpreter:
        made = RLM("q -> a", interpreter=interpreter, tools=[ask])

        async def one() -> Any:
            with dspy.context(lm=scripted_lm([ScriptedStep("Ask.", "SUBMIT(ask(q))")])):
                return (await asyncio.wait_for(made.acall(q="x"), LIMIT_S)).a

        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += access_of(interpreter).session is None

        ticking = asyncio.create_task(tick())
        assert list(await asyncio.gather(one(), one())) == ["X", "X"]
        ticking.cancel()
        assert ticks > 3


async def test_a_start_that_fails_ends_the_run() -> None:
    """Its error is raised as from a blocking call, and a later run tries again."""

    class Unstartable(LocalSandbox):
        async def start(self) -> Any:
            raise KernelError("not here")

    interpreter = KernelInterpreter(sandbox=Unstartable())
    for _ in range(2):
        with pytest.raises(CodeInterpreterError, match="not here"):
            await arun([ScriptedStep("End.", "SUBMIT(1)")], interpreter)


async def test_a_dead_kernel_ends_the_run() -> None:
    """The error is DSPy's, and is not shown to the model."""
    with KernelInterpreter(sandbox="local") as interpreter, pytest.raises(CodeInterpreterError, match="KernelDied"):
        await arun([ScriptedStep("Die.", "import os; os._exit(3)")] * 2, interpreter)


async def test_a_cancelled_run_interrupts_its_cell(interp: KernelInterpreter) -> None:
    """The interpreter can be used right after."""
    entered = asyncio.Event()

    async def enter() -> str:
        entered.set()
        return "in"

    steps = [ScriptedStep("Wait.", "enter()\nimport time\nwhile True: time.sleep(0.01)")]
    task = asyncio.create_task(arun(steps, interp, tools=[enter]))
    await asyncio.wait_for(entered.wait(), LIMIT_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await interp.aexecute("1 + 1") == 2


async def test_callbacks_see_the_cells(interp: KernelInterpreter) -> None:
    """Under the same names as in a blocking call."""
    callback: Any = dspy.utils.callback.BaseCallback
    if not hasattr(callback, "on_interpreter_execute_start"):
        pytest.skip("this version of DSPy has no callbacks of interpreters")
    seen: list[str] = []

    class Watch(callback):  # type: ignore[misc]
        def on_interpreter_execute_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
            seen.append(f"start {inputs['code']}")

        def on_interpreter_execute_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
            seen.append(f"end {type(outputs).__name__}")

    with dspy.context(callbacks=[Watch()]):
        await arun([ScriptedStep("Submit.", "SUBMIT('y')")], interp)
    assert seen[-2:] == ["start SUBMIT('y')", "end FinalOutput"]


async def test_a_subclass_that_overrides_a_step_works_as_before(interp: KernelInterpreter) -> None:
    """Its method gets the real result."""
    seen: list[Any] = []

    class Watching(dspy.RLM):
        def _execute_code(self, repl: Any, code: str, input_args: dict[str, Any]) -> Any:
            seen.append(super()._execute_code(repl, code, input_args))
            return seen[-1]

    result = await arun([ScriptedStep("Print.", "print(5)"), ScriptedStep("End.", "SUBMIT('z')")], interp, rlm=Watching)
    assert result.a == "z"
    assert [type(one).__name__ for one in seen] == ["str", "FinalOutput"]


async def test_other_interpreters_are_left_alone() -> None:
    """An interpreter without a method of its own for this is called as DSPy calls it."""
    done: list[str] = []

    class Plain:
        def __init__(self) -> None:
            self.tools: dict[str, Any] = {}
            self.output_fields: Any = None

        def start(self) -> None: ...

        def execute(self, code: str, variables: Any = None) -> Any:
            done.append(code)
            return dspy.primitives.code_interpreter.FinalOutput({"a": "plain"}) if "SUBMIT" in code else ""

        def shutdown(self) -> None: ...

    assert (await arun([ScriptedStep("End.", "SUBMIT('a')")], Plain())).a == "plain"
    assert done[-1] == "SUBMIT('a')"
