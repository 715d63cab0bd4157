"""Comparison of two recorded runs, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.client.outputs import StreamText
from daytona_kernel_interp.playback.diff import diff
from tests.rendered import html_of
from tests.transcripts import SEARCH, Maker

if TYPE_CHECKING:
    from daytona_kernel_interp.recording.model import Transcript


def run(*cells: str) -> Transcript:
    """Return a run whose cells print the last word of their code."""
    maker = Maker()
    for code in cells:
        text = code.split()[-1] if code.split() else ""
        maker.add(code, value=text, outputs=[StreamText("stdout", text)])
    return maker.transcript()


def kinds(one: Transcript, other: Transcript) -> list[tuple[int | None, int | None, str]]:
    return [(step.a, step.b, step.kind) for step in diff(one, other).steps]


CELLS = st.lists(st.sampled_from(["a = 1", "b = 2", "print(a)", "total = sum(x)"]), max_size=6)


@given(CELLS, CELLS)
def test_every_step_is_told_once(one: list[str], other: list[str]) -> None:
    """Each step of either run is listed once and in order; equal runs are the same."""
    found = diff(run(*one), run(*other))
    assert [step.a for step in found.steps if step.a is not None] == list(range(len(one)))
    assert [step.b for step in found.steps if step.b is not None] == list(range(len(other)))
    assert found.same == (one == other)


def test_where_runs_part() -> None:
    """A changed step is paired with its earlier version; a step of one run only is marked."""
    one = run("import os", "total = sum(numbers)", "print('x')", "done = 1")
    other = run("import os", "total = sum(values)", "done = 1", "more = 2")
    assert kinds(one, other) == [
        (0, 0, "same"),
        (1, 1, "differs"),
        (2, None, "only a"),
        (3, 2, "same"),
        (None, 3, "only b"),
    ]
    found = diff(one, other)
    assert found.parts_at is found.steps[1]


def test_as_text() -> None:
    """The text names the first differing step, lists all steps, and shows the differences of each."""
    maker, second = Maker(), Maker()
    maker.add("print(n)", variables={"n": 1}, outputs=[StreamText("stdout", "1\n")])
    second.add("print(n)", variables={"n": 2}, outputs=[StreamText("stdout", "2\n")])
    for each, answer in ((maker, "x"), (second, "y")):
        each.add("search('a')", value=answer, tools=[SEARCH], calls=[each.call("search", "a", result=answer)])
        each.submitted("SUBMIT(n=1)", {"n": 1})
    found = diff(maker.transcript(), second.transcript())
    text = str(found)
    assert text.startswith("the recording (A) and the recording (B) diverge at step 0 and 0.\n\n")
    assert found.table().splitlines() == [
        "A  B                     CODE",
        "0  0  variables, output  print(n)",
        "1  1  calls, outcome     search('a')",
        "2  2                     SUBMIT(n=1)",
    ]
    assert "step 1 of A, step 1 of B\n  calls:\n    --- A\n    +++ B\n" in text
    assert "-search('a') → x\n    +search('a') → y" in text
    assert "<td>variables, output</td>" in html_of(found)


def test_equal_runs() -> None:
    """Equal runs are reported as the same, and so are runs that differ within the tolerance."""
    assert str(diff(run("a"), run("a"))) == "the recording (A) and the recording (B) are the same: 1 steps."
    one, other = (run(f"print({number}) # 0x7f00000000{number}0") for number in (1, 1))
    assert diff(one, other).same
    makers = Maker(), Maker()
    for number, maker in enumerate(makers):
        maker.add("object()", outputs=[StreamText("stdout", f"<object at 0x7f000000000{number}>")])
    first, second = (maker.transcript() for maker in makers)
    assert not diff(first, second).same
    assert diff(first, second, tolerance=True).same


def test_html_is_escaped() -> None:
    """Untrusted code is text in the table."""
    assert "<script>" not in html_of(diff(run("'<script>'"), run("1")))
