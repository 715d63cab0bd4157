"""The tape: recorded tool calls and sub-calls, found by tool and arguments. Sans-I/O.

A call matches a recorded one if the arguments are the same values (:mod:`.canonical`), whether they were passed as
positional or keyword arguments: the recorded signature binds both. Calls of one cell may come in any order, because
threads make them. Equal calls get their answers in the recorded order. A thread can outlive its cell, so a call that
the current cell does not have is looked up in the other cells.
"""

from __future__ import annotations

import difflib
import inspect
import reprlib
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Any

from ..codec import values
from ..errors import ReplayMismatch
from ..formatting import most_similar, shorten
from ..wire.protocol_errors import RemoteProtocolError
from .canonical import canonical

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..codec.values import Buffer
    from ..recording.model import Entry, RecordedCall, ValueLoader
    from ..wire.comm import ToolSpec

_MAX_TEXT = 20_000  # characters of a text that are compared
_MAX_COMPARED = 500  # recorded calls that are compared to find the most similar one
_MAX_LINES = 60
_LINE_CHARS = 200  # longer lines are compared in pieces

_P = inspect.Parameter
_PARAMETER_KINDS = dict(
    enumerate((_P.POSITIONAL_ONLY, _P.POSITIONAL_OR_KEYWORD, _P.VAR_POSITIONAL, _P.KEYWORD_ONLY, _P.VAR_KEYWORD))
)  # by their numbers in a recording

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _MAX_TEXT
_repr.maxlist = _repr.maxdict = _repr.maxtuple = _repr.maxset = 200
_repr.maxlevel = 20


class Tape:
    """The calls of a recording, each of which is returned once."""

    def __init__(self, entries: Sequence[Entry], store: ValueLoader) -> None:
        self._entries, self._store = list(entries), store
        self._left: dict[int, dict[str, deque[RecordedCall]]] = {}  # by cell, then by key
        self._taken: set[tuple[int, int]] = set()  # cell and id of the call

    def take(self, cell: int, name: str, arguments: Sequence[Buffer]) -> RecordedCall:
        """Return the recorded call that matches a call of ``cell``, and take it off the tape.

        Raises:
            ReplayMismatch: If the tape has no such call. The text shows the most similar recorded call.
        """
        for number in self._search_order(cell):
            entry = self._entries[number]
            calls = self._index(number).get(_key(name, arguments, spec_of(entry, name)))
            if calls:
                found = calls.popleft()
                self._taken.add((number, found.id))
                return found
        # An exact match in another cell is more likely the recorded call than an approximate match in this one.
        for number in self._search_order(cell):
            found_equal = self._equal(number, name, arguments)
            if found_equal is not None:
                return found_equal
        raise ReplayMismatch(self._describe_miss(cell, name, arguments))

    def left(self, cell: int) -> list[RecordedCall]:
        """Return the calls of ``cell`` that were not taken yet."""
        return [call for call in self._entries[cell].calls if (cell, call.id) not in self._taken]

    def _search_order(self, cell: int) -> Iterator[int]:
        """Yield the cell's number, then the numbers before it in descending order, then the numbers after it."""
        count = len(self._entries)
        yield from range(min(cell, count - 1), -1, -1)
        yield from range(cell + 1, count)

    def _index(self, cell: int) -> dict[str, deque[RecordedCall]]:
        index = self._left.get(cell)
        if index is None:
            index = self._left[cell] = defaultdict(deque)
            entry = self._entries[cell]
            for call in sorted(entry.calls, key=lambda call: call.id):
                arguments = self._store.load(call.arguments)
                index[_key(call.name, arguments, spec_of(entry, call.name))].append(call)
        return index

    def _equal(self, cell: int, name: str, arguments: Sequence[Buffer]) -> RecordedCall | None:
        """Take a call whose arguments are equal in Python: 1 and 1.0, a record and the dict of its fields."""
        entry = self._entries[cell]
        spec = spec_of(entry, name)
        bound = None
        for call in sorted(self.left(cell), key=lambda call: call.id):
            if call.name != name:
                continue
            bound = bound or [_bound(spec, arguments)]
            if _equals(_bound(spec, self._store.load(call.arguments)), bound[0]):
                self._taken.add((cell, call.id))
                for calls in self._index(cell).values():
                    if call in calls:
                        calls.remove(call)
                return call
        return None

    def _describe_miss(self, cell: int, name: str, arguments: Sequence[Buffer]) -> str:
        requested_call = call_text(name, arguments)
        near = self._nearest(cell, name, requested_call)
        head = f"step {cell} calls {shorten(requested_call, 120)}, which is not on the tape"
        if near is None:
            recorded = sorted({call.name for entry in self._entries for call in entry.calls})
            return (
                f"{head}; the tape has calls of {', '.join(recorded)}" if recorded else f"{head}; the tape has no calls"
            )
        number, call, text = near
        again = " (already answered)" if (number, call.id) in self._taken else ""
        if text == requested_call:
            return f"{head} once more; all equal calls, the last in step {number}, are answered"
        differs = diff_text(text, requested_call, f"step {number}", "now")
        return f"{head}. The most similar recorded call{again}:\n{differs}"

    def _nearest(self, cell: int, name: str, requested: str) -> tuple[int, RecordedCall, str] | None:
        """Return the most similar recorded call of the tool, its cell and its text; one not answered yet if any is."""
        calls = [
            (number, call)
            for number in self._search_order(cell)
            for call in self._entries[number].calls
            if call.name == name
        ]
        unanswered = [(number, call) for number, call in calls if (number, call.id) not in self._taken]
        found = [
            (number, call, call_text(call.name, self._store.load(call.arguments)))
            for number, call in (unanswered or calls)[:_MAX_COMPARED]
        ]
        return most_similar(requested, ((candidate, candidate[2]) for candidate in found))


