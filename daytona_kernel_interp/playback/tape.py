"""The tape: recorded tool calls and sub-calls, found by tool and arguments. Sans-I/O.

A call matches a recorded one if the arguments are the same values (:mod:`.canonical`), whether they were passed as
positional or keyword arguments: the recorded signature binds both. Calls of one cell may come in any order, because
threads make them. Equal calls get their answers in the recorded order. A thread can outlive its cell, so a call that
the current cell does not have is looked up in the other cells.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import reprlib
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
    from ..wire.comm import Parameter, ToolSpec

_MAX_TEXT = 20_000  # characters of a text that are compared
_MAX_COMPARED = 500  # recorded calls that are compared to find the most similar one
_MAX_LINES = 60
_LINE_CHARS = 200  # longer lines are compared in pieces

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _MAX_TEXT
_repr.maxlist = _repr.maxdict = _repr.maxtuple = _repr.maxset = 200
_repr.maxlevel = 20


class Tape:
    """The calls of a recording, each of which is returned once."""

    def __init__(self, entries: Sequence[Entry], store: ValueLoader) -> None:
        self._entries, self._store = list(entries), store
        self._keys: dict[tuple[int, int], str] = {}  # by cell and id of the call
        self._taken: set[tuple[int, int]] = set()  # likewise

    def take(self, cell: int, name: str, arguments: Sequence[Buffer]) -> RecordedCall:
        """Return the recorded call that matches a call of ``cell``, and take it off the tape.

        Raises:
            ReplayMismatch: If the tape has no such call. The text shows the most similar recorded call.
        """
        # An exact match in another cell is more likely the recorded call than an approximate match in this one.
        for find in (self._find_same, self._find_equal):
            for number in self._search_order(cell):
                calls = [call for call in self.left(number) if call.name == name]
                found = find(number, calls, arguments) if calls else None
                if found is not None:
                    self._taken.add((number, found.id))
                    return found
        raise ReplayMismatch(self._describe_miss(cell, name, arguments))

    def left(self, cell: int) -> list[RecordedCall]:
        """Return the calls of ``cell`` that were not taken yet."""
        return [call for call in self._entries[cell].calls if (cell, call.id) not in self._taken]

    def _search_order(self, cell: int) -> Iterator[int]:
        """Yield the cell's number, then the numbers before it in descending order, then the numbers after it."""
        count = len(self._entries)
        yield from range(min(cell, count - 1), -1, -1)
        yield from range(cell + 1, count)

    def _find_same(self, cell: int, calls: list[RecordedCall], arguments: Sequence[Buffer]) -> RecordedCall | None:
        """Return the first of the calls whose arguments are the same values."""
        spec = spec_of(self._entries[cell], calls[0].name)
        wanted = _key(spec, arguments)
        for call in calls:
            if (cell, call.id) not in self._keys:
                self._keys[cell, call.id] = _key(spec, self._store.load(call.arguments))
            if self._keys[cell, call.id] == wanted:
                return call
        return None

    def _find_equal(self, cell: int, calls: list[RecordedCall], arguments: Sequence[Buffer]) -> RecordedCall | None:
        """Return the first whose arguments are equal in Python: 1 and 1.0, a record and the dict of its fields."""
        spec = spec_of(self._entries[cell], calls[0].name)
        wanted = _bound(spec, arguments)
        for call in calls:
            with contextlib.suppress(Exception):  # the == of a library can raise, and have no truth value
                if _bound(spec, self._store.load(call.arguments)) == wanted:
                    return call
        return None

    def _describe_miss(self, cell: int, name: str, arguments: Sequence[Buffer]) -> str:
        requested = call_text(name, arguments)
        head = f"step {cell} calls {shorten(requested, 120)}, which is not on the tape"
        everywhere = [(number, call) for number in self._search_order(cell) for call in self._entries[number].calls]
        calls = [(number, call) for number, call in everywhere if call.name == name]
        if not calls:
            names = ", ".join(sorted({call.name for _, call in everywhere}))
            return f"{head}; the tape has {f'calls of {names}' if names else 'no calls'}"
        unanswered = [(number, call) for number, call in calls if (number, call.id) not in self._taken]
        texts = [
            (number, call_text(name, self._store.load(call.arguments)))
            for number, call in (unanswered or calls)[:_MAX_COMPARED]
        ]
        number, text = most_similar(requested, ((candidate, candidate[1]) for candidate in texts)) or texts[0]
        if text == requested:
            return f"{head} once more; all equal calls, the last in step {number}, are answered"
        differs = diff_text(text, requested, f"step {number}", "now")
        return f"{head}. The most similar recorded call{'' if unanswered else ' (already answered)'}:\n{differs}"


def spec_of(entry: Entry, name: str) -> ToolSpec | None:
    """Return the tool that a cell was offered under ``name``, None if there was none."""
    return next((spec for spec in entry.tools if spec.name == name), None)


def signature_of(spec: ToolSpec | None) -> inspect.Signature | None:
    """Return the signature of a recorded tool, None if it had none. Defaults are known by their repr only."""
    if spec is None or spec.parameters is None:
        return None
    try:
        return inspect.Signature([_parameter(parameter) for parameter in spec.parameters])
    except ValueError:  # not a signature that Python allows
        return None


def _parameter(recorded: Parameter) -> inspect.Parameter:
    default = inspect.Parameter.empty if recorded.default is None else DefaultRepr(recorded.default)
    # The kinds of inspect are integers, with the values that a recording has.
    return inspect.Parameter(recorded.name, recorded.kind, default=default)  # type: ignore[arg-type]


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


def _key(spec: ToolSpec | None, arguments: Sequence[Buffer]) -> str:
    try:
        return canonical(values.dumps(_bound(spec, arguments), max_bytes=None))
    except (values.UnsupportedValue, RemoteProtocolError):  # not from a recording
        return canonical(arguments)


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
