"""Tests of ``tools.argument_types``."""

from __future__ import annotations

import contextvars
import dataclasses
import functools
import gc
import weakref
from typing import TYPE_CHECKING, Annotated, Any

import pydantic
import pytest

from daytona_kernel_interp.codec import values
from daytona_kernel_interp.codec.records import Record
from daytona_kernel_interp.tools.argument_types import validate_arguments
from daytona_kernel_interp.tools.binding import ToolRunner, bind
from daytona_kernel_interp.wire.comm import ToolFailure

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForCheckers

    from daytona_kernel_interp.tools.bound_arguments import BoundArguments


class Query(pydantic.BaseModel):
    text: str
    limit: int = 5


@dataclasses.dataclass
class Place:
    x: int
    y: int = 0


def search(
    query: Query,
    places: list[Place] | None = None,
    *more: Query,
    option: Annotated[Place | None, "any"] = None,
    count: int = 0,
) -> Any:
    return query, places, more, option, count


def called(tool: Any, *args: Any, **kwargs: Any) -> BoundArguments:
    return validate_arguments(tool, bind("tool", tool, args, kwargs))


def test_dicts_and_records_become_instances() -> None:
    """Values within lists, unions, annotations and variable arguments are converted too."""
    arguments = called(search, {"text": "a"}, [Record("Place", {"x": 1}), {"x": 2, "y": 3}], {"text": "b", "limit": 1})
    assert arguments == {
        "query": Query(text="a"),
        "places": [Place(1), Place(2, 3)],
        "more": (Query(text="b", limit=1),),
    }
    assert called(search, query=Query(text="a"), option={"x": 1})["option"] == Place(1)


def test_nothing_else_is_converted() -> None:
    """A str for an int is unchanged; the tool must handle it."""
    assert called(search, {"text": "a"}, count="5")["count"] == "5"


def test_what_does_not_fit_names_the_field() -> None:
    """The cell gets the tool's error with the field."""
    with pytest.raises(pydantic.ValidationError, match=r"Query\ntext\n  Field required"):
        called(search, {})
    with pytest.raises(pydantic.ValidationError, match="valid integer"):
        called(search, {"text": "a"}, [{"x": "one"}])


def unknown(query: Query, other: OnlyForCheckers) -> Any:
    return query, other


@functools.wraps(search)
def wrapped(*args: Any, **kwargs: Any) -> Any:
    return search(*args, **kwargs)


def test_what_cannot_be_read_is_left_alone() -> None:
    """Annotations for type checkers, builtins, and wrappers with a foreign signature are ignored."""
    assert called(unknown, {"text": "a"}, 1)["query"] == {"text": "a"}
    assert called(print, {"text": "a"}) == {"args": ({"text": "a"},)}
    assert called(wrapped, {"text": "a"})["query"] == Query(text="a")
    facade = functools.partial(search)
    facade.__signature__ = None  # type: ignore[attr-defined]
    assert called(facade, {"text": "a"})["query"] == {"text": "a"}


def test_a_tool_is_not_kept_alive() -> None:
    """A tool is not kept alive, because it may refer to the interpreter."""

    def tool(query: Query) -> str:
        return query.text

    assert called(tool, {"text": "a"}) == {"query": Query(text="a")}
    weak = weakref.ref(tool)
    del tool
    gc.collect()
    assert weak() is None


class Finder:
    """A tool that is an object."""

    def __call__(self, query: Query, **more: Place) -> Any:
        return query, more


@pytest.mark.parametrize("tool", [Finder(), Finder().__call__, functools.partial(Finder()), functools.partial(search)])
def test_objects_and_partials_get_instances(tool: Any) -> None:
    """The annotations are those of the function that is called in the end."""
    assert called(tool, {"text": "a"})["query"] == Query(text="a")


def test_each_of_the_further_keywords_is_converted() -> None:
    """The annotation of ``**more`` is that of each of its values, also where a name hides a parameter's."""

    def tool(query: str, /, **more: Place) -> None: ...

    assert called(tool, "a", b={"x": 1}, query={"x": 2}).as_passed() == (["a"], {"b": Place(1), "query": Place(2)})


async def run(tool: Any, *args: Any) -> Any:
    runner = ToolRunner(lambda name, arguments: tool(**arguments), None)
    try:
        runner.begin_cell({"tool": tool}, contextvars.copy_context(), None)
        reply = await runner.run("tool", values.dumps([list(args), {}]))
    finally:
        runner.close()
    return reply.op, values.loads(reply.buffers)


async def test_the_cell_gets_the_validation_error() -> None:
    """A call from a cell is validated before the tool runs."""

    def tool(query: Query) -> str:
        return query.text

    op, value = await run(tool, {"text": "a"})
    assert (op, value) == ("result", "a")
    op, value = await run(tool, {"txt": "a"})
    failure = ToolFailure.from_value(value)
    assert (op, failure.type) == ("error", "ValidationError")
    assert "ValueError" in failure.bases
    assert "Field required" in failure.message
