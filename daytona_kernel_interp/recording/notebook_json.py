"""Parts of an entry's cell as JSON: its code, variables and calls, what was offered to it and how it ended.

The caller of ``execute`` waits for its cell to be written, and the code that does it has left the processor's caches
since the last one. So what is short is put together by hand, in a fifth of an encoder's time, and what is the same as
in the cell before is not made again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import orjson

from . import schema as fields

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .model import Entry, RecordedCall, Usage, ValueRef

K = TypeVar("K")
T = TypeVar("T")

quoted = json.encoder.encode_basestring_ascii
sorted_json = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode  # the form of all that is hashed


@dataclass(frozen=True)
class CodeText:
    """A cell's code: as one text, and as a notebook's lines."""

    sorted: str
    lines: str


class EntryEncoder:
    """Of one entry after the other. Not for two threads at once."""

    def __init__(self) -> None:
        self._code = _LastResultCache(_code_text)
        self._variables = _LastResultCache(_variables_text)
        self._offer = _LastResultCache(_offer_text)

    def code(self, code: str) -> CodeText:
        """Return an entry's code."""
        return self._code.of(code)

    def variables(self, variables: Mapping[str, ValueRef]) -> str:
        """Return what was bound before it."""
        return self._variables.of(variables)

    def offer(
        self,
        output_fields: Sequence[Mapping[str, Any]] | None,
        reasoning: str | None,
        tools: ValueRef | None,
        usage: Usage | None,
    ) -> str:
        """Return what led to it and what was offered to it."""
        return self._offer.of((output_fields, reasoning, tools, usage))


def _code_text(code: str) -> CodeText:
    return CodeText(quoted(code), lines_text(code))


def _variables_text(variables: Mapping[str, ValueRef]) -> str:
    return f"{{{','.join([f'{quoted(name)}:{_ref_text(variables[name])}' for name in sorted(variables)])}}}"


def _offer_text(offer: tuple[Sequence[Mapping[str, Any]] | None, str | None, ValueRef | None, Usage | None]) -> str:
    return sorted_json(fields.offer_to_json(*offer))


def call_text(call: RecordedCall) -> str:
    """Return a call as sorted JSON."""
    error = ""
    if call.error is not None:
        name, bases, message = call.error
        error = f'"error":[{quoted(name)},{sorted_json(list(bases))},{quoted(message)}],'
    result = "" if call.result is None else f',"result":{_ref_text(call.result)}'
    usage = "" if call.usage is None else f',"usage":{sorted_json(fields.usage_to_json(call.usage))}'
    return (
        f'{{"arguments":{_ref_text(call.arguments)},"began_s":{_seconds(call.began_s)},'
        f'"elapsed_s":{_seconds(call.elapsed_s)},{error}"id":{call.id},"kind":"{call.kind}",'
        f'"name":{quoted(call.name)}{result}{usage}}}'
    )


def ending_text(entry: Entry) -> str:
    """Return what is known of an entry when it has ended, as sorted JSON without its braces."""
    outcome = entry.outcome
    late = f'"late":{quoted(entry.late)},' if entry.late else ""
    error = f'"error":{quoted(outcome.error)},' if outcome.error else ""
    text = f',"text":{quoted(outcome.text)}' if outcome.text else ""
    value = "" if outcome.value is None else f',"value":{_ref_text(outcome.value)}'
    return (
        f'"elapsed_s":{_seconds(entry.elapsed_s)},"id":{quoted(entry.id)},"index":{entry.index},{late}'
        f'"outcome":{{"ending":"{outcome.ending}",{error}"kind":"{outcome.kind}"{text}{value}}}'
    )


def _ref_text(ref: ValueRef) -> str:
    return f'{{"hash":{quoted(ref.hash)},"size":{ref.size},"summary":{quoted(ref.summary)}}}'


def _seconds(value: float | None) -> str:
    return "null" if value is None else repr(fields.seconds(value))


class _LastResultCache(Generic[K, T]):
    """What was made last, for as long as the same is asked for."""

    def __init__(self, make: Callable[[K], T]) -> None:
        self._make = make
        self._made: tuple[K, T] | None = None

    def of(self, key: K) -> T:
        if self._made is None or self._made[0] != key:
            self._made = (key, self._make(key))
        return self._made[1]


def lines_of(text: str) -> list[str]:
    """Return a text as nbformat has it."""
    return text.splitlines(keepends=True)


def lines_text(text: str) -> str:
    """Return a text as nbformat has it, as JSON."""
    if text.isascii():
        return f"[{','.join(map(quoted, text.splitlines(keepends=True)))}]"
    return json_text(lines_of(text))


def json_text(value: Any) -> str:
    """Return what goes into a notebook as JSON, without what JSON or UTF-8 do not have."""
    try:
        return orjson.dumps(value).decode("utf-8")
    except TypeError:  # a sandbox sends what it likes: lone surrogates, huge numbers, any depth
        return json.dumps(_plain(value, 0), separators=(",", ":"))


def _plain(value: Any, depth: int) -> Any:
    if depth > 100:
        return "…"
    if isinstance(value, dict):
        return {str(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth + 1) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return value if isinstance(value, float) and value - value == 0 else str(value)
