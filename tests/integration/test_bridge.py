"""The bridge on a real kernel: tool calls, their errors, and SUBMIT."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from daytona_kernel_interp.codec import values
from daytona_kernel_interp.tools.binding import ToolAborted
from daytona_kernel_interp.wire.comm import OutputField

if TYPE_CHECKING:
    from pathlib import Path

    from daytona_kernel_interp.tools.binding import Tool
    from tests.integration.driver import Driver

pytestmark = pytest.mark.kernel

FIELDS = (OutputField("answer", "str"), OutputField("score", "int"))


def add(a: int, b: int = 2, *, scale: int = 1) -> int:
    """Add two numbers."""
    return (a + b) * scale


@pytest.mark.parametrize(
    ("call", "result"),
    [("add(1)", 3), ("add(1, 5)", 6), ("add(b=1, a=1)", 2), ("add(1, scale=10)", 30), ("await add.aio(1, b=3)", 4)],
)
def test_arguments_bind_as_in_a_plain_call(driver: Driver, call: str, result: int) -> None:
    """Positional, keyword and default arguments all work, from sync and async code."""
    driver.tools["add"] = add
    assert driver.value(call) == result


def first(x: Any, /, **k: Any) -> Any:
    return x, k


def run_all(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def llm_query_batched(prompts: list[str]) -> Any:
    return [f"<{prompt}>" for prompt in prompts]


@pytest.mark.parametrize(
    ("tool", "call", "result"),
    [
        (first, "tool(1, x=2)", (1, {"x": 2})),
        (run_all, "tool(args=[1])", ((), {"args": [1]})),
        (run_all, "await tool.aio(1, 2, args=3, tool=4)", ((1, 2), {"args": 3, "tool": 4})),
        (functools.partial(run_all, 1, b=2), "tool(3, b=4)", ((1, 3), {"b": 4})),
        (sorted, "tool([1, 2], reverse=True)", [2, 1]),
        ({"a": 1}.get, "tool('b', 5)", 5),
        (llm_query_batched, "tool('one')", ["<o>", "<n>", "<e>"]),
        (llm_query_batched, "llm_query_batched('one')", ["<one>"]),
        (llm_query_batched, "llm_query_batched(queries='one')", ["<one>"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_valid_call_works(driver: Driver, tool: Tool, call: str, result: Any) -> None:
    """Names may repeat, callables of every kind are tools, and one text is one prompt for the sub-LM."""
    driver.tools["tool"] = driver.tools["llm_query_batched"] = tool
    assert driver.value(call) == result


def test_a_wrapper_that_takes_keywords_only_is_called_so(driver: Driver) -> None:
    """DSPy's wrappers show the user's signature but accept keywords only; positional calls still work."""
    import inspect

    def invoke(**kwargs: Any) -> Any:
        return add(**kwargs)

    invoke.__signature__ = inspect.signature(add)  # type: ignore[attr-defined]
    driver.tools["add"] = invoke
    assert driver.value("add(1, 5)") == 6


def test_an_unknown_keyword_gets_a_hint(driver: Driver) -> None:
    """A misspelt keyword is a TypeError that names the close match and the signature."""
    driver.tools["add"] = add
    error = driver.run("add(1, scael=3)").cell.error
    assert error is not None
    assert error.name == "TypeError"
    assert "did you mean 'scale'?" in error.message
    assert "add(a, b=2, *, scale=1)" in error.message


@pytest.mark.parametrize("keyword", ["prompts", "queries", "questions", "inputs"])
def test_near_misses_of_llm_query_are_accepted(driver: Driver, keyword: str) -> None:
    """Similar names for llm_query_batched's parameter are accepted."""

    def llm_query_batched(prompts: list[str]) -> list[str]:
        return [prompt.upper() for prompt in prompts]

    driver.tools["llm_query_batched"] = llm_query_batched
    assert driver.value(f"llm_query_batched({keyword}=['a', 'b'])") == ["A", "B"]


def test_help_shows_the_tools_own_signature_and_text(driver: Driver) -> None:
    """help() shows a tool's signature and docstring."""
    driver.tools["add"] = add
    assert driver.value("import inspect; str(inspect.signature(add))") == "(a, b=2, *, scale=1)"
    assert driver.value("(add.__name__, add.__doc__)") == ("add", "Add two numbers.")


