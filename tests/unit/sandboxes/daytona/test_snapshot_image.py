"""Tests of ``snapshot_image``: the log of a build."""

from __future__ import annotations

from daytona_kernel_interp.sandboxes.daytona.snapshot_image import BuildLog


def test_lines_are_passed_on_and_the_last_ones_kept() -> None:
    """Empty lines are dropped, and 15 lines remain for an error."""
    lines: list[str] = []
    build = BuildLog(lines.append)
    assert build.end() == ""
    build("FROM a\n\n  RUN b  \n")
    build("".join(f"line {number}\n" for number in range(20)))
    assert lines[:3] == ["FROM a", "  RUN b", "line 0"]
    heading, *kept = build.end().strip().split("\n")
    assert heading == "The last lines of its build:"
    assert [line.strip() for line in kept] == [f"line {number}" for number in range(5, 20)]


def test_a_long_line_is_cut() -> None:
    """With its length."""
    build = BuildLog()
    build("x" * 30_000)
    assert build.end().endswith(f"  {'x' * 240} ... (30000 characters)")
