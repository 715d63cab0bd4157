"""A cell before it is sent: its code and names checked, its variables, tools and output fields encoded."""

from __future__ import annotations

import functools
import keyword
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic_core import to_jsonable_python

from ..codec import libraries, values
from ..wire.comm import OutputField, Preamble, ToolSpec
from .dspy_errors import InvalidCall, UnsendableValue
from .options import CallSettings, check_output_fields, check_tools
from .sent_inputs import EncodedInput, SentInputs

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class CellRequest:
    """A cell, ready to be sent.

    Attributes:
        code: The source text.
        buffers: The encoded preamble.
        raw_only: Whether the caller wants the bare value of the last expression, as DSPy's Flex does.
        complete_request: Builds the same request with the large variables that the kernel is expected to keep from
            earlier cells. None if there are none.
        variables: The encoded variables, for the recorder; as are ``tools`` and ``fields``.
    """

    code: str
    buffers: list[values.Buffer]
    raw_only: bool
    complete_request: Callable[[], CellRequest] | None = None
    variables: Mapping[str, EncodedInput] = field(default_factory=dict)
    tools: tuple[ToolSpec, ...] = ()
    fields: tuple[OutputField, ...] | None = None


def build_request(
    code: str,
    variables: Mapping[str, object] | None,
    settings: CallSettings,
    inputs: SentInputs,
    requested: str | dict[str, object] | None = None,
) -> CellRequest:
    """Return the request for one cell.

    Args:
        code: The source text.
        variables: Values to bind before the cell runs.
        settings: The settings of the call.
        inputs: The values that the kernel keeps from earlier cells; they are not sent again.
        requested: What the kernel is to send back after the cell; see :attr:`Preamble.wanted`.

    Raises:
        UnsendableValue: If a variable has no encoding, or takes more bytes than allowed.
        InvalidCall: If the code, a name or a setting is wrong.
        SyntaxError: If the code cannot be source text.
    """
    try:
        settings.check()
        fields, tools = check_output_fields(settings.output_fields), check_tools(settings.tools)
        _check_cell(code, variables)
    except (TypeError, ValueError) as error:
        raise InvalidCall(str(error)) from None
    given, max_bytes = dict(variables or {}), settings.max_value_bytes
    raw_only = any(name.startswith("__dspy_") for name in given)
    given = {name: _dspy_form(name, value) for name, value in given.items()} if raw_only else given
    encoded = _encode_each(given, inputs, max_bytes)
    large = {name: one for name, one in encoded.items() if one.key}
    preamble = Preamble(
        variables={name: value for name, value in given.items() if name not in large},
        tools=tools,
        fields=fields,
        max_output_chars=settings.max_output_chars,
        max_value_bytes=max_bytes,
        kept=tuple((name, one.key, len(one.buffers)) for name, one in large.items()),
        wanted=requested,
        arrow=libraries.has_arrow(),
        seed=settings.seed,
    )
    try:
        buffers = values.dumps(preamble.to_value(), max_bytes=max_bytes)
    except (values.UnsupportedValue, values.ValueTooLarge) as error:
        raise UnsendableValue(f"The variables cannot be sent to the kernel: {error}.") from error
    for one in large.values():
        buffers += one.buffers
    whole = None
    if not all(one.buffers for one in large.values()):
        whole = functools.partial(build_request, code, variables, settings, SentInputs(), requested)
    return CellRequest(code, buffers, raw_only, whole, encoded, tools, fields)


def _check_cell(code: object, variables: object) -> None:
    """Check the types of a call's arguments and the names of its variables."""
    if not isinstance(code, str):
        raise TypeError(f"code must be a str, not {type(code).__name__}.")
    try:
        code.encode("utf-8")
    except UnicodeEncodeError as error:
        raise SyntaxError(f"Invalid Python syntax. A lone surrogate at position {error.start}.") from None
    if variables is not None and not isinstance(variables, Mapping):
        raise TypeError(f"variables must be a dict of names and values, not {type(variables).__name__}.")
    for name in variables or {}:
        if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
            raise ValueError(f"Invalid variable name: {name!r}. It must be a Python identifier.")


def _dspy_form(name: str, value: object) -> object:
    """Return the JSON form in which DSPy's own interpreters send ``__dspy_`` variables; Flex compares it as text."""
    if not name.startswith("__dspy_"):
        return value
    try:
        jsonable: object = to_jsonable_python(value)
    except ValueError as error:
        raise UnsendableValue(f"Variable {name!r} cannot be sent to the kernel: {error}.") from error
    return jsonable


def _encode_each(given: Mapping[str, object], inputs: SentInputs, max_bytes: int | None) -> dict[str, EncodedInput]:
    encoded, size = {}, 0
    for name, value in given.items():
        try:
            encoded[name] = inputs.encode(name, value, max_bytes)
        except (values.UnsupportedValue, values.ValueTooLarge) as error:
            raise UnsendableValue(f"Variable {name!r} cannot be sent to the kernel: {error}.") from error
        size += sum(map(len, encoded[name].buffers))
    if max_bytes is not None and size > max_bytes:
        raise UnsendableValue(f"The variables cannot be sent to the kernel: they take more than {max_bytes} bytes.")
    return encoded
