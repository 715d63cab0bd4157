"""Compare two entries: code, variables, calls, outputs and outcome. Sans-I/O.

Without a :class:`Tolerance`, texts and figures must be equal. stdout and stderr are compared separately, because the
order between the two depends on timing. Values are the same if they are equal in Python: a set has no order
(:mod:`.canonical`).
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

from ..client.output_text import display_text
from ..client.outputs import CellError, DisplayData, ExecuteResult, StreamText
from ..codec import values
from ..errors import RecordingError
from ..formatting import shorten
from ..recording.model import DSPY_TOKEN
from ..recording.value_store import repr_of, value_of
from ..wire.protocol_errors import RemoteProtocolError
from .canonical import same_value
from .tape import call_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..client.outputs import Output
    from ..recording.model import Entry, Outcome, RecordedCall, ValueLoader, ValueRef

Aspect = Literal["code", "variables", "calls", "output", "outcome"]

_MAX_TEXT = 4000  # characters of a value in the text of a difference

_ADDRESSES = re.compile(r"\b0x[0-9a-fA-F]{6,16}\b")
_PATHS = re.compile(r"(?:/private)?(?:/tmp|/var/tmp|/var/folders|/dev/shm)/[^\s'\"<>:,;)\]]+")
# A traceback's frames in libraries: paths, line numbers and source lines depend on the installed version.
_LIBRARY_FRAMES = re.compile(r"^  File [^\n]*\n(?:    [^\n]*\n)*\n?", re.MULTILINE)
# The form of a traceback depends on the version of Python, and on that of the guest.
_TRACEBACK_FORM = (
    (re.compile(r"^( *Cell In\[\d+\], line \d+),? in [^\n]*$", re.MULTILINE), r"\1"),
    (re.compile(r"^ +[~^]+\n", re.MULTILINE), ""),  # marks below the expression that failed
    (re.compile(r"\n\s*\n"), "\n"),
)
_IDS = re.compile(r"\b(?:[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}|[0-9a-f]{32,64})\b")
_UNIT = r"(?:ns|[µu]s|ms|s|secs?|seconds?|min|minutes?|h|hours?)"
_TIMES = re.compile(
    r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?"  # dates and times
    r"|\b\d{1,2}:\d\d(?::\d\d)?(?:[.,]\d+)?\b"
    r"|\b1[0-9]{9}(?:\.\d+)?\b"  # seconds since 1970
    rf"|\b\d+(?:[.,]\d+)?(?:e-?\d+)?\s?{_UNIT}\b"
    r"|\b\d+(?:[.,]\d+)?\s?(?:it/s|s/it)"
    r"|datetime\.(?:datetime|date|time|timedelta)\([^()]*\)"
)
_MASKS = (
    ("paths", _LIBRARY_FRAMES, ""),
    ("paths", _PATHS, "<path>"),
    ("ids", _IDS, "<id>"),
    ("addresses", _ADDRESSES, "<address>"),
    ("times", _TIMES, "<time>"),
)
_SIZE = re.compile(r"[\d.]+x[\d.]+")
_MAX_PIXELS = 50_000_000
_SHADES = 2  # of 255; other builds of a font or a compressor change pixels by this much
_NUMBERS = re.compile(r"(?<![\w.])[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?(?![\w])")


@dataclass(frozen=True)
class Tolerance:
    """Differences that do not count.

    Attributes:
        times: Dates, times and durations in texts.
        addresses: Memory addresses in texts: ``0x7f…``.
        paths: Names of temporary files in texts, and a traceback's frames in libraries.
        ids: UUIDs and other long hexadecimal ids in texts.
        floats: Relative difference up to which numbers are equal, in texts and values; None: they must be equal.
        figures: ``exact``: equal bytes; ``pixels``: equal pixels (needs Pillow); ``size``: equal width and height.
    """

    times: bool = True
    addresses: bool = True
    paths: bool = True
    ids: bool = True
    floats: float | None = 1e-6
    figures: Literal["exact", "pixels", "size"] = "size"

    def __post_init__(self) -> None:
        if self.floats is not None and not 0 <= self.floats < math.inf:
            raise ValueError(f"floats must be a relative difference such as 1e-6, or None, not {self.floats!r}")
        if self.figures not in ("exact", "pixels", "size"):
            raise ValueError(f'figures must be "exact", "pixels" or "size", not {self.figures!r}')


EXACT = Tolerance(times=False, addresses=False, paths=False, ids=False, floats=None, figures="exact")


@dataclass(frozen=True)
class Difference:
    """One difference between two entries: ``expected`` is from the first, ``came`` from the second."""

    what: Aspect
    expected: str
    came: str


class Comparison:
    """A comparison of entries from two recordings, within a tolerance."""

    def __init__(self, expected: ValueLoader, came: ValueLoader, tolerance: Tolerance = EXACT) -> None:
        self._expected, self._came, self._tolerance = expected, came, tolerance

    def differences(self, expected: Entry, came: Entry) -> Iterator[Difference]:
        """Yield all differences between two entries."""
        if expected.code != came.code:
            yield Difference("code", expected.code, came.code)
        yield from self.variables(expected, came)
        yield from self.calls(expected.calls, came.calls)
        yield from self.results(expected, came)

    def results(self, expected: Entry, came: Entry) -> Iterator[Difference]:
        """Yield the differences between two runs of the same code: outputs and outcome."""
        stopped = ("interrupted", "timeout")  # where they were stopped depends on timing
        if expected.outcome.ending in stopped and came.outcome.ending in stopped:
            return
        outputs = list(self.outputs(expected.outputs, came.outputs))
        yield from outputs
        late = not self.same_text(expected.late, came.late)  # the text that the caller got begins with it
        if late:
            yield Difference("output", f"background output: {expected.late}", f"background output: {came.late}")
        # The text of an outcome repeats the outputs. It is a difference of its own only if it says more.
        if not ((outputs or late) and _repeats_outputs(expected, came)):
            yield from self.outcome(
                *(_short_outcome(entry) if outputs else entry.outcome for entry in (expected, came))
            )

    def variables(self, expected: Entry, came: Entry) -> Iterator[Difference]:
        """Yield the variables whose values differ. DSPy's token differs in each process and does not count."""
        for name in [*expected.variables, *(name for name in came.variables if name not in expected.variables)]:
            one, other = expected.variables.get(name), came.variables.get(name)
            if name != DSPY_TOKEN and not self._same_ref(one, other):
                yield Difference("variables", _named(name, one), _named(name, other))

    def calls(self, expected: Sequence[RecordedCall], came: Sequence[RecordedCall]) -> Iterator[Difference]:
        """Yield the calls that only one entry has, or whose answers differ. Their order does not count."""
        left = list(came)
        for call in expected:
            asked = [other for other in left if self._same_request(call, other)]
            found = next((other for other in asked if not list(self.answers(call, other))), None)
            if found is None:
                found = asked[0] if asked else None
                answered = None if found is None else self._call_text(self._came, found)
                yield Difference("calls", self._call_text(self._expected, call), answered or "(not called)")
            if found is not None:
                left.remove(found)
        for call in left:
            yield Difference("calls", "(not called)", self._call_text(self._came, call))

    def answers(self, expected: RecordedCall, came: RecordedCall) -> Iterator[Difference]:
        """Yield the difference between the answers of two calls, whatever their arguments."""
        if expected.error != came.error or not self._same_ref(expected.result, came.result):
            yield Difference("calls", self._call_text(self._expected, expected), self._call_text(self._came, came))

    def outputs(self, expected: Sequence[Output], came: Sequence[Output]) -> Iterator[Difference]:
        """Yield the outputs that differ."""
        for name in ("stdout", "stderr"):
            one, other = (_stream(outputs, name) for outputs in (expected, came))
            if not self.same_text(one, other):
                yield Difference("output", one, other)
        pairs = [[output for output in outputs if not isinstance(output, StreamText)] for outputs in (expected, came)]
        for number in range(max(map(len, pairs))):
            shown = [outputs[number] if number < len(outputs) else None for outputs in pairs]
            if not self._same_output(*shown):
                yield Difference("output", *map(output_text, shown))

    def outcome(self, expected: Outcome, came: Outcome) -> Iterator[Difference]:
        """Yield the difference between two outcomes."""
        alike = (
            expected.kind == came.kind
            and expected.ending == came.ending
            and (expected.error == "SyntaxError") == (came.error == "SyntaxError")  # other classes vary with DSPy
            and self.same_text(expected.text, came.text)
            and (self._same_ref(expected.value, came.value) or self._both_empty(expected.value, came.value))
        )
        if not alike:
            texts = (self._outcome_text(self._expected, expected), self._outcome_text(self._came, came))
            yield Difference("outcome", *texts)

    def same_text(self, one: str, other: str) -> bool:
        """Return whether two texts are equal within the tolerance."""
        if one == other:
            return True
        one, other = self._plain(one), self._plain(other)
        rel = self._tolerance.floats
        if rel is None:
            return one == other
        if _NUMBERS.split(one) != _NUMBERS.split(other):
            return False
        return all(map(lambda a, b: _close(float(a), float(b), rel), _NUMBERS.findall(one), _NUMBERS.findall(other)))

    def _plain(self, text: str) -> str:
        if self._tolerance.paths and "Traceback (most recent call last)" in text:
            for form, short in _TRACEBACK_FORM:
                text = form.sub(short, text)
        for option, pattern, name in _MASKS:
            if getattr(self._tolerance, option):
                text = pattern.sub(name, text)
        return text

    def _same_output(self, one: Output | None, other: Output | None) -> bool:
        if isinstance(one, CellError) and isinstance(other, CellError):
            texts = ((one.message, other.message), (one.traceback, other.traceback))
            return one.name == other.name and all(self.same_text(*pair) for pair in texts)
        if isinstance(one, (DisplayData, ExecuteResult)) and isinstance(other, (DisplayData, ExecuteResult)):
            if type(one) is not type(other) or one.data.keys() != other.data.keys():
                return False
            return all(self._same_mime(mime, content, other.data[mime]) for mime, content in one.data.items())
        return False

    def _same_mime(self, mime: str, one: object, other: object) -> bool:
        if one == other:
            return True
        how = self._tolerance.figures
        if mime.startswith("image/") and isinstance(one, str) and isinstance(other, str):
            if how == "pixels":
                return _same_pixels(one, other)
            size = _size_of(mime, one)
            return how == "size" and size != "" and size == _size_of(mime, other)
        return self.same_value(one, other)

    def same_value(self, one: object, other: object) -> bool:
        """Return whether two decoded values are equal within the tolerance."""
        if isinstance(one, str) and isinstance(other, str):
            return self.same_text(one, other)
        if _is_number(one) and _is_number(other):
            rel = self._tolerance.floats
            return one == other or (rel is not None and _close(one, other, rel))
        if type(one) is not type(other):
            return False
        if isinstance(one, dict) and isinstance(other, dict):
            return one.keys() == other.keys() and all(self.same_value(one[key], other[key]) for key in one)
        if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
            return len(one) == len(other) and all(map(self.same_value, one, other))
        return self._same_array(one, other)

    def _same_array(self, one: Any, other: Any) -> bool:
        """Compare arrays, series and frames element by element, other objects with ``==``."""
        with contextlib.suppress(Exception):  # the == of a library can raise anything
            if hasattr(one, "columns") and hasattr(one, "to_dict"):
                return list(one.columns) == list(other.columns) and all(
                    self.same_value(list(one[name]), list(other[name])) for name in one.columns
                )
            if hasattr(one, "tolist"):
                return str(one.dtype) == str(other.dtype) and self.same_value(one.tolist(), other.tolist())
            return bool(one == other)
        return False

    def _same_ref(self, one: ValueRef | None, other: ValueRef | None) -> bool:
        if one is None or other is None:
            return one is other
        if one.hash == other.hash:
            return True
        first, second = self._expected.load(one), self._came.load(other)
        with contextlib.suppress(RemoteProtocolError):
            if same_value(first, second):
                return True
            return self._tolerance != EXACT and self.same_value(values.loads(first), values.loads(second))
        return False

    def _both_empty(self, one: ValueRef | None, other: ValueRef | None) -> bool:
        """Return whether both are None or an empty text, which DSPy treats alike."""
        for store, ref in ((self._expected, one), (self._came, other)):
            if ref is not None and (ref.size > len("null") or value_of(store, ref) not in (None, "")):
                return False
        return True

    def _same_request(self, one: RecordedCall, other: RecordedCall) -> bool:
        return one.name == other.name and self._same_ref(one.arguments, other.arguments)

    def _call_text(self, store: ValueLoader, call: RecordedCall) -> str:
        text = call_text(call.name, store.load(call.arguments))
        if call.error is not None:
            return f"{text} raised {call.error[0]}: {call.error[2]}"
        return f"{text} → {value_text(store, call.result)}" if call.result is not None else f"{text}, never answered"

    def _outcome_text(self, store: ValueLoader, outcome: Outcome) -> str:
        ending = "" if outcome.ending in ("ok", "error") else f" ({outcome.ending.replace('_', ' ')})"
        match outcome.kind:
            case "submitted":
                return f"SUBMIT {value_text(store, outcome.value)}"
            case "raised":
                return f"{outcome.error}{ending}: {outcome.text}"
            case "returned":
                return f"{value_text(store, outcome.value)}{ending}"
            case _:
                return f"no end{ending}"


