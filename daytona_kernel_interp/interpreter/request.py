"""A cell before it is sent: its code and names checked, its variables, tools and output fields encoded."""

from __future__ import annotations

import functools
import keyword
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic_core import to_jsonable_python

from ..codec import libraries, values
from ..tools.binding import InvalidTool, Tool, describe
from ..wire.comm import OutputField, Preamble, ToolSpec
from .dspy_errors import InvalidCall, UnsendableValue
from .options import check_output_fields
from .sent_inputs import EncodedInput, SentInputs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .dspy_compat import CodeInterpreterError
    from .options import CallSettings


class InvalidRequest(ValueError):
    """A call that cannot become a cell; the text says what was wrong."""


class UnsendableVariable(InvalidRequest, TypeError):
    """A variable whose value has no encoding, or takes more bytes than allowed."""


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
    tools: Mapping[str, Tool],
    output_fields: Sequence[Mapping[str, object]] | None,
    *,
    max_output_chars: int | None,
    max_value_bytes: int | None,
    inputs: SentInputs | None = None,
    requested: str | dict[str, object] | None = None,
    seed: int | None = None,
) -> CellRequest:
    """Return the request for one cell.

    Args:
        code: The source text.
        variables: Values to bind before the cell runs.
        tools: Host functions that the cell may call.
        output_fields: The fields of SUBMIT.
        max_output_chars: The cap on the cell's output.
        max_value_bytes: The cap on all variables together, in bytes.
        inputs: The values that the kernel keeps from earlier cells; they are not sent again.
        requested: What the kernel is to send back after the cell; see :attr:`Preamble.wanted`.
        seed: Seed of the kernel's random generators; used by its first cell only.

    Raises:
        InvalidRequest: If code, a name, a tool, a field or a variable cannot be sent.
        SyntaxError: If the code cannot be source text.
    """
    if not isinstance(code, str):
        raise InvalidRequest(f"code must be a str, not {type(code).__name__}.")
    try:
        code.encode("utf-8")
    except UnicodeEncodeError as error:
        raise SyntaxError(f"Invalid Python syntax. A lone surrogate at position {error.start}.") from None
    given = _check_names(variables)
    raw_only = any(name.startswith("__dspy_") for name in given)
    given = {name: _dspy_form(name, value) for name, value in given.items()} if raw_only else given
    encoded = _encode_each(given, inputs or SentInputs(), max_value_bytes)
    large = {name: one for name, one in encoded.items() if one.key}
    try:
        fields = check_output_fields(output_fields)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(str(error)) from None
    preamble = Preamble(
        variables={name: value for name, value in given.items() if name not in large},
        tools=_tool_specs(tools),
        fields=fields,
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
        raise UnsendableVariable(f"The variables cannot be sent to the kernel: {error}.") from error
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


def prepare_request(
    code: str,
    variables: Mapping[str, object] | None,
    settings: CallSettings,
    inputs: SentInputs,
    requested: str | dict[str, object] | None = None,
) -> CellRequest:
    """Return the request for one cell of an interpreter; see :func:`build_request`.

    Raises:
        UnsendableValue: If a variable cannot be sent.
        InvalidCall: If the call or a setting is wrong.
        SyntaxError: If the code cannot be source text.
    """
    try:
        settings.check()
    except (TypeError, ValueError) as error:
        raise InvalidCall(str(error)) from None
    try:
        return build_request(
            code,
            variables,
            settings.tools,
            settings.output_fields,
            max_output_chars=settings.max_output_chars,
            max_value_bytes=settings.max_value_bytes,
            inputs=inputs,
            requested=requested,
            seed=settings.seed,
        )
    except InvalidRequest as error:
        raise call_error(error) from error.__cause__


def call_error(error: InvalidRequest) -> CodeInterpreterError:
    """Return the error for DSPy of a call that cannot become a cell."""
    return (UnsendableValue if isinstance(error, UnsendableVariable) else InvalidCall)(str(error))


def _check_names(variables: Mapping[str, object] | None) -> dict[str, object]:
    if variables is not None and not isinstance(variables, Mapping):
        raise InvalidRequest(f"variables must be a dict of names and values, not {type(variables).__name__}.")
    for name in variables or {}:
        if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
            raise InvalidRequest(f"Invalid variable name: {name!r}. It must be a Python identifier.")
    return dict(variables or {})


def _dspy_form(name: str, value: object) -> object:
    """Return the JSON form in which DSPy's own interpreters send ``__dspy_`` variables; Flex compares it as text."""
    if not name.startswith("__dspy_"):
        return value
    try:
        jsonable: object = to_jsonable_python(value)
    except ValueError as error:
        raise UnsendableVariable(f"Variable {name!r} cannot be sent to the kernel: {error}.") from error
    return jsonable


def _encode_each(given: Mapping[str, object], inputs: SentInputs, max_bytes: int | None) -> dict[str, EncodedInput]:
    encoded, size = {}, 0
    for name, value in given.items():
        try:
            encoded[name] = inputs.encode(name, value, max_bytes)
        except (values.UnsupportedValue, values.ValueTooLarge) as error:
            raise UnsendableVariable(f"Variable {name!r} cannot be sent to the kernel: {error}.") from error
        size += sum(map(len, encoded[name].buffers))
    if max_bytes is not None and size > max_bytes:
        raise UnsendableVariable(f"The variables cannot be sent to the kernel: they take more than {max_bytes} bytes.")
    return encoded


def _tool_specs(tools: Mapping[str, Tool]) -> tuple[ToolSpec, ...]:
    if not isinstance(tools, Mapping):
        raise InvalidRequest(f"tools must be a dict of names and functions, not {type(tools).__name__}.")
    try:
        return tuple(describe(name, tool) for name, tool in tools.items())
    except InvalidTool as error:
        raise InvalidRequest(f"{error}.") from None
