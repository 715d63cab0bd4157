"""KernelInterpreter as DSPy sees it: what execute takes, returns and raises."""

from __future__ import annotations

import asyncio
import collections
import copy
import ipaddress
import json
import pickle
import re
from datetime import date
from typing import TYPE_CHECKING, Any

import dspy
import pydantic
import pytest
from dspy.adapters.types.history import History
from dspy.dsp.utils.settings import settings
from dspy.primitives.code_interpreter import CodeInterpreter, CodeInterpreterError, FinalOutput

from daytona_kernel_interp import KernelInterpreter, LocalSandbox
from daytona_kernel_interp.interpreter.dspy_compat import CodeExecutionError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.dspy


@pytest.fixture(scope="module")
def shared() -> Iterator[KernelInterpreter]:
    with KernelInterpreter(sandbox="local") as interpreter:
        yield interpreter


@pytest.fixture
def interp(shared: KernelInterpreter) -> Iterator[KernelInterpreter]:
    """A running interpreter, its configuration as new after the test."""
    yield shared
    shared.tools.clear()
    shared.output_fields = None
    shared.execution_timeout = None
    shared.on_output = None
    shared.max_output_chars = 200_000


def test_it_is_a_code_interpreter() -> None:
    """DSPy's own protocol check accepts it, and nothing has started for that."""
    interpreter = KernelInterpreter(sandbox="local")
    assert isinstance(interpreter, CodeInterpreter)
    assert isinstance(KernelInterpreter.execution_instructions, str)


@pytest.mark.parametrize(
    ("code", "result"),
    [
        ("x = 1", ""),
        ("print('hi')", "hi\n"),
        ("1 + 1", 2),
        ("'text'", "text"),
        ("(1, 2)", (1, 2)),
        ("[1, 'a']", [1, "a"]),
        ("{'a': [1]}", {"a": [1]}),
        ("0", "0"),
        ("False", "False"),
        ("''", "''"),
        ("[]", "[]"),
        ("['']", "['']"),
        ("{1}", "{1}"),
        ("b'x'", "b'x'"),
        ("None", ""),
        ("print('a'); 5", "a\n5"),
        ("print('a', end=''); 5", "a\n5"),
        ("print('a'); 0", "a\n0"),
        ("5;", ""),
        ("# nothing", ""),
    ],
)
def test_execute_returns_what_rlm_can_show(interp: KernelInterpreter, code: str, result: Any) -> None:
    """Prints as text, a value as itself, its repr where RLM would hide it, both where there are both."""
    got = interp.execute(code)
    assert got == result
    assert type(got) is type(result)


