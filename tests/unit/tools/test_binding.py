"""Tests of ``tools.binding``."""

from __future__ import annotations

import asyncio
import contextvars
import enum
import functools
import inspect
import threading
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.codec import values
from daytona_kernel_interp.tools.binding import (
    Tool,
    ToolAborted,
    ToolRunner,
    bind,
    call,
    describe,
    failure,
)
from daytona_kernel_interp.tools.tool_loop import ToolLoop
from daytona_kernel_interp.wire.comm import Parameter, ToolFailure, ToolSpec
from tests import examples

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.python

ANSWER: contextvars.ContextVar[int] = contextvars.ContextVar("ANSWER", default=0)


# --- describe ---------------------------------------------------------------------------------------


def search(query: str, /, k: int = 3, *rest: str, sort: bool = False, **more: object) -> list[str]:
    """Find things.

    In many places.
    """
    return [query]


def test_a_tool_is_described_by_its_signature() -> None:
    """The cell gets name, docstring, and every parameter with its kind and its default's repr."""
    assert describe("search", search) == ToolSpec(
        "search",
        "Find things.\n\nIn many places.",
        (
            Parameter("query", inspect.Parameter.POSITIONAL_ONLY),
            Parameter("k", inspect.Parameter.POSITIONAL_OR_KEYWORD, "3"),
            Parameter("rest", inspect.Parameter.VAR_POSITIONAL),
            Parameter("sort", inspect.Parameter.KEYWORD_ONLY, "False"),
            Parameter("more", inspect.Parameter.VAR_KEYWORD),
        ),
    )


def test_what_has_no_signature_is_described_without() -> None:
    """A builtin without a signature can be a tool."""
    assert describe("getattr", getattr).parameters is None


class Color(enum.Enum):
    """A type of default whose members have values."""

    RED = "0123456789"


