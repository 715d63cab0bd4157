"""The Markdown cells of a recording: what they say, and that recorded text cannot format the page."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.recording import markdown
from daytona_kernel_interp.recording.model import Ending, Entry, Outcome, Usage
from tests.sessions import BEGAN, small

TICKS = st.text("`a \n", max_size=12)


@given(text=TICKS)
def test_a_fence_is_longer_than_any_in_the_text(text: str) -> None:
    """No line of the text ends its code block."""
    first, *inner, last = markdown.block(text).split("\n")
    assert first == f"{last}text"
    assert "\n".join(inner) == text
    assert last not in text


@given(text=TICKS)
def test_inline_code_is_one_line(text: str) -> None:
    """Inline code stands on one line, between backticks that are not in the text."""
    code = markdown.inline(text)
    fence = code[: len(code) - len(code.lstrip("`"))]
    assert "\n" not in code
    assert code.endswith(fence)
    assert fence not in code[len(fence) : -len(fence)].strip().replace(fence * 2, "")


def test_a_long_text_is_cut_in_the_middle() -> None:
    """A block has the beginning and the end of a long text, and says how much is left out."""
    block = markdown.block("a" * 5000 + "b" * 5000)
    assert "6,000 characters left out" in block
    assert "aaa" in block
    assert block.endswith("bbb\n```")


def test_tokens_and_cost() -> None:
    """Model, tokens and cost are named as far as they are known."""
    assert markdown.usage_of(Usage("m", 1200, 30, 0.00125)) == "`m`, 1,200 + 30 tokens, $0.00125"
    assert markdown.usage_of(Usage()) == markdown.usage_of(None) == ""


@pytest.mark.parametrize(
    ("kind", "ending", "text"),
    [
        ("raised", "interrupted", "**The cell was interrupted; variables kept.**"),
        ("raised", "timeout", "**The cell reached its time limit and was interrupted; variables kept.**"),
        ("raised", "died", "**The kernel died.**"),
        ("raised", "not_run", "**The cell did not run.**"),
        ("raised", "unknown", "**It is not known how the cell ended.**"),
        ("unfinished", "unknown", "**The host process ended before this cell did.**"),
        ("returned", "ok", ""),
    ],
)
def test_how_a_cell_ended(kind: str, ending: Ending, text: str) -> None:
    """The cell below names an ending that the outputs do not show; there is no cell for a plain ending."""
    outcome = Outcome(kind, ending)  # type: ignore[arg-type]  # mypy does not narrow parameters
    assert markdown.cell_summary(Entry(0, "id", "", BEGAN, outcome), None) == text


def test_calls_and_late_output() -> None:
    """Each call has its arguments, its duration and its result or error; output of earlier cells comes first."""
    text = markdown.cell_summary(small().entries[1], {"answer": "yes"})
    for shown in (
        "Printed by threads of earlier cells since they ended:\n\n```text\na thread's last words\n",
        "*Tool call* `search`: 1.5 s\n- arguments: `(['refund policy'], {'limit': 3})`\n- returned: `['refunds', ",
        "- raised: `KeyError: 'nowhere'`",
        "*Model call* `llm_query`: `openrouter/google/gemini-3-flash-preview`, 410 + 35 tokens, $0.00021, 900 ms",
        "**SUBMIT**\n\n`answer`\n\n```text\nyes\n```",
    ):
        assert shown in text
    many = replace(small().entries[1], calls=[*small().entries[1].calls] * 100)
    assert "… and 200 more calls, in the metadata." in markdown.cell_summary(many, None)
