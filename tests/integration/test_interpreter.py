"""KernelInterpreter as DSPy sees it: what execute returns and raises, and how a session begins and ends."""

from __future__ import annotations

import asyncio
import collections
import copy
import gc
import ipaddress
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import threading
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dspy
import psutil
import pydantic
import pytest
from dspy.adapters.types.history import History
from dspy.dsp.utils.settings import settings
from dspy.primitives.code_interpreter import CodeInterpreter, CodeInterpreterError, FinalOutput

from daytona_kernel_interp import KernelInterpreter, LocalSandbox
from daytona_kernel_interp.interpreter import CodeExecutionError

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.dspy

PROJECT = Path(__file__).resolve().parents[2]


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


def relay_pid(interpreter: KernelInterpreter) -> int:
    return int(interpreter.execute("import os; os.getppid()"))


def assert_gone(*pids: int) -> None:
    processes = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive


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
        (collections.deque([1, 2]), "[1, 2]"),
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
    interp.execution_timeout = 0.3
    with pytest.raises(CodeExecutionError, match="variables kept") as caught:
        interp.execute("print('so far', flush=True)\nimport time\ntime.sleep(60)")
    assert str(caught.value).startswith("TimeoutError: ")
    assert "so far" in str(caught.value)
    interp.execution_timeout = None
    assert interp.execute("kept") == 7


def test_starting_does_not_count_into_the_timeout() -> None:
    """A limit far below the start-up time lets a quick first cell pass."""
    with KernelInterpreter(sandbox="local", execution_timeout=0.25) as interpreter:
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


@pytest.mark.parametrize("name", ["1x", "a b", "class", "", "a.b"])
def test_invalid_variable_names_are_refused(interp: KernelInterpreter, name: str) -> None:
    """One sentence, before anything is sent."""
    with pytest.raises(CodeInterpreterError, match="Invalid variable name"):
        interp.execute("1", {name: 1})


def test_a_value_that_no_codec_knows_names_its_variable(interp: KernelInterpreter) -> None:
    """The error says which variable and which type; the session goes on."""
    with pytest.raises(
        CodeInterpreterError, match="Variable 'v' cannot be sent to the kernel: Unsupported value type: object"
    ):
        interp.execute("1", {"ok": 1, "v": [object()]})
    assert interp.execute("1 + 1") == 2


@pytest.mark.parametrize(
    ("tools", "words"),
    [
        ({"not a name": print}, "Invalid tool name"),
        ({"for": print}, "Invalid tool name"),
        ({"t": 5}, "is not callable"),
    ],
)
def test_invalid_tools_are_refused(interp: KernelInterpreter, tools: dict[str, Any], words: str) -> None:
    """A tool that cannot be called is refused at execute, by name."""
    interp.tools.update(tools)
    with pytest.raises(CodeInterpreterError, match=words):
        interp.execute("1")


def test_two_executes_at_once_are_refused(interp: KernelInterpreter) -> None:
    """The second call gets an error and the first one its result."""
    inside, release = threading.Event(), threading.Event()
    results: list[Any] = []

    def hold() -> str:
        inside.set()
        release.wait(20)
        return "held"

    interp.tools["hold"] = hold
    thread = threading.Thread(target=lambda: results.append(interp.execute("hold()")))
    thread.start()
    inside.wait(10)
    try:
        with pytest.raises(CodeInterpreterError, match="one interpreter runs one cell at a time"):
            interp.execute("1")
    finally:
        release.set()
        thread.join()
    assert results == ["held"]


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


