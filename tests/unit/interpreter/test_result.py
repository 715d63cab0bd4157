"""Values and submissions of a hostile kernel; results of real cells are tested with kernels."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from daytona_kernel_interp.client.output_collector import OutputCollector
from daytona_kernel_interp.codec.records import Record, SequenceRecord
from daytona_kernel_interp.codec.values import dumps
from daytona_kernel_interp.interpreter.dspy_compat import CodeInterpreterError
from daytona_kernel_interp.interpreter.result import error_text, execute_result, submission_of
from tests.unit import strategies

HUGE = 10**100_000  # Python refuses to write it


def cell(value: Any) -> OutputCollector:
    """Return a cell that showed a result, with ``value`` as its transferred value."""
    made = OutputCollector("1")
    made.value = dumps(value)
    content = {"data": {"text/plain": "shown"}, "metadata": {}}
    list(made.receive_iopub({"header": {"msg_type": "execute_result"}, "content": content}))
    return made


def library_values() -> list[Any]:
    np = pytest.importorskip("numpy", reason="numpy is not installed in this environment")
    pd = pytest.importorskip("pandas", reason="pandas is not installed in this environment")
    pl = pytest.importorskip("polars", reason="polars is not installed in this environment")
    frames = [pd.DataFrame({"a": [1, 2]}), pl.DataFrame({"a": [1]}), pd.NA, np.arange(3)]
    return [*frames, *([each] for each in frames), SequenceRecord("x", {"a": np.arange(3)}), {pd.NA: 1}]


def test_what_json_does_not_have_is_shown_by_its_repr() -> None:
    """Frames and arrays have no truth value, and some numbers no text; the repr is returned, and nothing raised."""
    for value in [HUGE, [HUGE], {"a": HUGE}, "\ud800", *library_values()]:
        assert execute_result(cell(value), "", raw_only=False) == "shown"
    assert execute_result(cell([1, 2]), "", raw_only=False) == [1, 2]


@given(strategies.VALUES)
def test_any_value_is_returned_or_shown(value: Any) -> None:
    """Every value gives a result."""
    execute_result(cell(value), "", raw_only=False)


def test_an_answer_is_a_dict_of_the_fields() -> None:
    """Anything else is refused, whatever its ``==`` returns."""
    fields = [{"name": "a"}]
    submitted = OutputCollector("1")
    submitted.submission = dumps({"a": HUGE})
    assert submission_of(submitted, fields) == {"a": HUGE}
    for value in [HUGE, [], "a", {"b": 1}, {1: 2}, {("a",): 1}, Record("x", {"a": 1}), *library_values()]:
        submitted.submission = dumps(value)
        with pytest.raises(CodeInterpreterError, match="are not the output fields"):
            submission_of(submitted, fields)


@pytest.mark.parametrize(
    ("summary", "traceback", "printed"),
    [
        ("ValueError: \x1b]0;title\x07", "", ""),
        ("ValueError: x", "Traceback\n\x9d52;c;eA==\x9c", ""),
        ("ValueError: x", "", "a\x1b_Gq=1;\x1b\\b"),
        ("ValueError: \u202egnp.exe", "\x1b[31mred\x1b[0m", "\x08\x08"),
    ],
)
def test_an_error_cannot_control_a_terminal(summary: str, traceback: str, printed: str) -> None:
    """Wherever in it the characters are; newlines stay."""
    text = error_text(summary, traceback, printed)
    assert text.replace("\n", "").isprintable()
    assert text.startswith("ValueError: ")
