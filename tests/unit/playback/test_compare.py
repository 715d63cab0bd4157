"""Comparison of two entries, strict and with tolerance."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given

from daytona_kernel_interp.client.outputs import CellError, DisplayData, ExecuteResult, StreamText
from daytona_kernel_interp.playback.compare import EXACT, Comparison, Difference, Tolerance
from daytona_kernel_interp.recording.model import Outcome
from tests.transcripts import Maker
from tests.unit.strategies import FEW, VALUES

if TYPE_CHECKING:
    from daytona_kernel_interp.recording.model import Entry


def compare(one: Entry, other: Entry, maker: Maker, tolerance: Tolerance = EXACT) -> list[Difference]:
    return list(Comparison(maker.store, maker.store, tolerance).differences(one, other))


def texts(one: str, other: str, **tolerance: Any) -> bool:
    maker = Maker()
    return Comparison(maker.store, maker.store, Tolerance(**tolerance)).same_text(one, other)


@FEW
@given(value=VALUES)
def test_an_entry_equals_itself(value: Any) -> None:
    """Any values that are bound, passed, returned and printed equal themselves, with any tolerance."""
    maker = Maker()
    for _ in range(2):
        calls = [maker.call("tool", value, result=value)]
        maker.add("x", value=value, variables={"v": value}, calls=calls, outputs=[StreamText("stdout", "x\n")])
    for tolerance in (EXACT, Tolerance()):
        assert compare(maker.entries[0], maker.entries[1], maker, tolerance) == []


def test_every_part_that_differs_is_told() -> None:
    """Code, variables, calls, outputs and outcome are reported in this order."""
    maker = Maker()
    one = maker.add("x", value=1, variables={"a": 1, "b": 2}, calls=[maker.call("t", 1, result=1)])
    shown = [StreamText("stderr", "oh")]
    other = maker.submitted("y", {"n": 1}, variables={"a": 2}, calls=[maker.call("t", 1, result=2)], outputs=shown)
    assert compare(one, other, maker) == [
        Difference("code", "x", "y"),
        Difference("variables", "a = 1", "a = 2"),
        Difference("variables", "b = 2", "b (not bound)"),
        Difference("calls", "t(1) → 1", "t(1) → 2"),
        Difference("output", "", "oh"),
        Difference("outcome", "1", "SUBMIT {'n': 1}"),
    ]


def test_calls_may_come_in_any_order() -> None:
    """Only a call that one run lacks, or that was answered differently, is a difference."""
    maker = Maker()
    first, second, third = (maker.call("t", number, result=number) for number in range(3))
    one, other = maker.add("x", calls=[first, second]), maker.add("x", calls=[third, second, first])
    assert compare(one, other, maker) == [Difference("calls", "(not called)", "t(2) → 2")]
    assert compare(other, one, maker) == [Difference("calls", "t(2) → 2", "(not called)")]


def test_the_order_between_streams_means_nothing() -> None:
    """stdout and stderr are compared separately, in any number of pieces."""
    maker = Maker()
    one = maker.add("x", outputs=[StreamText("stdout", "ab"), StreamText("stderr", "!")])
    other = maker.add("x", outputs=[StreamText("stdout", "a"), StreamText("stderr", "!"), StreamText("stdout", "b")])
    assert compare(one, other, maker) == []


def test_an_error_that_was_shown_is_told_once() -> None:
    """A traceback is reported as an output; the outcome that repeats it is not."""
    maker = Maker()
    for text in "ab":
        maker.raised("x", "CodeExecutionError", f"KeyError: {text}", outputs=[CellError("KeyError", text, f"T {text}")])
    assert compare(maker.entries[0], maker.entries[1], maker) == [Difference("output", "T a", "T b")]


def test_a_cell_that_raises_now_is_told_without_its_traceback_twice() -> None:
    """The outcome has the first line of an error that the outputs show, and the whole text otherwise."""
    maker = Maker()
    fine = maker.add("x", value=1)
    long = "KeyError: a\nT a\nOutput before the error:\n..."
    shown = maker.raised("x", "CodeExecutionError", long, outputs=[CellError("KeyError", "a", "T a")])
    assert compare(fine, shown, maker) == [
        Difference("output", "(nothing)", "T a"),
        Difference("outcome", "1", "CodeExecutionError: KeyError: a"),
    ]
    died = maker.raised("x", "CodeInterpreterError", "KernelDied: so\nOutput before the error:\n...")
    assert compare(fine, died, maker)[-1].came.endswith("\n...")


@pytest.mark.parametrize(
    ("one", "other", "option"),
    [
        ("<object at 0x7f3aa0c0>", "<object at 0x7f3bb0d0>", "addresses"),
        ("wrote /tmp/tmpab12/x.csv now", "wrote /tmp/tmpcd34/x.csv now", "paths"),
        (
            "Traceback:\n\n  Cell In[1], line 2\n    f()\n\n  File ~/a/lib/x.py:599 in f\n    g()\n\nKeyError: 1",
            "Traceback:\n\n  Cell In[1], line 2\n    f()\n\n  File /usr/lib/x.py:601 in f\n    g(1)\n\nKeyError: 1",
            "paths",
        ),
        (
            "Traceback (most recent call last):\n\n  Cell In[1], line 2 in f\n    g()\n\nKeyError: 1",
            "Traceback (most recent call last):\n  Cell In[1], line 2, in f\n    g()\n    ~^^\nKeyError: 1",
            "paths",
        ),
        ("id 123e4567-e89b-12d3-a456-426614174000", "id 00000000-e89b-12d3-a456-426614174fff", "ids"),
        ("at 2026-01-02 03:04:05.123", "at 2027-11-12 13:14:15", "times"),
        ("took 1.5 s, 3 ms", "took 12.25 s, 400 ms", "times"),
        ("datetime.datetime(2026, 1, 2, 3, 4)", "datetime.datetime(2027, 1, 2, 3, 4, 5, 6)", "times"),
        ("1767323045.123", "1700000000.5", "times"),
    ],
)
def test_what_texts_may_differ_in(one: str, other: str, option: str) -> None:
    """Each kind of difference is tolerated if its option is set, and only then."""
    assert texts(one, other)
    assert not texts(one, other, **{option: False})


def test_numbers_in_texts() -> None:
    """Floats are equal up to the relative difference; other text must be equal."""
    assert texts("loss 0.123456789, n 3", "loss 0.123456790, n 3")
    assert not texts("loss 0.123456789", "loss 0.1235")
    assert texts("loss 0.123", "loss 0.124", floats=0.1)
    assert not texts("loss 0.123456789", "loss 0.123456790", floats=None)
    assert not texts("3 apples", "4 apples")
    assert not texts("  Cell In[1], line 2\n    f()\n", "  Cell In[1], line 2\n    g()\n")
    assert not texts("3 apples", "3 pears")
    assert texts("nan 1e-3", "nan 0.001")


def test_numbers_in_values() -> None:
    """Floats are compared inside lists, dicts, arrays and frames; the types must be the same."""
    numpy, pandas = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    maker = Maker()
    near, far = 1.0 + 1e-9, 1.1
    for make in (
        lambda x: {"a": [x, "t"]},
        lambda x: numpy.array([x, float("nan")]),
        lambda x: pandas.DataFrame({"a": [x], "b": ["t"]}),
        lambda x: (x, {"s"}),
    ):
        one, same, other = (maker.add("x", value=make(x)) for x in (1.0, near, far))
        assert compare(one, same, maker, Tolerance()) == []
        assert [found.what for found in compare(one, other, maker, Tolerance())] == ["outcome"]
        assert [found.what for found in compare(one, same, maker)] == ["outcome"]


def test_what_is_no_tolerance() -> None:
    """A wrong setting is refused by a sentence that names the allowed ones."""
    with pytest.raises(ValueError, match="a relative difference such as 1e-6"):
        Tolerance(floats=-1)
    with pytest.raises(ValueError, match='figures must be "exact", "pixels" or "size", not \'bytes\''):
        Tolerance(figures="bytes")  # type: ignore[arg-type]


def test_figures() -> None:
    """Figures are compared by size, pixels or bytes, as the tolerance says."""
    image = pytest.importorskip("PIL.Image")

    def picture(size: int, colour: int, level: int) -> DisplayData:
        file = io.BytesIO()
        image.new("RGB", (size, 10), (colour, 0, 0)).save(file, "PNG", compress_level=level)
        return DisplayData({"image/png": base64.b64encode(file.getvalue()).decode(), "text/plain": "<Figure>"}, {})

    maker = Maker()
    first, recompressed, other, larger = (
        maker.add("x", outputs=[picture(*facts)]) for facts in [(90, 9, 9), (90, 9, 0), (90, 200, 9), (91, 9, 9)]
    )
    outcomes = {
        figures: [not compare(first, one, maker, Tolerance(figures=figures)) for one in (recompressed, other, larger)]
        for figures in ("exact", "pixels", "size")
    }
    assert outcomes == {"exact": [False] * 3, "pixels": [True, False, False], "size": [True, True, False]}
    [found] = compare(first, larger, maker)
    assert "image/png 90x10" in found.expected
    assert "image/png 91x10" in found.came


def test_svg_by_size() -> None:
    """Two drawings of the same size are equal if figures are compared by size."""
    maker = Maker()
    svgs = [
        f'<svg width="{size}" height="5"><text>{text}</text></svg>' for size, text in ((3, "a"), (3, "b"), (4, "a"))
    ]
    one, same, other = (maker.add("x", outputs=[DisplayData({"image/svg+xml": svg}, {})]) for svg in svgs)
    assert compare(one, same, maker, Tolerance()) == []
    assert len(compare(one, other, maker, Tolerance())) == 1


def test_rich_outputs() -> None:
    """JSON is compared as a value; another kind of output, or one more, is a difference."""
    maker = Maker()
    data = {"application/json": {"a": 1.0}, "text/plain": "1"}
    near = {"application/json": {"a": 1.0 + 1e-9}, "text/plain": "1"}
    one, same = (maker.add("x", outputs=[ExecuteResult(each, {})]) for each in (data, near))
    assert compare(one, same, maker, Tolerance()) == []
    shown = maker.add("x", outputs=[DisplayData(data, {})])
    assert len(compare(one, shown, maker)) == 1
    twice = maker.add("x", outputs=[ExecuteResult(data, {}), DisplayData(data, {})])
    assert compare(one, twice, maker)[0].expected == "(nothing)"


def test_where_a_cell_was_stopped_is_the_machines() -> None:
    """The outputs of two stopped runs are not compared; those of a stopped and a completed run are."""
    maker = Maker()
    one = maker.raised("x", "CodeExecutionError", "a", "timeout", outputs=[StreamText("stdout", "1")])
    other = maker.raised("x", "CodeExecutionError", "b", "interrupted", outputs=[StreamText("stdout", "12")])
    ended = maker.add("x", Outcome("returned", "ok", value=maker.store.put("")))
    assert compare(one, other, maker) == []
    assert [found.what for found in compare(one, ended, maker)] == ["output", "outcome"]


def test_late_text_is_told_as_such() -> None:
    """Background output is part of the returned text and is compared separately."""
    maker = Maker()
    one = maker.add("x", value="[printed after an earlier cell had ended]\na\nb", late="a\n")
    other = maker.add("x", value="b")
    assert compare(one, other, maker) == [Difference("output", "background output: a\n", "background output: ")]
