"""Format durations, sizes, excerpts, tables and untrusted text, the same everywhere on the host."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

T = TypeVar("T")

MAX_DURATION_S = 1e9  # about 30 years; more is an error of the recording
_EXACT_RATIOS = 10  # candidates whose exact similarity is computed
_COMPARED_CHARS = 2000  # difflib's cost grows with the product of the lengths
_COLOURS = re.compile(r"\x1b\[[0-9;:]*m")
# ECMA-48 (C0 and C1, with the introducers of CSI, OSC, DCS and APC) and Unicode's controls of the text direction.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def duration(seconds: float | None, *, missing: str = "no end") -> str:
    """Return a duration such as ``"12 ms"``, ``"3.4 s"``, ``"2 min 05 s"`` or ``"1 h 02 min"``.

    ``None`` is ``missing``; a negative, infinite or absurd duration is ``"?"``.
    """
    if seconds is None:
        return missing
    if not math.isfinite(seconds) or seconds < 0 or seconds > MAX_DURATION_S:
        return "?"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 or not seconds else f"{seconds * 1000:.1f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def byte_size(count: float) -> str:
    """Return a number of bytes with a decimal unit, such as ``"1.2 MB"``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def printable(text: str) -> str:
    """Return text from a sandbox or a recording as it may be written to a terminal.

    Colours are removed. Any other control character is escaped as in a ``repr``: written as it is, it could set the
    window's title or the clipboard, move the cursor, or change the order in which text is shown. Newlines and tabs are
    kept.
    """
    if not _CONTROLS.search(text):
        return text
    return _CONTROLS.sub(_escape, _COLOURS.sub("", text).replace("\r\n", "\n"))


def _escape(control: re.Match[str]) -> str:
    code = ord(control[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def shorten(text: str, limit: int) -> str:
    """Return ``text``, or its first ``limit - 1`` characters and an ellipsis."""
    return text if len(text) <= limit else f"{text[: max(0, limit - 1)]}…"


def one_line(text: str, limit: int) -> str:
    """Return the beginning of ``text`` on one line, white space folded, at most ``limit`` characters."""
    return shorten(" ".join(text[: 4 * limit].split()), limit)


def cut_middle(text: str, limit: int, note: str = "{:,} characters left out") -> str:
    """Return ``text``, or three quarters of ``limit`` from its start and one from its end.

    ``note`` stands between them on a line of its own and is formatted with the number of characters left out.
    """
    if len(text) <= limit:
        return text
    head, tail = limit * 3 // 4, limit // 4
    return f"{text[:head]}\n[… {note.format(len(text) - head - tail)} …]\n{text[len(text) - tail :]}"


def table(rows: Iterable[Sequence[str]], *, right: Collection[int] = (), max_width: int = 40) -> list[str]:
    """Return ``rows`` as lines with aligned columns, two spaces apart.

    Args:
        rows: The cells of each row; every row has the same length.
        right: Indexes of the columns that are aligned to the right.
        max_width: Width up to which a column is padded. The last column is never padded.
    """
    cells = [tuple(row) for row in rows]
    widths = [min(max_width, max(map(len, column))) for column in zip(*cells, strict=True)][:-1]
    lines = []
    for row in cells:
        columns = enumerate(zip(row, widths, strict=False))
        padded = [text.rjust(width) if i in right else text.ljust(width) for i, (text, width) in columns]
        lines.append("  ".join([*padded, row[-1]]).rstrip())
    return lines


def most_similar(text: str, candidates: Iterable[tuple[T, str]]) -> T | None:
    """Return the candidate whose text is most similar to ``text``; the first of equals, None without candidates.

    The result is approximate: the first 2,000 characters are compared, and exactly only those of the ten candidates
    whose characters agree best in any order.
    """
    import difflib  # errors.py imports this module, and the package is to be imported quickly

    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(text[:_COMPARED_CHARS])
    bounds: list[tuple[float, int, T, str]] = []  # upper bound of the ratio, minus the position, candidate, text
    for position, (candidate, other) in enumerate(candidates):
        matcher.set_seq1(other[:_COMPARED_CHARS])
        bounds.append((matcher.quick_ratio(), -position, candidate, other[:_COMPARED_CHARS]))
    best: T | None = None
    best_rank = (-1.0, 0)
    # A ratio takes up to 50 ms, its upper bound less than 1 ms: hundreds of candidates would take half a minute.
    for bound, position, candidate, other in sorted(bounds, key=lambda found: found[:2], reverse=True)[:_EXACT_RATIOS]:
        if bound < best_rank[0]:
            break
        matcher.set_seq1(other)
        rank = (matcher.ratio(), position)
        if rank > best_rank:
            best, best_rank = candidate, rank
    return best