def test_without_a_choice_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, no sandbox: the sentence names the key, sandbox="local", and what that means."""
    for name in ("DAYTONA_API_KEY", "DAYTONA_KERNEL_SANDBOX"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(CodeInterpreterError) as caught:
        KernelInterpreter().execute("1")
    for words in ("DAYTONA_API_KEY", 'sandbox="local"', "without isolation"):
        assert words in str(caught.value)


@pytest.mark.parametrize("sandbox", ["nowhere", 5, LocalSandbox])
def test_an_unknown_sandbox_is_refused(sandbox: Any) -> None:
    """The sentence names what was passed and what exists."""
    with pytest.raises(CodeInterpreterError, match=r"There is no sandbox .*LocalSandbox"):
        KernelInterpreter(sandbox=sandbox).start()


def test_the_environment_can_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    """DAYTONA_KERNEL_SANDBOX=local is the same as the argument."""
    monkeypatch.setenv("DAYTONA_KERNEL_SANDBOX", "local")
    with KernelInterpreter() as interpreter:
        assert interpreter("1 + 1") == 2


def test_shutdown_ends_everything_and_the_session() -> None:
    """Processes are gone, a second shutdown does nothing, and execute says that it is over."""
    interpreter = KernelInterpreter(sandbox="local")
    interpreter.shutdown()  # before start: legal
    interpreter = KernelInterpreter(sandbox="local")
    interpreter.start()
    interpreter.start()
    pids = [relay_pid(interpreter), int(interpreter.execute("os.getpid()"))]
    interpreter.shutdown()
    interpreter.shutdown()
    assert_gone(*pids)
    for call in (interpreter.start, lambda: interpreter.execute("1")):
        with pytest.raises(CodeInterpreterError, match="was shut down"):
            call()


def test_shutdown_ends_a_running_execute() -> None:
    """From another thread; the execute ends in an error instead of waiting."""
    interpreter = KernelInterpreter(sandbox="local")
    running = threading.Event()
    interpreter.tools["running"] = running.set

    def shut() -> None:
        running.wait(20)
        interpreter.shutdown()

    thread = threading.Thread(target=shut)
    thread.start()
    with pytest.raises(CodeInterpreterError, match="shut down"):
        interpreter.execute("running()\nimport time\ntime.sleep(60)")
    thread.join()


def test_a_dead_kernel_is_terminal_and_says_so() -> None:
    """Not a silent restart: the death is told, and again at each later call, until shutdown."""
    with KernelInterpreter(sandbox="local") as interpreter:
        with pytest.raises(CodeInterpreterError, match=r"exit code 3.*all variables are lost") as caught:
            interpreter.execute("import os; os._exit(3)")
        if CodeExecutionError is not CodeInterpreterError:
            assert not isinstance(caught.value, CodeExecutionError)
        with pytest.raises(CodeInterpreterError, match="all variables are lost"):
            interpreter.execute("1")


def test_a_forgotten_interpreter_ends_its_sandbox() -> None:
    """Dropping the last reference ends relay and kernel."""
    interpreter = KernelInterpreter(sandbox="local")
    pids = [relay_pid(interpreter), int(interpreter.execute("os.getpid()"))]
    del interpreter
    gc.collect()
    assert_gone(*pids)


@pytest.mark.parametrize("ending", ["pass", "raise SystemExit(3)", "1/0"])
def test_a_program_that_ends_leaves_nothing(ending: str, tmp_path: Path) -> None:
    """Without any shutdown in it, however it ends."""
    script = f"""
        from daytona_kernel_interp import KernelInterpreter
        interpreter = KernelInterpreter(sandbox="local")
        print(interpreter.execute("import os; os.getppid()"), interpreter.execute("os.getpid()"), flush=True)
        {ending}
        """
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, env=environment, check=False
    )
    assert_gone(*map(int, done.stdout.split()))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(("dk-", "daytona-kernel"))] == []


def test_a_tool_that_never_returns_does_not_hold_the_program() -> None:
    """A timeout ends the cell and the program can end, though its tool's thread still waits."""
    script = """
        import threading
        from daytona_kernel_interp import KernelInterpreter
        interpreter = KernelInterpreter({"stuck": threading.Event().wait}, sandbox="local", execution_timeout=0.5)
        try:
            interpreter.execute("stuck()")
        except Exception as error:
            print(str(error)[:12])
        """
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=40,
    )
    assert done.stdout == "TimeoutError\n", done.stderr


def test_a_forked_child_does_not_touch_its_parents_sandbox(interp: KernelInterpreter) -> None:
    """The child gets an error; its end leaves the parent's kernel running."""
    interp.execute("kept = 9")
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            interp.execute("1")
        except CodeInterpreterError as error:
            os.write(write, str(error).encode())
        finally:
            interp.shutdown()
            os._exit(0)
    os.waitpid(pid, 0)
    assert b"in a forked process" in os.read(read, 1000)
    os.close(read)
    os.close(write)
    assert interp.execute("kept") == 9


def test_ctrl_c_interrupts_the_cell_and_the_caller(tmp_path: Path) -> None:
    """SIGINT at the host ends execute() with KeyboardInterrupt; the kernel and its variables live on."""
    script = """
        import os, signal
        from daytona_kernel_interp import KernelInterpreter
        with KernelInterpreter({"ctrl_c": lambda: os.kill(os.getpid(), signal.SIGINT)}, sandbox="local") as interpreter:
            interpreter.start()
            try:
                interpreter.execute("kept = 4; ctrl_c(); import time; time.sleep(60)")
            except KeyboardInterrupt:
                print("interrupted", interpreter.execute("kept"))
        """
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        restore_signals=True,
    )
    assert done.stdout == "interrupted 4\n", done.stderr


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


def test_sigint_is_left_alone() -> None:
    """Using an interpreter changes no signal handler of the host."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with KernelInterpreter(sandbox="local") as interpreter:
        interpreter.execute("1")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