@pytest.mark.parametrize(
    ("default", "shown"),
    [
        (None, "None"),
        (False, "False"),
        (-3, "-3"),
        (1e-9, "1e-09"),
        ("utf-8", "'utf-8'"),
        ("sixteen letters.", "'sixteen letters.'"),
        ("seventeen letters", "..."),
        ("short-key", "..."),
        ("", "''"),
        ("1", "'1'"),
        (b"short", "..."),
        (Color.RED, "Color.RED"),
        (["a"], "..."),
        ({"key": "short"}, "..."),
        (object(), "..."),
        (type("Text", (str,), {"__repr__": lambda self: "secret"})("a"), "..."),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_default_that_may_be_a_secret_is_dots(default: object, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the cell nor an error text has a default that may be a key or contain one."""
    monkeypatch.setenv("SOME_KEY", "short-key")
    monkeypatch.setenv("SOME_SWITCH", "")
    monkeypatch.setenv("SOME_NUMBER", "1")

    def tool(query, option=default): ...  # type: ignore[no-untyped-def]

    parameters = describe("tool", tool).parameters
    assert parameters is not None
    assert parameters[1].default == shown
    with pytest.raises(TypeError) as caught:
        bind("tool", tool, (), {"wrong": 1})
    assert str(caught.value).endswith(f"Signature: tool(query, option={shown})")


def test_a_default_that_cannot_be_shown_is_dots() -> None:
    """A ``__repr__`` that raises does not stop the session."""

    class Shy:
        def __repr__(self) -> str:
            raise ValueError

    def tool(a: Shy = Shy()) -> None:  # noqa: B008
        pass

    assert describe("tool", tool).parameters == (Parameter("a", 1, "..."),)


@pytest.mark.parametrize("name", ["", "two words", "class", "1st", "a-b", 5, None])
def test_a_name_that_code_cannot_call_is_refused(name: Any) -> None:
    """The name of a tool must be an identifier."""
    with pytest.raises(ValueError, match="Invalid tool name"):
        describe(name, search)


def test_what_cannot_be_called_is_refused() -> None:
    """The error names the tool and its type."""
    tool: Any = 5
    with pytest.raises(TypeError, match="'five' is not callable: pass a function, not int"):
        describe("five", tool)


# --- bind and call -----------------------------------------------------------------------------------


def _shapes() -> list[Tool]:
    def nothing() -> Any:
        return ()

    def plain(a: Any, b: Any = 2) -> Any:
        return a, b

    def only(a: Any, /, b: Any, *, c: Any = 3) -> Any:
        return a, b, c

    def variable(a: Any, *rest: Any, c: Any = 3) -> Any:
        return a, rest, c

    def keywords(a: Any = 1, **more: Any) -> Any:
        return a, more

    def everything(a: Any, /, b: Any = 2, *rest: Any, c: Any = 3, **more: Any) -> Any:
        return a, b, rest, c, more

    class Callable:
        def __call__(self, a: Any, b: Any = 2) -> Any:
            return a, b

        def method(self, a: Any, b: Any = 2) -> Any:
            return a, b

    return [nothing, plain, only, variable, keywords, everything, Callable(), Callable().method]


_ARGUMENTS = st.lists(st.integers(0, 9), max_size=4)
_KEYWORDS = st.dictionaries(st.sampled_from(["a", "b", "c", "d", "rest", "more"]), st.integers(10, 19), max_size=3)


@pytest.mark.parametrize("tool", _shapes(), ids=lambda tool: getattr(tool, "__name__", "object"))
@examples.at_most(50)
@given(args=_ARGUMENTS, kwargs=_KEYWORDS)
def test_a_bound_call_is_the_direct_call(tool: Tool, args: list[int], kwargs: dict[str, int]) -> None:
    """A call with a dict of named arguments equals a direct call, or fails like it."""
    try:
        expected = tool(*args, **kwargs)
    except TypeError:
        with pytest.raises(TypeError):
            bind("tool", tool, args, kwargs)
        return
    assert call(tool, bind("tool", tool, args, kwargs)) == expected


def first(x: Any, /, **more: Any) -> Any:
    return x, more


def run_all(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def optional(x: Any = 0, /, y: Any = 1, **more: Any) -> Any:
    return x, y, more


@pytest.mark.parametrize(
    ("tool", "args", "kwargs"),
    [
        (first, [1], {"x": 2}),
        (first, [1], {"x": 2, "more": 3, "self": 4}),
        (run_all, [], {"args": [1, 2]}),
        (run_all, [1], {"args": 2, "kwargs": 3}),
        (optional, [], {"x": 2, "y": 3}),
        (optional, [1, 2], {"x": 2}),
        (search, ["q", 1, "r"], {"query": "x", "rest": "y"}),
    ],
    ids=lambda value: getattr(value, "__name__", None) or str(value),
)
def test_two_arguments_may_have_one_name(tool: Tool, args: list[Any], kwargs: dict[str, Any]) -> None:
    """``**kwargs`` may contain the name of a positional-only or variable parameter, as in Python itself."""
    assert call(tool, bind("tool", tool, args, kwargs)) == tool(*args, **kwargs)


def _positions_only(function: Tool) -> Tool:
    @functools.wraps(function)
    def inner(*args: Any) -> Any:
        return function(*args)

    return inner


def _keywords_only(function: Tool) -> Tool:
    @functools.wraps(function)
    def inner(**kwargs: Any) -> Any:
        return function(**kwargs)

    return inner


class Adder:
    """Methods of each kind, as tools."""

    def __call__(self, a: int, b: int = 2) -> Any:
        return a, b

    @classmethod
    def of_class(cls, a: int, b: int = 2) -> Any:
        return a, b

    @staticmethod
    def static(a: int, b: int = 2) -> Any:
        return a, b


def pair(a: Any, b: Any = 2) -> Any:
    return a, b


@pytest.mark.parametrize(
    ("tool", "args", "kwargs", "expected"),
    [
        (functools.partial(pair, 1), [5], {}, (1, 5)),
        (functools.partial(pair, 1), [], {"b": 5}, (1, 5)),
        (functools.partial(pair, b=7), [5], {}, (5, 7)),
        (functools.partial(functools.partial(run_all, 1), 2, c=3), [4], {"c": 5}, ((1, 2, 4), {"c": 5})),
        (functools.partial(first, 1), [], {"x": 2}, (1, {"x": 2})),
        (len, ["abc"], {}, 3),
        (sorted, [[2, 1]], {"reverse": True}, [2, 1]),
        (sum, [[1, 2]], {"start": 3}, 6),
        (pow, [2, 3], {"mod": 5}, 3),
        (max, [1, 5, 3], {}, 5),
        (min, [[]], {"default": 9}, 9),
        (dict, [[("a", 1)]], {"b": 2}, {"a": 1, "b": 2}),
        (dict, [], {"arg0": 1}, {"arg0": 1}),
        (int, ["ff"], {"base": 16}, 255),
        ("a,b".split, [","], {}, ["a", "b"]),
        ("{x}{0}".format, [1], {"x": 2}, "21"),
        (Adder(), [1], {"b": 3}, (1, 3)),
        (Adder().__call__, [1, 3], {}, (1, 3)),
        (Adder.of_class, [], {"b": 3, "a": 1}, (1, 3)),
        (Adder.static, [1], {}, (1, 2)),
        (functools.lru_cache(pair), [1], {}, (1, 2)),
        (_positions_only(pair), [1, 3], {}, (1, 3)),
        (_keywords_only(pair), [1, 3], {}, (1, 3)),
        (_keywords_only(first), [1], {"x": 2}, (1, {"x": 2})),
    ],
    ids=lambda value: getattr(value, "__name__", None) or type(value).__name__,
)
def test_every_kind_of_callable_is_called_as_in_python(
    tool: Tool, args: list[Any], kwargs: dict[str, Any], expected: Any
) -> None:
    """Partials, builtins, methods, objects and decorated functions take positions and keywords."""
    assert call(tool, bind("tool", tool, args, kwargs)) == expected
    assert describe("tool", tool).name == "tool"


def test_a_partial_has_the_docstring_of_its_function() -> None:
    """The class ``partial`` has a docstring of its own, which says nothing about the tool."""
    assert describe("find", functools.partial(search, "q")).doc.startswith("Find things.")


@pytest.mark.parametrize("size", [101, 5 << 20])
@pytest.mark.parametrize(
    "tool", [pair, len, _keywords_only(pair), Adder()], ids=["plain", "builtin", "wrapper", "object"]
)
def test_a_huge_name_is_cut_before_it_is_compared_or_shown(tool: Tool, size: int) -> None:
    """A cell may call a tool with a keyword of megabytes; the error has its beginning."""
    tracemalloc.start()
    try:
        with pytest.raises(TypeError) as refused:
            bind("tool", tool, [], {"k" * size: 1})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(str(refused.value)) < 300
    assert "k" * 100 in str(refused.value)
    assert peak < 5 * size + 1_000_000  # other threads of the process count as well


def test_a_huge_name_reaches_a_tool_that_takes_any() -> None:
    """Nothing is cut in a call that is right."""
    assert call(run_all, bind("run", run_all, [], {"k" * 500: 1})) == ((), {"k" * 500: 1})


@pytest.mark.parametrize(
    ("args", "kwargs", "prompts"),
    [
        (["one"], {}, ["one"]),
        ([], {"prompts": "one"}, ["one"]),
        ([], {"queries": "one"}, ["one"]),
        ([["one", "two"]], {}, ["one", "two"]),
        ([("one",)], {}, ("one",)),
        ([""], {}, [""]),
    ],
)
def test_one_text_is_one_prompt(args: list[Any], kwargs: dict[str, Any], prompts: Any) -> None:
    """``llm_query_batched("one")`` would otherwise ask the sub-LM about each character."""

    def tool(prompts: list[str]) -> Any:
        return prompts

    assert call(tool, bind("llm_query_batched", tool, args, kwargs)) == prompts
    assert bind("other", tool, ["one"], {}) == {"prompts": "one"}


def test_arguments_are_bound_by_name() -> None:
    """DSPy's callbacks receive a dict of arguments: ``**kwargs`` as further keys, ``*args`` as a tuple."""
    arguments = bind("search", search, ["q", 5, "x", "y"], {"sort": True, "extra": 1})
    assert arguments == {"query": "q", "k": 5, "rest": ("x", "y"), "sort": True, "extra": 1}


def test_defaults_are_left_to_the_tool() -> None:
    """Only arguments of the call are bound."""
    assert bind("search", search, ["q"], {}) == {"query": "q"}


def test_a_tool_that_takes_keywords_only_is_called_so() -> None:
    """DSPy wraps tools in objects with the function's signature that accept only keywords."""

    class Wrapper:
        __signature__ = inspect.signature(lambda a, b=2: None)

        def __call__(self, **kwargs: Any) -> Any:
            return kwargs

    tool = Wrapper()
    assert call(tool, bind("tool", tool, [1], {"b": 5})) == {"a": 1, "b": 5}


def test_what_has_no_signature_is_called_as_it_came() -> None:
    """Positions and keywords are kept."""
    arguments = bind("getattr", getattr, [5, "real"], {})
    assert arguments == {"arg0": 5, "arg1": "real"}
    assert call(getattr, arguments) == 5


def test_a_wrong_keyword_is_explained() -> None:
    """The error has the close match and the signature without annotations."""
    with pytest.raises(TypeError) as refused:
        bind("plain", lambda query, limit=1: None, [], {"querry": "x", "query": "y"})
    text = str(refused.value)
    assert text.startswith("plain() ")
    assert "did you mean 'query'?" in text
    assert text.endswith("Signature: plain(query, limit=1)")


@pytest.mark.parametrize(
    ("name", "parameter", "given"),
    [("llm_query", "prompt", "query"), ("llm_query", "prompt", "text"), ("llm_query_batched", "prompts", "queries")],
)
def test_near_misses_of_the_sub_lm_tools_are_mended(name: str, parameter: str, given: str) -> None:
    """Similar parameter names for DSPy's tools are accepted."""
    tools = {"prompt": lambda prompt: prompt, "prompts": lambda prompts: prompts}
    assert bind(name, tools[parameter], [], {given: ["x"]}) == {parameter: ["x"]}


def test_only_the_sub_lm_tools_are_mended() -> None:
    """The arguments of a user's tool are unchanged."""
    with pytest.raises(TypeError):
        bind("ask", lambda prompt: prompt, [], {"query": "x"})


# --- failure ----------------------------------------------------------------------------------------


def test_a_failure_tells_the_builtin_ancestors() -> None:
    """The nearest ancestor is first, and Exception is omitted."""

    class Custom(FileNotFoundError):
        pass

    assert failure(Custom("gone")) == ToolFailure("Custom", ("FileNotFoundError", "OSError"), "gone")
    assert failure(Exception("x")) == ToolFailure("Exception", (), "x")


def test_a_namesake_of_a_builtin_is_no_builtin() -> None:
    """A class with the name of a builtin exception is not one of its subclasses."""
    namesake = type("KeyError", (Exception,), {})
    assert failure(namesake("x")) == ToolFailure("KeyError", (), "x")


def test_a_message_that_cannot_be_made_is_empty() -> None:
    """A ``__str__`` that raises does not hide the failure."""

    class Shy(ValueError):
        def __str__(self) -> str:
            raise KeyError

    assert failure(Shy()) == ToolFailure("Shy", ("ValueError",), "")


# --- ToolRunner -------------------------------------------------------------------------------------


class Runner:
    """A tool runner with its tools, used like in an interpreter."""

    def __init__(self, **tools: Tool) -> None:
        self.runner = ToolRunner(self._invoke, 10_000)
        self.tools = tools
        self.invoked: list[tuple[str, dict[str, Any]]] = []

    def begin(self, caller_loop: asyncio.AbstractEventLoop | None = None) -> None:
        tool_loop = None if caller_loop is None else ToolLoop(caller_loop)
        self.runner.begin_cell(self.tools, contextvars.copy_context(), tool_loop)

    def _invoke(self, name: str, arguments: dict[str, Any]) -> Any:
        self.invoked.append((name, arguments))
        result = call(self.tools[name], arguments)
        return self.runner.wait_for(result) if inspect.isawaitable(result) else result

    async def run(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Run one call and return the result or the failure for the cell."""
        reply = await self.runner.run(name, values.dumps([list(args), kwargs]))
        value = values.loads(reply.buffers)
        return ToolFailure.from_value(value) if reply.op == "error" else value


@pytest.fixture
def runners() -> Iterator[list[Runner]]:
    """Provide tool runners that are closed after the test."""
    made: list[Runner] = []
    yield made
    for one in made:
        one.runner.close()


def make(runners: list[Runner], caller_loop: asyncio.AbstractEventLoop | None = None, **tools: Tool) -> Runner:
    runner = Runner(**tools)
    runners.append(runner)
    runner.begin(caller_loop)
    return runner


async def test_a_result_goes_back(runners: list[Runner]) -> None:
    """The tool's return value keeps its type; the call went through ``invoke`` with named arguments."""
    runner = make(runners, pair=lambda a, b: (a, b))
    assert await runner.run("pair", 1, b={2}) == (1, {2})
    assert runner.invoked == [("pair", {"a": 1, "b": {2}})]


async def test_a_tool_runs_in_a_thread_of_its_own(runners: list[Runner]) -> None:
    """A blocking tool does not block the loop, nor another call."""
    first, second = threading.Event(), threading.Event()

    def meet(mine: int) -> bool:
        here, there = (first, second) if mine == 1 else (second, first)
        here.set()
        return there.wait(10)

    runner = make(runners, meet=meet)
    assert list(await asyncio.gather(runner.run("meet", 1), runner.run("meet", 2))) == [True, True]


async def test_a_failure_goes_back(runners: list[Runner]) -> None:
    """The cell gets type, ancestors and message of the tool's exception."""
    runner = make(runners, fail=lambda: dict[str, int]()["k"])
    assert await runner.run("fail") == ToolFailure("KeyError", ("KeyError", "LookupError"), "'k'")


async def test_a_tool_that_was_not_offered_is_refused(runners: list[Runner]) -> None:
    """A name from the sandbox can only refer to this cell's tools."""
    runner = make(runners, tool=lambda: 1)
    assert (await runner.run("exec")).type == "NameError"
    assert (await runner.run("__class__")).type == "NameError"
    runner.tools = {}
    runner.begin()
    assert (await runner.run("tool")).type == "NameError"
    assert runner.invoked == []


async def test_a_wrong_call_is_the_cells_error(runners: list[Runner]) -> None:
    """The tool is not called with wrong arguments."""
    runner = make(runners, tool=lambda a: a)
    wrong = await runner.run("tool", 1, 2)
    assert (wrong.type, runner.invoked) == ("TypeError", [])
    assert "Signature: tool(a)" in wrong.message


@pytest.mark.parametrize("sent", [[], 5, [1, 2, 3], [[], []], [5, {}], [[], {1: 2}], "ab"])
async def test_a_malformed_call_is_the_cells_error(runners: list[Runner], sent: Any) -> None:
    """Any value in place of arguments is an error in the cell, not in the host."""
    runner = make(runners, tool=lambda *args, **kwargs: 1)
    reply = await runner.runner.run("tool", values.dumps(sent))
    assert reply.op in ("error", "result")
    assert (await runner.runner.run("tool", [b"\xff"])).op == "error"
    assert (await runner.runner.run("tool", [])).op == "error"


async def test_a_result_that_no_codec_carries_goes_as_text(runners: list[Runner]) -> None:
    """Unsupported results are sent as text, as in DSPy's own interpreters."""
    runner = make(runners, tool=lambda: [type("Page", (), {"__str__": lambda self: "page"})()], one=lambda: int)
    assert await runner.run("one") == str(int)
    assert isinstance(await runner.run("tool"), str)


async def test_a_result_beyond_the_limit_is_an_error(runners: list[Runner]) -> None:
    """A result above the limit is an error and is not truncated."""
    runner = make(runners, tool=lambda: "x" * 20_000)
    assert (await runner.run("tool")).type == "ValueTooLarge"


async def test_each_call_sees_the_callers_context(runners: list[Runner]) -> None:
    """Context variables of the ``execute`` call are visible, and changes of one call are not visible to others."""

    def bump() -> int:
        ANSWER.set(ANSWER.get() + 1)
        return ANSWER.get()

    token = ANSWER.set(41)
    runner = make(runners, bump=bump)
    ANSWER.reset(token)
    assert await asyncio.gather(*(runner.run("bump") for _ in range(5))) == [42] * 5
    assert ANSWER.get() == 0


async def test_an_async_tool_runs_on_a_loop_of_its_own(runners: list[Runner]) -> None:
    """Under sync ``execute`` the caller's loop may be blocked, so another one runs the tool, in the call's context."""

    async def tool(a: int) -> tuple[str, int]:
        await asyncio.sleep(0)
        return threading.current_thread().name, a + ANSWER.get()

    token = ANSWER.set(40)
    runner = make(runners, tool=tool)
    ANSWER.reset(token)
    assert await runner.run("tool", 2) == ("daytona-kernel-async-tools", 42)


async def test_an_async_tool_runs_on_the_callers_loop_if_that_is_free(runners: list[Runner]) -> None:
    """Under ``aexecute`` a tool runs on the loop of its clients and locks."""
    here = asyncio.get_running_loop()

    async def tool() -> bool:
        return asyncio.get_running_loop() is here

    assert await make(runners, here, tool=tool).run("tool") is True


async def test_an_async_tools_failure_goes_back(runners: list[Runner]) -> None:
    """Failures of async and sync tools are the same for the cell."""

    async def tool() -> None:
        raise ValueError("bad")

    assert await make(runners, tool=tool).run("tool") == ToolFailure("ValueError", ("ValueError",), "bad")


async def test_an_async_tool_that_is_cancelled_by_itself_is_the_hosts(runners: list[Runner]) -> None:
    """A CancelledError of a tool's code is an error with that name, not a cancellation of the calling task."""

    async def tool() -> None:
        raise asyncio.CancelledError

    task = asyncio.ensure_future(make(runners, tool=tool).run("tool"))
    await asyncio.wait([task], timeout=10)
    assert not task.cancelled()
    error = task.exception()
    assert isinstance(error, ToolAborted)
    assert isinstance(error.error, asyncio.CancelledError)


async def test_the_end_of_the_cell_cancels_async_calls(runners: list[Runner]) -> None:
    """A call without a waiting caller is cancelled."""
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def tool() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    runner = make(runners, asyncio.get_running_loop(), tool=tool)
    task = asyncio.ensure_future(runner.run("tool"))
    await asyncio.wait_for(started.wait(), 10)
    runner.runner.end_cell()
    await asyncio.wait_for(cancelled.wait(), 10)
    await asyncio.wait([task], timeout=10)
    assert task.done()


async def test_what_is_no_exception_is_the_hosts(runners: list[Runner]) -> None:
    """A KeyboardInterrupt or SystemExit of a tool ends the call on the host without a reply."""

    class Abort(BaseException):
        pass

    def tool() -> None:
        raise Abort

    with pytest.raises(ToolAborted) as caught:
        await make(runners, tool=tool).run("tool")
    assert isinstance(caught.value.error, Abort)


async def test_a_closed_runner_takes_no_calls(runners: list[Runner]) -> None:
    """After ``close``, which may be called twice, no call runs."""
    runner = make(runners, tool=lambda: 1)
    runner.runner.close()
    with pytest.raises(RuntimeError):
        await runner.run("tool")
    assert runner.invoked == []