def test_values_keep_their_type_both_ways(driver: Driver) -> None:
    """Strings that look like JSON stay strings, tuples stay tuples, bytes stay bytes."""
    seen: list[Any] = []

    def echo(value: Any) -> Any:
        seen.append(value)
        return value

    driver.tools["echo"] = echo
    sent = ["123", "[1]", "", None, (1, 2), {"a": {1: b"x"}}, 2**80, float("inf"), {1, 2}, "y" * 200_000]
    for value in sent:
        assert driver.value("echo(value) == value and type(echo(value)) is type(value)", value=value) is True
        assert seen[-1] == value


def test_a_result_that_no_codec_carries_arrives_as_text(driver: Driver) -> None:
    """An unsupported result is sent as str(), as in DSPy's own interpreters."""
    driver.tools["make"] = lambda: slice(1, 2)
    assert driver.value("make()") == "slice(1, 2, None)"


def test_an_argument_that_cannot_be_sent_is_an_error_of_the_call(driver: Driver) -> None:
    """The cell gets a TypeError with the reason; the bridge keeps working."""
    driver.tools["echo"] = lambda value: value
    error = driver.run("echo(object())").cell.error
    assert error is not None
    assert error.name == "TypeError"
    assert "object" in error.message
    assert driver.value("echo(1)") == 1


def test_prints_before_a_call_come_before_what_the_call_brings(driver: Driver) -> None:
    """A call never overtakes the prints before it."""
    texts: list[str] = []

    def note() -> None:
        texts.append("called")

    def on_output(output: Any) -> None:
        texts.append(output.text)

    driver.tools["note"] = note
    driver.run("for i in range(20):\n    print(i); note()", on_output=on_output)
    assert "".join(texts) == "".join(f"{i}\ncalled" for i in range(20))


def test_threads_call_at_once(driver: Driver) -> None:
    """Eight calls from eight threads are pending at the same time."""
    together = threading.Barrier(8)

    def meet(i: int) -> int:
        together.wait(20)
        return i

    driver.tools["meet"] = meet
    code = "from concurrent.futures import ThreadPoolExecutor\nlist(ThreadPoolExecutor(8).map(meet, range(8)))"
    assert driver.value(code) == list(range(8))


def test_gathered_async_calls_are_under_way_together(driver: Driver) -> None:
    """Calls of ``tool.aio`` in ``asyncio.gather`` are pending at the same time."""
    together = threading.Barrier(8)

    def meet(i: int) -> int:
        together.wait(20)
        return i

    driver.tools["meet"] = meet
    code = "import asyncio\nawait asyncio.gather(*(meet.aio(i) for i in range(8)))"
    assert driver.value(code) == list(range(8))


def test_async_tools_are_awaited(driver: Driver) -> None:
    """An ``async def`` tool returns its result; two of them share one loop, which their clients require."""
    loops: list[asyncio.AbstractEventLoop] = []

    async def fetch(i: int) -> int:
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(0)
        return i

    driver.tools["fetch"] = fetch
    assert driver.value("fetch(1) + fetch(2)") == 3
    assert loops[0] is loops[1]


def test_calls_see_the_callers_context(driver: Driver) -> None:
    """Each call of a sync or async tool runs in a copy of the context of execute()."""
    setting: contextvars.ContextVar[str] = contextvars.ContextVar("setting", default="global")

    def read() -> str:
        found = setting.get()
        setting.set("spoilt by a call")
        return found

    async def aread() -> str:
        return setting.get()

    driver.tools.update(read=read, aread=aread)
    token = setting.set("callers")
    try:
        code = (
            "from concurrent.futures import ThreadPoolExecutor\n"
            "list(ThreadPoolExecutor(4).map(lambda _: read(), range(8))) + [aread()]"
        )
        assert driver.value(code) == ["callers"] * 9
        assert setting.get() == "callers"
    finally:
        setting.reset(token)


class QuotaExceeded(ValueError):
    """An exception class that does not exist in the sandbox."""