def output_text(output: Output | None) -> str:
    """Return an output as the text of a difference; of an image, its type and size."""
    match output:
        case None:
            return "(nothing)"
        case StreamText(text=text):
            return text
        case CellError():
            return output.traceback or output.summary
        case DisplayData(data=data) | ExecuteResult(data=data):
            return "\n".join(_mime_text(mime, content) for mime, content in data.items())


def value_text(store: ValueLoader, ref: ValueRef | None) -> str:
    """Return a recorded value as the text of a difference."""
    if ref is None:
        return "nothing"
    if ref.size > 10 * _MAX_TEXT:
        return ref.summary
    try:
        value = value_of(store, ref)
    except RecordingError:
        return ref.summary
    return shorten(shown_text(value), _MAX_TEXT)


def shown_text(value: object) -> str:
    """Return a str unchanged, and the repr of any other value."""
    return value if isinstance(value, str) else repr_of(value)


def _mime_text(mime: str, content: object) -> str:
    if mime.startswith("image/") and isinstance(content, str):
        return f"[{' '.join(filter(None, (mime, _size_of(mime, content))))}, {len(content):,} characters]"
    if mime == "text/plain":
        return str(content)
    text = content if isinstance(content, str) else json.dumps(content, default=str)
    return f"[{mime}] {shorten(text, _MAX_TEXT)}"


