"""Tests of ``tools.signatures`` with the tools of DSPy; ``test_binding`` has those of Python."""

from __future__ import annotations

import ast
import asyncio
import inspect
import sys
import types
from typing import Any

import pytest

dspy = pytest.importorskip("dspy")

from daytona_kernel_interp.interpreter.instructions import with_tools  # noqa: E402  (imports dspy)
from daytona_kernel_interp.tools.binding import bind, call, describe  # noqa: E402
from daytona_kernel_interp.tools.signatures import dspy_tool_of, signature_of_tool  # noqa: E402

pytestmark = pytest.mark.dspy

SCHEMA = {
    "properties": {
        "query": {"type": "string", "description": "What to find."},
        "limit": {"type": "integer", "default": 5},
        "max-size": {"type": "integer"},
        "kwargs": {"type": "string"},
    },
    "required": ["query"],
}


class TextContent:
    """The class of MCP's SDK, as far as DSPy uses it."""

    def __init__(self, text: str) -> None:
        self.text = text


class McpSession:
    """A session with an MCP server that returns what it was called with."""

    async def call_tool(self, name: str, arguments: dict[str, Any] | None = None) -> Any:
        await asyncio.sleep(0)
        return types.SimpleNamespace(content=[TextContent(f"{name} {arguments}")], isError=False)


@pytest.fixture
def mcp_tool(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A tool that DSPy made from one of an MCP server."""
    module = types.ModuleType("mcp.types")
    module.TextContent = TextContent  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mcp", types.ModuleType("mcp"))
    monkeypatch.setitem(sys.modules, "mcp.types", module)
    listed = types.SimpleNamespace(name="search", description="Search.\n  All.", inputSchema=SCHEMA)
    return dspy.Tool.from_mcp_tool(McpSession(), listed)


def handed_over(tool: Any) -> Any:
    """Return the tool as ``dspy.RLM`` hands it to an interpreter."""
    rlm = dspy.RLM("question -> answer", tools=[tool])
    if not hasattr(rlm, "_make_interpreter_tool"):
        pytest.skip("DSPy before 3.3 hands over the function itself")
    return rlm._make_interpreter_tool(rlm.tools[tool.name])


def add(a: int, b: int = 2) -> int:
    """Add two numbers."""
    return a + b


async def wait(a: int, b: int = 2) -> int:
    """Add them later."""
    await asyncio.sleep(0)
    return a + b


def everything(a: int, /, *rest: int, **more: int) -> Any:
    """Take everything."""
    return a, rest, more


async def settled(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("function", [add, wait])
@pytest.mark.parametrize(("args", "kwargs"), [([1], {}), ([1, 4], {}), ([1], {"b": 5}), ([], {"b": 1, "a": 2})])
async def test_a_tool_of_dspy_is_called_like_its_function(
    function: Any, args: list[Any], kwargs: dict[str, Any], wrapped: bool
) -> None:
    """By position and by keyword, sync and async, alone and in the wrapper of RLM."""
    tool = dspy.Tool(function)
    tool = handed_over(tool) if wrapped else tool
    expected = await settled(function(*args, **kwargs))
    assert await settled(call(tool, bind("add", tool, args, kwargs))) == expected
    spec = describe("add", tool)
    assert spec.doc == function.__doc__
    assert [(p.name, p.default) for p in spec.parameters or ()] == [("a", None), ("b", "2")]


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(("args", "kwargs"), [([1, 2, 3], {}), ([1], {"a": 5}), ([1, 2], {"b": 3}), ([1], {})])
def test_positions_without_a_name_reach_the_function(args: list[int], kwargs: dict[str, int], wrapped: bool) -> None:
    """DSPy's tools accept keywords only, so a call that needs positions goes to the function behind them."""
    tool = dspy.Tool(everything)
    tool = handed_over(tool) if wrapped else tool
    assert call(tool, bind("everything", tool, args, kwargs)) == everything(*args, **kwargs)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    ("args", "kwargs", "arguments"),
    [
        (["a"], {}, {"query": "a"}),
        (["a", 3], {}, {"query": "a", "limit": 3}),
        ([], {"query": "a", "max-size": 1}, {"query": "a", "max-size": 1}),
        (["a"], {"kwargs": "b", "unlisted": 1}, {"query": "a", "kwargs": "b", "unlisted": 1}),
    ],
)
async def test_a_tool_of_an_mcp_server_has_the_parameters_of_its_schema(
    mcp_tool: Any, args: list[Any], kwargs: dict[str, Any], arguments: dict[str, Any], wrapped: bool
) -> None:
    """DSPy's function is ``func(*args, **kwargs)``, which would drop what is passed by position."""
    tool = handed_over(mcp_tool) if wrapped else mcp_tool
    text = await settled(call(tool, bind("search", tool, args, kwargs)))
    assert text.startswith("search ")
    assert ast.literal_eval(text.removeprefix("search ")) == arguments


def test_the_cell_sees_the_parameters_of_an_mcp_tool(mcp_tool: Any) -> None:
    """Its signature, its description, and a refusal that names what is missing."""
    tool = handed_over(mcp_tool)
    assert str(signature_of_tool(tool)).startswith("(query, limit=5, *, kwargs=Ellipsis, **kwargs_")
    assert describe("search", tool).doc == "Search.\nAll."
    with pytest.raises(TypeError, match="missing a required argument: 'query'"):
        bind("search", tool, [], {"limit": 1})
    assert "- `search(query, limit=5, kwargs=..., **kwargs_" in with_tools("", {"search": tool})


def test_nothing_else_is_taken_for_a_tool_of_dspy() -> None:
    """Neither a decorated function whose closure has one, nor an object with the same attributes."""
    tool = dspy.Tool(add)

    def wrapper(**kwargs: Any) -> Any:
        return tool(**kwargs)

    wrapper.__wrapped__ = wait  # type: ignore[attr-defined]
    assert dspy_tool_of(wrapper) is None
    assert dspy_tool_of(types.SimpleNamespace(func=add, args={})) is None  # type: ignore[arg-type]
    assert dspy_tool_of(add) is None
    assert dspy_tool_of(tool) is tool