ERRORS = [
    (KeyError("k"), "KeyError", "'k'", "KeyError"),
    (ValueError("v"), "ValueError", "v", "ValueError"),
    (QuotaExceeded("q"), "QuotaExceeded", "q", "ValueError"),
    (FileNotFoundError(2, "gone"), "FileNotFoundError", "[Errno 2] gone", "OSError"),
    (UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"), "UnicodeDecodeError", None, "ValueError"),
    (StopIteration("s"), "StopIteration", "s", "StopIteration"),
    (RuntimeError(""), "RuntimeError", "", "RuntimeError"),
]


@pytest.mark.parametrize(("error", "name", "message", "caught_as"), ERRORS, ids=[name for _, name, *_ in ERRORS])
def test_tool_errors_are_caught_by_type(
    driver: Driver, error: Exception, name: str, message: str | None, caught_as: str
) -> None:
    """The cell catches the host's exception by a builtin ancestor, by ToolError and by RuntimeError."""

    def fail() -> None:
        raise error

    driver.tools["fail"] = fail
    for kind in (caught_as, "ToolError", "RuntimeError"):
        code = f"try:\n    fail()\nexcept {kind} as e:\n    seen = (type(e).__name__, e.type, e.message, str(e))\nseen"
        class_name, kept, text, whole = driver.value(code)
        assert class_name == kept == name
        assert text == (str(error) if message is None else message)
        assert whole == (f"{name}: {text}" if text else name)


def test_a_failed_call_leaves_the_bridge_working(driver: Driver) -> None:
    """After an uncaught tool error, the next cell's calls work."""
    driver.tools.update(add=add, fail=lambda: 1 / 0)
    assert driver.run("fail()").cell.error is not None
    assert driver.value("add(1)") == 3


def test_a_hosts_keyboard_interrupt_leaves_execute(driver: Driver) -> None:
    """A BaseException of a tool is raised on the host; it ends the call, and the kernel keeps working."""

    def stop() -> None:
        raise KeyboardInterrupt

    driver.tools["stop"] = stop
    with pytest.raises(ToolAborted) as caught:
        driver.run("kept = 5\nstop()")
    assert isinstance(caught.value.error, KeyboardInterrupt)
    assert driver.value("kept") == 5


def test_an_async_tools_exit_leaves_execute_too(driver: Driver) -> None:
    """SystemExit of an async tool does not end the loop that runs the next one."""

    async def leave() -> None:
        raise SystemExit(3)

    async def stay() -> int:
        return 1

    driver.tools.update(leave=leave, stay=stay)
    with pytest.raises(ToolAborted) as caught:
        driver.run("leave()")
    assert isinstance(caught.value.error, SystemExit)
    assert driver.value("stay()") == 1


def test_tools_that_code_overwrote_come_back(driver: Driver) -> None:
    """``add = 1`` and ``SUBMIT = 1`` last for one cell; the restored function is the same object."""
    driver.tools["add"] = add
    driver.run("first = add\nadd = 1\nSUBMIT = 1")
    assert driver.value("(add(1), callable(SUBMIT), add is first)") == (3, True, True)


def test_tools_follow_the_host(driver: Driver) -> None:
    """A replaced tool is called in its new form; a removed one is gone."""
    driver.tools["t"] = lambda: 1
    assert driver.value("t()") == 1
    driver.tools["t"] = lambda x: x
    assert driver.value("t(7)") == 7
    del driver.tools["t"]
    error = driver.run("t(7)").cell.error
    assert error is not None
    assert error.name == "NameError"


def test_a_call_after_its_cell_ended_is_refused(driver: Driver, tmp_path: Path) -> None:
    """A thread that calls a tool while no cell runs gets an error instead of waiting forever."""
    driver.tools["add"] = add
    go, told = tmp_path / "go", tmp_path / "told"
    os.mkfifo(go)
    os.mkfifo(told)
    driver.run(
        "import threading\n"
        "def later():\n"
        "    open(go).read()\n"
        "    try:\n        said = str(add(1))\n"
        "    except RuntimeError as e:\n        said = str(e)\n"
        "    open(told, 'w').write(said)\n"
        "threading.Thread(target=later).start()",
        variables={"go": str(go), "told": str(told)},
    )
    go.write_text("go")
    assert told.read_text() == "RuntimeError: the cell that made this call has ended"


def test_a_child_process_cannot_call(driver: Driver) -> None:
    """A forked child gets a clear error, because its call would get no reply."""
    driver.tools["add"] = add
    code = (
        "import os\nr, w = os.pipe()\npid = os.fork()\n"
        "if pid == 0:\n"
        "    try:\n        add(1)\n"
        "    except RuntimeError as e:\n        os.write(w, str(e).encode())\n"
        "    os._exit(0)\n"
        "os.waitpid(pid, 0); os.read(r, 1000).decode()"
    )
    assert "not from a child process" in driver.value(code)


@pytest.mark.parametrize(
    "code",
    [
        "SUBMIT('x', 1)",
        "SUBMIT(answer='x', score=1)",
        "SUBMIT('x', score=1)",
        "def deep():\n    SUBMIT('x', 1)\n[deep() for _ in range(3)]",
        "try:\n    SUBMIT('x', 1)\nexcept Exception:\n    SUBMIT('wrong', 0)",
        "try:\n    SUBMIT('x', 1)\nexcept:\n    pass\nSUBMIT('second', 2)",
        "import asyncio\nawait asyncio.sleep(0)\nSUBMIT('x', 1)",
        "import asyncio\nasync def one():\n    SUBMIT('x', 1)\nawait asyncio.gather(one(), asyncio.sleep(0.01))",
        "import threading\nt = threading.Thread(target=SUBMIT, args=('x', 1)); t.start(); t.join()",
        "try:\n    SUBMIT('x', 1)\nfinally:\n    1/0",
    ],
)
def test_submit_counts_wherever_it_is_called(driver: Driver, code: str) -> None:
    """The first SUBMIT is the result, also if nested, caught, in async code or in threads."""
    cell = driver.run(code, fields=FIELDS).cell
    assert cell.submission is not None
    assert values.loads(cell.submission) == {"answer": "x", "score": 1}
    assert driver.value("1 + 1") == 2


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        ("SUBMIT('x')", "missing 'score'"),
        ("SUBMIT('x', 1, 2)", "takes 2 values but 3 were given"),
        ("SUBMIT(anwser='x', score=1)", "did you mean 'answer'?"),
        ("SUBMIT('x', answer='y', score=1)", "'answer' twice"),
    ],
)
def test_a_wrong_submit_is_refused_in_the_cell(driver: Driver, call: str, problem: str) -> None:
    """The error has the reason and the expected call; nothing is submitted."""
    cell = driver.run(call, fields=FIELDS).cell
    assert cell.submission is None
    assert cell.error is not None
    assert cell.error.name == "TypeError"
    assert problem in cell.error.message
    assert "Expected: SUBMIT(answer: str, score: int)" in cell.error.message


