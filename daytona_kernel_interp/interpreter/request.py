"""A cell before it is sent: its code and names checked, its variables, tools and fields encoded."""

from __future__ import annotations

import functools
import keyword
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic_core import to_jsonable_python

from ..codec import libraries, values
from ..tools.binding import InvalidTool, Tool, describe
from ..wire.comm import OutputField, Preamble, ToolSpec
from .sent_inputs import EncodedInput, SentInputs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class InvalidRequest(ValueError):
    """A call that cannot become a cell; the text says what was wrong."""


@dataclass(frozen=True)
class CellRequest:
    """A cell, ready to be sent."""

    code: str
    buffers: list[values.Buffer]  # its preamble
    raw_only: bool  # Flex's cells want the bare value of the last expression
    complete_request: Callable[[], CellRequest] | None = (
        None  # the same with what the kernel is thought to have, if that is anything
    )
    # What is in the preamble, for the recorder.
    variables: Mapping[str, EncodedInput] = field(default_factory=dict)
    tools: tuple[ToolSpec, ...] = ()
    fields: tuple[OutputField, ...] | None = None


def build_request(
    code: str,
    variables: Mapping[str, Any] | None,
    tools: Mapping[str, Tool],
    output_fields: Sequence[Mapping[str, Any]] | None,
    *,
    max_output_chars: int | None,
    max_value_bytes: int | None,
    inputs: SentInputs | None = None,
    requested: str | dict[str, Any] | None = None,
    seed: int | None = None,
) -> CellRequest:
    """Return the request for one cell.

    ``inputs`` knows what need not be sent; ``requested`` is what the kernel is to send back after the cell; ``seed`` is
    what the kernel's random generators are set to before its first cell.

    Raises:
        InvalidRequest: If code, a name, a tool or a variable is none that can be sent.
        SyntaxError: If the code cannot be source text.
    """
    _check_code(code)
    given = _named(variables)
    raw_only = any(name.startswith("__dspy_") for name in given)
    given = {name: _dspy_form(name, value) for name, value in given.items()} if raw_only else given
    encoded = _encode_each(given, inputs or SentInputs(), max_value_bytes)
    large = {name: one for name, one in encoded.items() if one.key}
    preamble = Preamble(
        variables={name: value for name, value in given.items() if name not in large},
        tools=_tool_specs(tools),
        fields=fields_of(output_fields),
        max_output_chars=max_output_chars,
        max_value_bytes=max_value_bytes,
        kept=tuple((name, one.key, len(one.buffers)) for name, one in large.items()),
        wanted=requested,
        arrow=libraries.has_arrow(),
        seed=seed,
    )
    try:
        buffers = values.dumps(preamble.to_value(), max_bytes=max_value_bytes)
    except (values.UnsupportedValue, values.ValueTooLarge) as error:
        raise InvalidRequest(f"The variables cannot be sent to the kernel: {error}.") from error
    for one in large.values():
        buffers += one.buffers
    whole = None
    if not all(one.buffers for one in large.values()):
        whole = functools.partial(
            build_request,
            code,
            variables,
            tools,
            output_fields,
            max_output_chars=max_output_chars,
            max_value_bytes=max_value_bytes,
            requested=requested,
            seed=seed,
        )
    return CellRequest(code, buffers, raw_only, whole, encoded, preamble.tools, preamble.fields)


def _encode_each(given: Mapping[str, Any], inputs: SentInputs, max_bytes: int | None) -> dict[str, EncodedInput]:
    encoded, size = {}, 0
    for name, value in given.items():
        try:
            encoded[name] = inputs.encode(name, value, max_bytes)
        except (values.UnsupportedValue, values.ValueTooLarge) as error:
            raise InvalidRequest(f"Variable {name!r} cannot be sent to the kernel: {error}.") from error
        size += sum(map(len, encoded[name].buffers))
    if max_bytes is not None and size > max_bytes:
        raise InvalidRequest(f"The variables cannot be sent to the kernel: they take more than {max_bytes} bytes.")
    return encoded


def fields_of(output_fields: Sequence[Mapping[str, Any]] | None) -> tuple[OutputField, ...] | None:
    """Return what SUBMIT takes, or None if that is one value without a name of its own.

    Raises:
        InvalidRequest: If they are no list of fields with different names.
    """
    if output_fields is None:
        return None
    if not isinstance(output_fields, (list, tuple)):
        raise InvalidRequest(f"output_fields must be a list of fields or None, not {type(output_fields).__name__}.")
    fields = []
    for given in output_fields:
        if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
            raise InvalidRequest(f'An output field is {{"name": str, "type": str}}, "type" optional; not {given!r}.')
        fields.append(OutputField(given["name"], str(given.get("type") or "")))
    names = [field.name for field in fields]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InvalidRequest(f"Two output fields are called {twice!r}.")
    return tuple(fields)


def tools_of(tools: Mapping[str, Tool] | None) -> dict[str, Tool]:
    """Return a dict of the tools, the constructor's own.

    Raises:
        TypeError: If they are no mapping.
    """
    if tools is not None and not isinstance(tools, Mapping):
        raise TypeError(f"tools must be a dict of names and functions, not {type(tools).__name__}.")
    return dict(tools or {})


def check_limits(**limits: float | None) -> None:
    """Check settings of which each is a positive number, or None for no limit.

    Raises:
        InvalidRequest: If one is neither.
    """
    for name, limit in limits.items():
        if limit is None:
            continue
        if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not limit > 0:
            raise InvalidRequest(f"{name} must be a positive number or None, not {limit!r}.")


def _check_code(code: str) -> None:
    if not isinstance(code, str):
        raise InvalidRequest(f"code must be a str, not {type(code).__name__}.")
    try:
        code.encode("utf-8")
    except UnicodeEncodeError as error:
        raise SyntaxError(f"Invalid Python syntax. A lone surrogate at position {error.start}.") from None


def _named(variables: Mapping[str, Any] | None) -> dict[str, Any]:
    if variables is not None and not isinstance(variables, Mapping):
        raise InvalidRequest(f"variables must be a dict of names and values, not {type(variables).__name__}.")
    for name in variables or {}:
        if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
            raise InvalidRequest(f"Invalid variable name: {name!r}. It must be a Python identifier.")
    return dict(variables or {})


def _tool_specs(tools: Mapping[str, Tool]) -> tuple[ToolSpec, ...]:
    if not isinstance(tools, Mapping):
        raise InvalidRequest(f"tools must be a dict of names and functions, not {type(tools).__name__}.")
    try:
        return tuple(describe(name, tool) for name, tool in tools.items())
    except InvalidTool as error:
        raise InvalidRequest(f"{error}.") from None


def _dspy_form(name: str, value: Any) -> Any:
    """Return the JSON form in which DSPy's own interpreters send ``__dspy_`` variables; Flex compares it as text."""
    if not name.startswith("__dspy_"):
        return value
    try:
        return to_jsonable_python(value)
    except ValueError as error:
        raise InvalidRequest(f"Variable {name!r} cannot be sent to the kernel: {error}.") from error