def spec_of(entry: Entry, name: str) -> ToolSpec | None:
    """Return the tool that a cell was offered under ``name``, None if there was none."""
    return next((spec for spec in entry.tools if spec.name == name), None)


def signature_of(spec: ToolSpec | None) -> inspect.Signature | None:
    """Return the signature of a recorded tool, None if it had none. Defaults are known by their repr only."""
    if spec is None or spec.parameters is None:
        return None
    try:
        return inspect.Signature(
            [
                inspect.Parameter(
                    parameter.name,
                    _PARAMETER_KINDS[parameter.kind],
                    default=inspect.Parameter.empty if parameter.default is None else DefaultRepr(parameter.default),
                )
                for parameter in spec.parameters
            ]
        )
    except (ValueError, KeyError):  # not a signature that Python allows
        return None


class DefaultRepr:
    """A default value that is known by its repr only."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def call_text(name: str, arguments: Sequence[Buffer]) -> str:
    """Return a call as source text."""
    try:
        args, kwargs = values.loads(arguments)
        parts = [*map(_repr.repr, args), *(f"{key}={_repr.repr(value)}" for key, value in kwargs.items())]
    except (RemoteProtocolError, TypeError, ValueError, AttributeError):
        parts = ["..."]
    return f"{name}({', '.join(parts)})"


def diff_text(recorded: str, came: str, recorded_name: str, came_name: str) -> str:
    """Return a unified diff of two texts, cut after 60 lines."""
    lines = list(
        difflib.unified_diff(_lines(recorded), _lines(came), f"recorded ({recorded_name})", came_name, lineterm="", n=2)
    )
    more = len(lines) - _MAX_LINES
    return "\n".join(lines[:_MAX_LINES] + ([f"... and {more} more lines"] if more > 0 else []))


def _lines(text: str) -> list[str]:
    lines = text[:_MAX_TEXT].replace("\\n", "\n").splitlines()
    return [line[at : at + _LINE_CHARS] for line in lines for at in range(0, max(1, len(line)), _LINE_CHARS)]


def _key(name: str, arguments: Sequence[Buffer], spec: ToolSpec | None) -> str:
    bound = _bound(spec, arguments)
    try:
        return f"{name} {canonical(values.dumps(bound, max_bytes=None))}"
    except (
        values.UnsupportedValue,
        RemoteProtocolError,
    ):  # not from a recording
        return f"{name} {canonical(arguments)}"


def _bound(spec: ToolSpec | None, arguments: Sequence[Buffer]) -> Any:
    """Return the arguments bound to the signature; unbound if there is no signature or they do not fit."""
    given = values.loads(arguments)
    signature = signature_of(spec)
    if signature is None:
        return given
    try:
        args, kwargs = given
        bound = dict(signature.bind(*args, **kwargs).arguments)
    except (TypeError, ValueError):
        return given
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            bound.update(bound.pop(parameter.name, {}))
    return bound


def _equals(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:  # the == of a library can raise anything, and its result can have no truth value
        return False