def test_submit_passes_values_of_other_types_unchanged(driver: Driver) -> None:
    """DSPy converts types; SUBMIT does not enforce them."""
    cell = driver.run("SUBMIT(answer=(1, {2}), score='3')", fields=FIELDS).cell
    assert cell.submission is not None
    assert values.loads(cell.submission) == {"answer": (1, {2}), "score": "3"}


def test_submit_without_fields_is_json(driver: Driver) -> None:
    """Callers without output fields pass the result to json.dumps, so it has JSON's types."""
    cell = driver.run("import datetime\nSUBMIT({'s': {1}, 'd': datetime.date(2026, 1, 2), 'o': print})").cell
    assert cell.submission is not None
    answer = values.loads(cell.submission)["output"]
    assert answer == {"s": [1], "d": "2026-01-02", "o": "<built-in function print>"}


def test_a_cell_that_goes_on_after_submit_is_ended(driver: Driver) -> None:
    """Code that catches SUBMIT and loops is interrupted; the result is kept and the kernel stays alive."""
    code = "try:\n    SUBMIT('x', 1)\nexcept BaseException:\n    pass\nwhile True: pass"
    result = driver.run(code, fields=FIELDS)
    assert result.cell.submission is not None
    assert result.interrupted is not None
    assert driver.value("1 + 1") == 2
