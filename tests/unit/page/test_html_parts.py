"""Parts of the page show what was recorded and are inert."""

from __future__ import annotations

import base64
import html
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.client.outputs import CellError, DisplayData, ExecuteResult, StreamText
from daytona_kernel_interp.page import html_parts
from tests.sessions import png

EVIL = "<script>PWNED=1</script><img src=x onerror=PWNED=1>\"'>"
# The only elements and attributes that any piece is made of.
ALLOWED = re.compile(
    r"</?(?:"
    + "|".join(
        [
            r'i class="[ksmcfb]"|i|br /|strong|em|del|code|ul|ol|li|h4|hr /|blockquote|table|thead|tbody|tr|iframe',
            r'(?:p|pre|div|figure)(?: class="[a-z ]+")?',
            r't[dh](?: style="text-align:[a-z]+")?',
            r'a(?: href="(?:https?://|mailto:)[^"<>]*" rel="noopener noreferrer nofollow" target="_blank")?',
            r'img alt="[^"<>]*" src="data:image/[a-z+]+;base64,[A-Za-z0-9+/=]*"',
            r'iframe sandbox="" loading="lazy" referrerpolicy="no-referrer" title="[\w ]+" style="height:\d+px"'
            r' srcdoc="[^"<>]*"',
        ]
    )
    + ")>"
)


def _only_ours(piece: str) -> bool:
    return "<" not in ALLOWED.sub("", piece)


@given(st.text())
def test_code_keeps_every_character(source: str) -> None:
    """Highlighting keeps every character of the code and turns none into an element."""
    piece = html_parts.code(source)
    assert _only_ours(piece)
    # The lexer normalizes line ends, as Python does.
    assert html.unescape(re.sub(r'<i class="\w">|</i>', "", piece)) == source.replace("\r\n", "\n").replace("\r", "\n")


def test_code_has_colours() -> None:
    """Keywords, strings, numbers, comments, defined names and builtins have different colors."""
    piece = html_parts.code("def area(r):\n    return len('<b>') * 2  # round")
    assert set(re.findall(r'<i class="(\w)">', piece)) == {"k", "f", "b", "s", "m", "c"}
    long = "x = 1\n" * 20_000
    assert html_parts.code(long) == long


@given(
    st.text(alphabet=st.sampled_from("<>&\"'`*_[]()!#-| \n:/abjx1\\")) | st.sampled_from([EVIL, f"```\n{EVIL}\n```"])
)
def test_markdown_makes_no_element_of_its_text(text: str) -> None:
    """No text becomes an element other than those of markdown."""
    assert _only_ours(html_parts.markdown(text))


@pytest.mark.parametrize(
    "text",
    [
        EVIL,
        "[a](javascript:PWNED=1)",
        "[a](JaVaScRiPt&#58;PWNED=1)",
        "[a](data:text/html,<script>PWNED=1</script>)",
        "[a](//example.org/)",
        "<javascript:PWNED=1>",
        "![a](https://example.org/pixel.png)",
        '![a"onerror="PWNED=1](https://example.org/)',
        "[a][b]\n\n[b]: javascript:PWNED=1",
        "| a |\n|---|\n| <script>PWNED=1</script> |",
    ],
)
def test_markdown_links_to_the_web_only(text: str) -> None:
    """Markdown has no raw HTML, loads no picture and has no link that could run a script."""
    piece = html_parts.markdown(text)
    assert _only_ours(piece)
    assert "<img" not in piece
    assert "href" not in piece


def test_markdown_reads_well() -> None:
    """Lists, code and links are rendered; text that is too long is shown as it is."""
    piece = html_parts.markdown("# Plan\n- **one**\n\n`x` [a](https://example.org/?a=1&b=2)\n```python\nreturn 1\n```")
    for wanted in (
        "<h4>Plan</h4>",
        "<strong>one</strong>",
        "<code>x</code>",
        'href="https://example.org/?a=1&amp;b=2"',
    ):
        assert wanted in piece
    assert '<i class="k">return </i>' in piece
    assert html_parts.markdown("*" * 50_000).startswith('<p class="plain">')