def _repeats_outputs(expected: Entry, came: Entry) -> bool:
    """Return whether the outcomes only repeat the outputs: returned text, or errors of the same class."""
    kinds = {expected.outcome.kind, came.outcome.kind}
    if kinds == {"returned"}:
        return True
    return kinds == {"raised"} and expected.outcome.error == came.outcome.error


def _short_outcome(entry: Entry) -> Outcome:
    """Return an entry's outcome; if its outputs have the error, only the first line of its text."""
    if not any(isinstance(output, CellError) for output in entry.outputs):
        return entry.outcome
    return replace(entry.outcome, text=entry.outcome.text.partition("\n")[0])


def _stream(outputs: Sequence[Output], name: str) -> str:
    return "".join(output.text for output in outputs if isinstance(output, StreamText) and output.name == name)


def _named(name: str, ref: ValueRef | None) -> str:
    return f"{name} = {ref.summary}" if ref is not None else f"{name} (not bound)"


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _close(one: float, other: float, rel: float) -> bool:
    return math.isclose(one, other, rel_tol=rel) or (math.isnan(one) and math.isnan(other))


def _size_of(mime: str, content: str) -> str:
    """Return the width and height of a PNG or SVG, "" if they cannot be read."""
    found = _SIZE.search(display_text({mime: content}))
    return found[0] if found else ""


def _same_pixels(one: str, other: str) -> bool:
    """Return whether two pictures in base64 have the same pixels; False if they cannot be decoded."""
    try:
        from PIL import Image, ImageChops

        first, second = (Image.open(io.BytesIO(base64.b64decode(picture))) for picture in (one, other))
        if first.size != second.size or first.width * first.height > _MAX_PIXELS:
            return False
        extremes: Any = ImageChops.difference(first.convert("RGBA"), second.convert("RGBA")).getextrema()
    except Exception:  # Pillow is missing, or its decoders raise for a broken or hostile picture
        return False
    return all(high <= _SHADES for _, high in extremes)