def test_flex_gets_the_bare_value(interp: KernelInterpreter) -> None:
    """With an injected ``__dspy_`` name the value comes alone, whatever was printed; Flex parses it as JSON."""
    result = interp.execute(
        "print('noise')\nimport json\njson.dumps({'a': 1})", {"__dspy_flex_inputs": {"d": date(2026, 1, 2)}}
    )
    assert json.loads(result) == {"a": 1}
    assert interp.execute("__dspy_flex_inputs['d']", {"__dspy_flex_inputs": {"d": date(2026, 1, 2)}}) == "2026-01-02"


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("import dataclasses\n@dataclasses.dataclass\nclass D:\n    a: int\nD(1)", "D(a=1)"),
        ("import collections\ncollections.deque([1])", "deque([1])"),
        ("import datetime\ndatetime.date(2026, 1, 2)", "datetime.date(2026, 1, 2)"),
        ("class E(dict):\n    def __repr__(self): return 'own repr'\nE()", "own repr"),
    ],
)
def test_what_is_not_json_is_shown_as_its_repr(interp: KernelInterpreter, code: str, shown: str) -> None:
    """An object is never turned into something else on its way to the model."""
    assert interp.execute(code) == shown


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        (None, "None"),
        (float("nan"), "nan"),
        ((1, {2}), "(1, {2})"),
        ({1: {"a": b"x"}}, "{1: {'a': b'x'}}"),
        (date(2026, 1, 2), "datetime.date(2026, 1, 2)"),
        (re.compile("a+"), "'a+'"),
        (collections.deque([1, 2]), "deque([1, 2])"),
        (ipaddress.ip_address("127.0.0.1"), "'127.0.0.1'"),
        (History(messages=[{"q": 1}]), "History(messages=[{'q': 1}])"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_variables_of_every_kind_that_dspy_takes(interp: KernelInterpreter, value: Any, arrives: str) -> None:
    """What DSPy's own interpreter accepts as input arrives, with its type where there is one for it."""
    assert interp.execute("print(repr(v), end='')", {"v": value}) == arrives


class Point(pydantic.BaseModel):
    """A model that the sandbox does not know."""

    x: int
    when: date


def test_models_arrive_as_records(interp: KernelInterpreter) -> None:
    """A pydantic input reads as attributes and as a dict, its fields keep their types."""
    point = Point(x=1, when=date(2026, 1, 2))
    assert interp.execute("(p.x, p['x'], p.when.year, isinstance(p, dict))", {"p": point}) == (1, 1, 2026, True)


def test_syntax_errors_are_syntax_errors(interp: KernelInterpreter) -> None:
    """What does not compile raises the builtin; an exec() that fails at run time is an error of the cell."""
    with pytest.raises(SyntaxError, match="Invalid Python syntax"):
        interp.execute("x = = 1")
    with pytest.raises(CodeInterpreterError) as caught:
        interp.execute("exec('x = = 1')")
    assert isinstance(caught.value, CodeExecutionError)
    with pytest.raises(SyntaxError):
        interp.execute("x = '\ud800'")


def test_an_error_carries_type_traceback_and_output(interp: KernelInterpreter) -> None:
    """The text begins with the type, then the traceback of the model's lines, then what was printed."""
    with pytest.raises(CodeExecutionError) as caught:
        interp.execute("print('so far')\nraise ValueError('bad')")
    text = str(caught.value)
    assert text.startswith("ValueError: bad\n")
    assert text.index("line 2") < text.index("so far")
    assert interp.execute("1 + 1") == 2


def test_a_timeout_says_that_variables_were_kept(interp: KernelInterpreter) -> None:
    """A timeout is recoverable, carries the output so far, and is true about the state."""
    interp.execute("kept = 7")
    interp.execution_timeout = 1.0
    with pytest.raises(CodeExecutionError, match="variables kept") as caught:
        interp.execute("print('so far', flush=True)\nimport time\ntime.sleep(60)")
    assert str(caught.value).startswith("TimeoutError: ")
    assert "so far" in str(caught.value)
    interp.execution_timeout = None
    assert interp.execute("kept") == 7


def test_starting_does_not_count_into_the_timeout(tmp_path: Path) -> None:
    """A limit below the start-up time lets a quick first cell pass."""
    (tmp_path / "sitecustomize.py").write_text("import time\ntime.sleep(1)", encoding="utf-8")
    slow = LocalSandbox(env={"PYTHONPATH": str(tmp_path)})  # its relay and its kernel start a second later
    with KernelInterpreter(sandbox=slow, execution_timeout=1.5) as interpreter:
        assert interpreter.execute("1 + 1") == 2


def test_submit_gives_final_output(interp: KernelInterpreter) -> None:
    """With fields a dict of exactly these, without one value called output."""
    assert interp.execute("SUBMIT(5)") == FinalOutput({"output": 5})
    interp.output_fields = [{"name": "answer", "type": "str"}, {"name": "self"}]
    assert interp.execute("SUBMIT('a', {1, 2})") == FinalOutput({"answer": "a", "self": {1, 2}})
    with pytest.raises(CodeExecutionError, match=r"Expected: SUBMIT\(answer: str, self\)"):
        interp.execute("SUBMIT('a')")


def test_outputs_are_typed(interp: KernelInterpreter) -> None:
    """The last cell's outputs can be looked at after it, also when it failed."""
    with pytest.raises(CodeExecutionError):
        interp.execute("print('a'); 1/0")
    assert [type(output).__name__ for output in interp.outputs] == ["StreamText", "CellError"]


def test_a_callback_that_raises_does_not_hurt_the_cell(interp: KernelInterpreter) -> None:
    """on_output is the caller's; its errors are logged."""

    def broken(output: Any) -> None:
        raise ValueError

    interp.on_output = broken
    assert interp.execute("print('a')") == "a\n"


def test_a_tool_cannot_re_enter_its_interpreter(interp: KernelInterpreter) -> None:
    """Re-entry is an error in the tool, not a deadlock; another interpreter works meanwhile."""

    def nested() -> int:
        with KernelInterpreter(sandbox="local") as other:
            return int(other.execute("40 + 2"))

    interp.tools.update(again=lambda: interp.execute("1"), nested=nested)
    with pytest.raises(CodeExecutionError, match="called by a tool of the same interpreter"):
        interp.execute("again()")
    assert interp.execute("nested()") == 42


def test_tools_and_context_reach_sub_models(interp: KernelInterpreter) -> None:
    """dspy.context(lm=...) of the caller holds inside a tool, in a worker thread."""
    marker = object()
    interp.tools["which"] = lambda: settings.get("lm") is marker
    with dspy.context(lm=marker):
        assert interp.execute("which()") is True


def test_a_hosts_interrupt_leaves_execute(interp: KernelInterpreter) -> None:
    """A tool's KeyboardInterrupt is raised to the caller as it is."""

    def stop() -> None:
        raise KeyboardInterrupt("from the tool")

    interp.tools["stop"] = stop
    with pytest.raises(KeyboardInterrupt, match="from the tool"):
        interp.execute("stop()")
    assert interp.execute("1 + 1") == 2


async def test_aexecute_leaves_the_loop_free(interp: KernelInterpreter) -> None:
    """While a cell waits, the caller's loop runs on; its async tools run on that very loop."""
    loop = asyncio.get_running_loop()
    called = asyncio.Event()

    async def tool() -> bool:
        called.set()
        return asyncio.get_running_loop() is loop

    interp.tools["tool"] = tool
    task = asyncio.create_task(interp.aexecute("tool()"))
    await asyncio.wait_for(called.wait(), 20)
    assert await task is True


async def test_a_cancelled_aexecute_interrupts_its_cell(interp: KernelInterpreter) -> None:
    """After a cancellation the kernel is free for the next cell, with its variables."""
    inside = asyncio.Event()

    async def enter() -> None:
        inside.set()

    interp.tools["enter"] = enter
    task = asyncio.create_task(interp.aexecute("mark = 3\nenter()\nimport time\ntime.sleep(60)"))
    await asyncio.wait_for(inside.wait(), 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await interp.aexecute("mark") == 3


def tool_for_pickle() -> int:
    return 1


def test_copies_are_fresh_and_unstarted(interp: KernelInterpreter) -> None:
    """copy, deepcopy and pickle give the configuration and no kernel."""
    interp.tools["tool_for_pickle"] = tool_for_pickle
    interp.execution_timeout = 5
    for other in (copy.copy(interp), copy.deepcopy(interp), pickle.loads(pickle.dumps(interp)), interp.spawn()):
        assert other is not interp
        assert other.tools == interp.tools
        assert other.tools is not interp.tools
        assert other.execution_timeout == 5
        with pytest.raises(CodeInterpreterError, match="no kernel"):
            _ = other.connection_file


def test_callbacks_see_start_execute_tools_and_shutdown() -> None:
    """DSPy's interpreter hooks fire in their order, where this DSPy has them."""
    from dspy.utils.callback import BaseCallback

    if not hasattr(BaseCallback, "on_interpreter_execute_start"):
        pytest.skip("this DSPy has no interpreter callbacks")
    seen: list[str] = []

    class Watch(BaseCallback):  # type: ignore[misc, unused-ignore]
        def on_interpreter_startup_start(self, call_id: str, instance: Any, inputs: Any) -> None:
            seen.append("start")

        def on_interpreter_execute_start(self, call_id: str, instance: Any, inputs: Any) -> None:
            seen.append(f"execute {inputs['code']}")

        def on_interpreter_execute_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
            seen.append("executed")

        def on_interpreter_tool_call_start(self, call_id: str, instance: Any, inputs: Any) -> None:
            seen.append(f"tool {inputs['tool_name']} {inputs['kwargs']}")

    with KernelInterpreter({"t": lambda a: a}, sandbox="local", callbacks=[Watch()]) as interpreter:
        interpreter.execute("t(1)")
    assert seen == ["execute t(1)", "start", "tool t {'a': 1}", "executed"]
