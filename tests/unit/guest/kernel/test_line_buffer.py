"""Redrawn lines, and very long lines."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.client.output_text import plain_text
from daytona_kernel_interp.guest.kernel import line_buffer as lines
from daytona_kernel_interp.guest.kernel.line_buffer import LongLineLimiter, RedrawBuffer

pytestmark = pytest.mark.python

_TEXTS = st.lists(st.text(st.sampled_from("ab\n\ré"), max_size=12), max_size=12)


class Clock:
    """A clock that advances by a fixed step at each reading."""

    def __init__(self, step_s: float) -> None:
        self.now, self.step_s = 0.0, step_s

    def __call__(self) -> float:
        self.now += self.step_s
        return self.now


@given(texts=_TEXTS, watched=st.booleans(), held=st.integers(0, 20))
def test_a_redrawn_line_reads_the_same(texts: list[str], watched: bool, held: int) -> None:
    """The displayed text is the same however it is cut into writes, and whatever states were sent."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_STATE_CHARS", held)
        redraws, out = RedrawBuffer(Clock(1)), ""
        for text in texts:
            out += redraws.feed(text)
            if watched and redraws.pending:
                out += redraws.current_state()
        assert plain_text(out + redraws.finish()) == plain_text("".join(texts))


@given(texts=_TEXTS)
def test_what_is_settled_is_each_line_once(texts: list[str]) -> None:
    """Without intermediate states, each line is returned once, with what preceded its first redraw."""
    redraws = RedrawBuffer()
    out = "".join(map(redraws.feed, texts)) + redraws.finish()
    assert all(line.count("\r") <= 1 for line in out.split("\n"))
    assert sum(map(len, texts)) >= len(out) - out.count("\r")


def test_text_without_redraws_is_not_held_back() -> None:
    """Text without carriage returns is returned at once, also in the middle of a line."""
    redraws = RedrawBuffer()
    assert [redraws.feed(text) for text in ("a", "b\nc", "\r", "d", "\n", "e")] == ["a", "b\nc", "", "", "\rd\n", "e"]


def test_states_are_shown_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """States are returned at intervals, and up to a limit."""
    redraws, shown = RedrawBuffer(Clock(lines.REDRAW_S / 4)), 0
    for number in range(100):
        redraws.feed(f"\r{number}")
        shown += bool(redraws.current_state())
    assert 20 < shown < 60
    redraws = RedrawBuffer(Clock(1))
    size = 0
    for number in range(10_000):
        redraws.feed(f"\r{number:99}")
        size += len(redraws.current_state())
    assert lines.REDRAWN_CHARS - 200 < size <= lines.REDRAWN_CHARS


@given(texts=_TEXTS, limit=st.integers(0, 12), held=st.integers(0, 6))
def test_a_long_line_is_cut_in_its_middle(texts: list[str], limit: int, held: int) -> None:
    """A line within the limit is complete; a longer one has both ends and the exact count between."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_HELD_CHARS", held)
        long_lines = LongLineLimiter(limit, lambda left_out: f"<{left_out}>")
        out = "".join(map(long_lines.feed, texts)) + long_lines.finish()
    half = limit // 2
    for line, whole in zip(out.split("\n"), "".join(texts).split("\n"), strict=True):
        cut = f"{whole[:half]}<{len(whole) - 2 * half}>{whole[len(whole) - half :]}"
        assert line == (whole if len(whole) <= 2 * half else cut)


def test_a_line_without_end_is_not_kept_whole() -> None:
    """Of a very long line only the two ends are kept in memory."""
    long_lines = LongLineLimiter(1000, str)
    tracemalloc.start()
    try:
        for _ in range(1000):
            long_lines.feed("x" * 100_000)
            assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()
