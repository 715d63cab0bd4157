"""Tests of ``client.output_text``."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.client.output_text import display_text, join_streams, plain_text

pytestmark = pytest.mark.python

_IMAGE = "<PIL.Image.Image image mode=L size=640x480 at 0x7F00>"
_FIGURE = "<Figure size 640x480 with 1 Axes>"
_PNG = base64.b64encode(
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (640).to_bytes(4, "big") + (480).to_bytes(4, "big") + b"rest"
).decode()


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("plain\n", "plain\n"),
        ("\r 10%\r 50%\r100%\nnext", "100%\nnext"),
        ("10%\r", "10%"),
        ("dos\r\nlines\r\n", "dos\nlines\n"),
        ("\r\n", "\n"),
        ("\x1b[31mred\x1b[0m \x1b[1;38;5;9mbold\x1b[m", "red bold"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x07\x1b[2K\x1b[?25l", "link"),
        ("a\x1b[", "a\x1b["),
    ],
)
def test_plain_text(text: str, left: str) -> None:
    """Colours and text overwritten after a carriage return are removed; lines are kept."""
    assert plain_text(text) == left


@given(st.text(st.sampled_from("ab\r\n\x1b[]0;m\\\x07")))
def test_lines_are_kept(text: str) -> None:
    """The number of lines equals that of the text without escape sequences, for any overwritten text."""
    assert "\r" not in plain_text(text)
    if "\x1b" not in text:
        assert plain_text(text).count("\n") == text.count("\n")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"text/plain": "42"}, "42"),
        ({"text/plain": "   a\n0  1", "text/html": "<table>"}, "   a\n0  1"),
        ({"image/png": _PNG, "text/plain": _FIGURE}, "[figure 640x480 PNG]"),
        (
            {"image/png": _PNG, "text/plain": "<PIL.Image.Image image mode=L size=1x1 at 0x7F00>"},
            "[figure 640x480 PNG]",
        ),
        ({"image/png": "!", "text/plain": _FIGURE}, "[figure PNG]"),
        ({"image/png": "AAAA"}, "[figure PNG]"),
        ({"image/svg+xml": "<?xml?><svg width='10pt' height=\"20.5\">"}, "[figure 10x20.5 SVG]"),
        ({"image/svg+xml": "<svg viewBox='0 0 1 1'>"}, "[figure SVG]"),
        ({"image/png": _PNG, "text/plain": "a caption"}, "a caption\n[figure 640x480 PNG]"),
        ({"image/jpeg": "AAAA", "text/plain": "<IPython.core.display.Image object>"}, "[picture JPEG]"),
        ({"text/html": "<b>x</b>", "text/plain": "<IPython.core.display.HTML object>"}, "[HTML, 8 characters]"),
        ({"application/json": {"a": 1}, "text/plain": "<IPython.core.display.JSON object>"}, "[JSON]"),
        ({"application/vnd.plotly.v1+json": {}, "text/html": "<div>"}, "[figure plotly]"),
        ({"application/x-unknown": "x"}, ""),
        ({}, ""),
    ],
)
def test_describe(data: dict[str, Any], text: str) -> None:
    """The description of an image has its size; other displays are described if they have no text."""
    assert display_text(data) == text


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([("e", "0%"), ("o", "a\n"), ("e", "\r50%"), ("o", "b\n"), ("e", "\r100%\n")], "a\nb\n100%\n"),
        ([("e", "x\n0%"), ("o", "a\n"), ("e", "\r100%")], "x\na\n100%"),
        ([("o", "a"), ("e", "\r0%\r100%\n"), ("o", "b")], "a\n100%\nb"),
        ([("e", "abc"), ("o", "a\n"), ("e", "\r\nd")], "abca\n\nd"),
        ([("e", "abc"), ("o", "a\n"), ("e", "d")], "abca\nd"),
        ([("", "picture\n"), ("o", "a")], "picture\na"),
        ([], ""),
    ],
)
def test_a_bar_beside_prints_is_one_line(parts: list[tuple[str, str]], text: str) -> None:
    """A bar is placed where it was last drawn, and lines of the other stream are unchanged."""
    assert plain_text(join_streams(parts)) == text
