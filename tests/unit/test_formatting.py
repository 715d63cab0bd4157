"""Durations, sizes, excerpts and tables as text."""

from __future__ import annotations

import math
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp import formatting


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ms"),
        (0.0042, "4.2 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (59.96, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3720, "1 h 02 min"),
        (-1, "?"),
        (math.inf, "?"),
        (math.nan, "?"),
        (None, "no end"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    """Each unit has its own precision, and nothing is rounded to 60 seconds or 1,000 milliseconds."""
    assert formatting.duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1200, "1.2 kB"), (25_000_000, "25 MB")])
def test_byte_size(count: int, text: str) -> None:
    """Sizes have decimal units."""
    assert formatting.byte_size(count) == text


@given(st.text(max_size=300), st.integers(8, 100))
def test_excerpts_keep_their_limit(text: str, limit: int) -> None:
    """An excerpt is at most as long as its limit; a short text is unchanged."""
    assert len(formatting.shorten(text, limit)) <= limit
    line = formatting.one_line(text, limit)
    assert len(line) <= limit
    assert "\n" not in line
    if len(text) <= limit:
        assert formatting.shorten(text, limit) == formatting.cut_middle(text, limit) == text
    else:
        assert f"{len(text) - limit * 3 // 4 - limit // 4:,} characters left out" in formatting.cut_middle(text, limit)


def test_table() -> None:
    """Columns are aligned, numbers to the right, and the last column is as it is."""
    rows = [("NAME", "SIZE", "VALUE"), ("a", "12 kB", "1"), ("long name", "3 B", "x y")]
    assert formatting.table(rows, right={1}) == [
        "NAME        SIZE  VALUE",
        "a          12 kB  1",
        "long name    3 B  x y",
    ]
    assert formatting.table([]) == []


def test_most_similar() -> None:
    """The most similar candidate wins, the first of equals; without candidates there is none."""
    assert formatting.most_similar("print(x)", [(1, "import os"), (2, "print(y)"), (3, "print(z)")]) == 2
    assert formatting.most_similar("a", [(1, "zzz")]) == 1
    assert formatting.most_similar("a", []) is None


def test_most_similar_of_many_long_texts() -> None:
    """Among hundreds of long texts with the same letters, the one that differs in a word is found."""
    texts = [" ".join(f"word{number * step % 997}" for step in range(300)) for number in range(1, 301)]
    wanted = texts[200].replace("word400 ", "another ")
    assert wanted != texts[200]
    assert formatting.most_similar(wanted, enumerate(texts)) == 200


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("héllo \u4e2d \U0001f600 שלום", "héllo \u4e2d \U0001f600 שלום"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x1b]52;c;cm0gLXJm\x1b\\", "\\x1b]52;c;cm0gLXJm\\x1b\\"),
        ("\x9d0;title\x9c", "\\x9d0;title\\x9c"),
        ("\x1bPq#0\x1b\\", "\\x1bPq#0\\x1b\\"),
        ("\x1b_Gf=100;AAAA\x1b\\", "\\x1b_Gf=100;AAAA\\x1b\\"),
        ("\x9b2J\x1b[2J\x1bc", "\\x9b2J\\x1b[2J\\x1bc"),
        ("safe\rhidden\x08\x00\x7f", "safe\\x0dhidden\\x08\\x00\\x7f"),
        ("line\r\nline", "line\r\nline".replace("\r", "")),
        ("invoice\u202egnp.exe\u2066\u200f", "invoice\\u202egnp.exe\\u2066\\u200f"),
    ],
    ids=range(12),
)
def test_untrusted_text_cannot_control_a_terminal(text: str, shown: str) -> None:
    """Colours are removed, and every other control character is visible."""
    assert formatting.printable(text) == shown


@given(st.text(st.characters(max_codepoint=0x20FF)))
def test_printable_text_has_no_controls(text: str) -> None:
    """Only newlines and tabs are left; text without controls is unchanged."""
    shown = formatting.printable(text)
    assert not [c for c in shown if unicodedata.category(c) == "Cc" and c not in "\n\t"]
    assert not [c for c in shown if unicodedata.bidirectional(c) in ("RLO", "LRO", "RLE", "LRE", "PDF", "FSI", "RLI")]
    assert formatting.printable(shown) == shown
