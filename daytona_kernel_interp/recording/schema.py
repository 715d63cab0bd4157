"""Convert the model to the JSON in the metadata of cells and notebook, and back; its form is ``schemas/v1.json``.

The dataclasses of the model are written in the order of their fields, without those that have their default. pydantic
reads them. It ignores keys that it does not know, which the schema forbids to write: a reader must be able to read
what a later program of the same schema version adds.
"""

from __future__ import annotations

import functools
from dataclasses import MISSING, dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from ..wire.comm import Parameter, ToolSpec
from .model import Entry, Moment, Outcome, RecordedCall, Usage, ValueRef

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..client.outputs import Output

JsonObject = dict[str, object]

T = TypeVar("T")


@dataclass(frozen=True)
class _EntryForm:
    """An entry as it is written: without code and outputs, and with a reference to its tools."""

    index: int
    id: str
    began: Moment
    elapsed_s: float | None
    outcome: Outcome
    # dict and tuple: pydantic reads these twice as fast as Mapping and Sequence.
    variables: dict[str, ValueRef]
    calls: tuple[RecordedCall, ...]
    output_fields: tuple[dict[str, Any], ...] | None = None
    reasoning: str | None = None
    tools: ValueRef | None = None
    usage: Usage | None = None
    late: str = ""


# --- to JSON ---------------------------------------------------------------------------------------------


def rounded(value: float) -> float:
    """Return a duration, or an amount of money, as it is written: rounded to a millionth, whole numbers as int.

    JavaScript has no ``1.0``: a notebook that JupyterLab saved has ``1``, and the cell's hash must not change by that.
    """
    millionths = round(value * 1e6)
    return millionths / 1e6 if millionths % 1_000_000 else millionths // 1_000_000


@functools.cache
def _fields(form: type[Any]) -> list[tuple[str, object]]:
    return [(field.name, field.default) for field in fields(form)]


def to_json(part: object, form: type[Any] | None = None, **replaced: object) -> JsonObject:
    """Return a part of the model as JSON: its fields in their order, without those that have their default.

    Args:
        part: A dataclass of the model.
        form: The dataclass that names the fields, if it is not that of ``part``.
        replaced: Fields with another value than ``part`` has.
    """
    made: JsonObject = {}
    for name, default in _fields(form or type(part)):  # type: ignore[arg-type]  # a class is hashable
        item = replaced[name] if name in replaced else getattr(part, name)
        if default is MISSING or item != default:
            convert = _CONVERSIONS.get(type(item))
            made[name] = item if convert is None else convert(item)
    return made


_CONVERSIONS: dict[type, Callable[[Any], object]] = {
    float: rounded,
    datetime: datetime.isoformat,
    ValueRef: vars,
    Usage: to_json,
    Outcome: to_json,
    tuple: lambda items: [to_json(item) if isinstance(item, RecordedCall) else item for item in items],
    dict: lambda items: {name: vars(item) if isinstance(item, ValueRef) else item for name, item in items.items()},
}


def entry_to_json(entry: Entry, tools: ValueRef | None) -> JsonObject:
    """Return an entry as JSON without code and outputs, which stand in the cell; ``tools`` refers to its tools."""
    return to_json(entry, _EntryForm, calls=tuple(entry.calls), tools=tools)


def tools_to_json(tools: Sequence[ToolSpec]) -> list[JsonObject]:
    """Return the tools of a cell as JSON."""
    return [
        {
            "name": tool.name,
            "doc": tool.doc,
            "parameters": None if tool.parameters is None else [[p.name, p.kind, p.default] for p in tool.parameters],
        }
        for tool in tools
    ]


# --- from JSON: a function raises ValidationError, a ValueError, if the JSON has another form ----------------


@functools.cache
def _adapter(form: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(form)


@dataclass(frozen=True)
class _ToolForm:
    name: str
    doc: str
    parameters: tuple[tuple[str, int, str | None], ...] | None


def from_json(form: type[T], data: object) -> T:
    """Return the facts of a session, or a call of a language model, from JSON."""
    read: T = _adapter(form).validate_python(data)  # type: ignore[arg-type]  # a class is hashable
    return read


def tool_from_json(data: object) -> ToolSpec:
    """Return a tool of a cell from JSON."""
    tool = from_json(_ToolForm, data)
    parameters = None if tool.parameters is None else tuple(Parameter(*one) for one in tool.parameters)
    return ToolSpec(tool.name, tool.doc, parameters)


def entry_from_json(
    data: object, code: str, outputs: Sequence[Output], tools_of: Callable[[ValueRef], tuple[ToolSpec, ...]]
) -> Entry:
    """Return an entry from JSON, with the code and outputs of its cell; ``tools_of`` loads its tools."""
    given = vars(from_json(_EntryForm, data))
    tools = () if given["tools"] is None else tools_of(given["tools"])
    return Entry(**{**given, "code": code, "outputs": tuple(outputs), "tools": tools})


def reason_of(error: Exception) -> str:
    """Return why JSON could not be read, as a clause that names the field."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            return f"{field} is missing"
        return f"it has another form than was recorded: {field + ': ' if field else ''}{first['msg']}"
    if isinstance(error, AttributeError):  # from a value that should be an object
        return "it has another form than was recorded"
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)