@pytest.mark.parametrize(
    "data",
    [
        {"text/html": EVIL},
        {"text/html": "<table onclick=PWNED=1><tr><td>1</table>"},
        {"image/svg+xml": "<svg onload='PWNED=1'><script>PWNED=1</script></svg>"},
        {"image/png": f'" onerror="PWNED=1{EVIL}', "text/plain": EVIL},
        {"image/png": base64.b64encode(b"<svg onload=PWNED=1>").decode(), "text/plain": EVIL},
        {"text/markdown": EVIL},
        {"application/json": {EVIL: [EVIL]}},
        {"application/javascript": "PWNED=1", "text/plain": EVIL},
        {"text/latex": EVIL},
        {"text/plain": EVIL},
        {"text/html": 7, "image/png": None, "text/plain": [EVIL]},
        {},
    ],
)
def test_outputs_can_do_nothing(data: dict[str, Any]) -> None:
    """A displayed output is text, a picture, or a frame without permissions."""
    for shown in (DisplayData(data, {}), ExecuteResult(data, {})):
        assert _only_ours(html_parts.output_html(shown, 1000))


def test_endless_outputs_end() -> None:
    """Hostile and deeply nested outputs are rendered as fast as others."""
    nested: list[Any] = []
    for _ in range(900):
        nested = [nested]
    hostile: list[dict[str, Any]] = [
        {"text/html": sign * 500_000, "text/plain": "plain"} for sign in ("<", "<scr", "<style>", "<li")
    ]
    hostile.append({"application/json": nested, "text/plain": "plain"})
    for data in hostile:
        assert html_parts.output_html(DisplayData(data, {}), 1000)
    for text in ("[" * 20_000, "> " * 10_000, "- " * 10_000, "**a" * 6_000):
        assert _only_ours(html_parts.markdown(text))


def test_streams_and_errors_are_text() -> None:
    """Streams and tracebacks are shown as text without colors."""
    for shown in (
        StreamText("stdout", EVIL),
        StreamText(EVIL, EVIL),
        CellError(EVIL, EVIL, EVIL),
        CellError(EVIL, "", ""),
    ):
        assert _only_ours(html_parts.output_html(shown, 1000))
    assert ">green</pre>" in html_parts.output_html(StreamText("stdout", "\x1b[32mgreen\x1b[0m"), 1000)


def test_frames_reach_nothing() -> None:
    """Tags that load or navigate are renamed; the rest of the HTML is unchanged."""
    page = html.unescape(
        html_parts.frame(
            '<LINK rel=preconnect href=//x><meta http-equiv=refresh><p style="color:red">1</p><base>', "HTML"
        )
    )
    assert page.count("<x-") == 3
    assert '<p style="color:red">1</p>' in page
    assert page.index("Content-Security-Policy") < page.index("<x-")


def test_pictures_are_shown() -> None:
    """A picture is preferred to text, SVG included; HTML that has only scripts is replaced by its text."""
    data = {"image/png": png(30, 20), "text/plain": "<Figure>", "text/html": "<b>x</b>"}
    assert 'alt="figure 30x20 PNG"' in html_parts.output_html(DisplayData(data, {}), 1000)
    assert "data:image/svg+xml;base64," in html_parts.output_html(DisplayData({"image/svg+xml": "<svg/>"}, {}), 1000)
    chart = {"text/html": "<div><script>draw()</script></div>", "text/plain": "a chart"}
    assert html_parts.output_html(DisplayData(chart, {}), 1000) == '<pre class="out display">a chart</pre>'


@given(st.text(max_size=300), st.integers(8, 100))
def test_cut_texts_keep_both_ends(text: str, limit: int) -> None:
    """A cut text keeps beginning and end and has the number of characters left out."""
    shown = html_parts.cut(text, limit)
    if len(text) <= limit:
        assert shown == text
    else:
        head, tail = limit * 3 // 4, limit // 4
        assert shown.startswith(text[:head] + f"\n[… {len(text) - head - tail} characters")
        assert shown.endswith(text[len(text) - tail :])
