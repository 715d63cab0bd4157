"""Format recorded values and calls as text for people. Decoding runs no code, see :mod:`..codec.values`."""

from __future__ import annotations

import functools
import math
import pprint
import re
from typing import TYPE_CHECKING, Any

from ..errors import RecordingError
from ..formatting import one_line
from ..recording.value_store import repr_of, value_of
from .timeline import is_setup

if TYPE_CHECKING:
    from ..recording.model import Entry, RecordedCall, ValueLoader, ValueRef

MAX_DECODED_BYTES = 1 << 20  # of larger values the summary is shown
LAID_OUT_BYTES = 16 << 10  # larger values are not laid out over lines, because that is slow
_SHORT_CHARS = 60


def text_of(ref: ValueRef, store: ValueLoader) -> str:
    """Return a value as text, see :func:`load` and :func:`as_text`."""
    return as_text(load(ref, store), laid_out=ref.size <= LAID_OUT_BYTES)


def load(ref: ValueRef, store: ValueLoader, max_bytes: int = MAX_DECODED_BYTES) -> Any:
    """Return a value, or its summary if it is too large or cannot be decoded."""
    if ref.size > max_bytes:
        return ref.summary
    try:
        return value_of(store, ref)
    except RecordingError:
        return ref.summary


def as_text(value: object, *, laid_out: bool = True) -> str:
    """Return a str unchanged, a list of long texts with numbers, other values as their repr over several lines."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and len(value) > 1 and _are_prose(value):
        return "\n\n".join(f"[{number}] {one}" for number, one in enumerate(value))
    return repr_of(value, functools.partial(pprint.pformat, width=100, sort_dicts=False) if laid_out else repr)


def _are_prose(items: list[object]) -> bool:
    """Return whether all items are texts, and some are long, such as prompts and answers."""
    texts = [one for one in items if isinstance(one, str)]
    return len(texts) == len(items) and any("\n" in text or len(text) > _SHORT_CHARS for text in texts)


def arguments(call: RecordedCall, store: ValueLoader) -> list[tuple[str, str]]:
    """Return the arguments of a call as names and texts; the name of a positional argument is ``""``."""
    match load(call.arguments, store):
        case [[*positional], {**named}] | (list(positional), {**named}):
            laid_out = call.arguments.size <= LAID_OUT_BYTES
            shown = [("", as_text(value, laid_out=laid_out)) for value in positional]
            return shown + [(str(name), as_text(value, laid_out=laid_out)) for name, value in named.items()]
        case _:
            return [("", call.arguments.summary)]


def heading(markdown: str) -> str:
    """Return the beginning of the first paragraph of a markdown text, without markup."""
    text = markdown.strip().partition("\n\n")[0][:2000]
    text = re.sub(r"\[([^\[\]]{1,200})\]\([^()\s]{1,500}\)", r"\1", text)
    text = re.sub(r"(?<![\w*])([*_])(?=\S)([^*_\n]{1,200})(?<=\S)\1(?![\w*])", r"\2", text)
    return one_line(re.sub(r"(?m)^\s*(?:#{1,6}|[-*+>]|\d+\.)\s+|\*\*|__|`+", "", text), 160)


def step_title(entry: Entry) -> str:
    """Return the beginning of a step's reasoning, or else the first line of its code that is no import."""
    if entry.reasoning:
        return heading(entry.reasoning)
    if is_setup(entry):
        return "DSPy's setup"
    lines = [line.strip() for line in entry.code.splitlines()]
    code = (line for line in lines if line and not line.startswith(("#", "import ", "from ")))
    return one_line(next(code, entry.code), 160)


def dollars(amount: float) -> str:
    """Return an amount of money as text, ``"?"`` if it is not finite."""
    if not math.isfinite(amount):
        return "?"
    return f"${amount:.2f}" if amount >= 1 or not amount else f"${amount:.4f}"
