"""Parts of an entry's cell as JSON: its code, variables and calls, and what was offered to it.

The caller of ``execute`` waits for its cell to be written. These are known while the kernel still works, so they can be
made then, and what was the same in the cell before is not made again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import orjson

from . import fields, prose

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .model import Call, Entry, Ref, Usage

K = TypeVar("K")
T = TypeVar("T")

_quoted = json.encoder.encode_basestring_ascii
sorted_json = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode  # the form of all that is hashed


@dataclass(frozen=True)
class CodeText:
    """A cell's code: as one text, and as a notebook's lines."""

    sorted: str
    lines: str


@dataclass(frozen=True)
class CallText:
    """A call: for the metadata, and for a reader."""

    call: Call
    sorted: str
    shown: str


class Parts:
    """Of one entry after the other. Not for two threads at once."""

    def __init__(self) -> None:
        self._code = _Last(_code_text)
        self._variables = _Last(_variables_text)
        self._offer = _Last(_offer_text)
        self._calls: dict[int, CallText] = {}

    def code(self, code: str) -> CodeText:
        """Return an entry's code."""
        return self._code.of(code)

    def variables(self, variables: Mapping[str, Ref]) -> str:
        """Return what was bound before it."""
        return self._variables.of(variables)

    def offer(
        self,
        output_fields: Sequence[Mapping[str, Any]] | None,
        reasoning: str | None,
        tools: Ref | None,
        usage: Usage | None,
    ) -> str:
        """Return what led to it and what was offered to it."""
        return self._offer.of((output_fields, reasoning, tools, usage))

    def call(self, call: Call) -> CallText:
        """Return one of its calls; those that were made ahead are known until :meth:`forget_calls`."""
        made = self._calls.get(call.id)
        if made is None or made.call != call:
            made = self._calls[call.id] = CallText(call, sorted_json(fields.call_to_json(call)), prose.call(call))
        return made

    def forget_calls(self) -> None:
        """The next call belongs to the next entry."""
        self._calls.clear()


def _code_text(code: str) -> CodeText:
    return CodeText(sorted_json(code), json_text(lines_of(code)))


def _variables_text(variables: Mapping[str, Ref]) -> str:
    return sorted_json(fields.variables_to_json(variables))


def _offer_text(offer: tuple[Sequence[Mapping[str, Any]] | None, str | None, Ref | None, Usage | None]) -> str:
    return sorted_json(fields.offer_to_json(*offer))


def ending_text(entry: Entry) -> str:
    """Return what is known of an entry when it has ended, as sorted JSON without its braces.

    Made while the caller waits, so put together by hand, in a fifth of an encoder's time.
    """
    outcome, elapsed_s = entry.outcome, fields.seconds(entry.elapsed_s)
    late = f'"late":{_quoted(entry.late)},' if entry.late else ""
    error = f'"error":{_quoted(outcome.error)},' if outcome.error else ""
    text = f',"text":{_quoted(outcome.text)}' if outcome.text else ""
    ended = f'"ending":"{outcome.ending}",{error}"kind":"{outcome.kind}"{text}'
    if (ref := outcome.value) is not None:
        ended = f'{ended},"value":{{"hash":"{ref.hash}","size":{ref.size},"summary":{_quoted(ref.summary)}}}'
    elapsed = "null" if elapsed_s is None else repr(elapsed_s)
    return f'"elapsed_s":{elapsed},"id":{_quoted(entry.id)},"index":{entry.index},{late}"outcome":{{{ended}}}'


class _Last(Generic[K, T]):
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
