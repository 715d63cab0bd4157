"""The SUBMIT function: its arguments, its errors and its signature."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.guest.kernel.submit import SubmitSignal, make_submit, submit_signature
from daytona_kernel_interp.wire.comm import OutputField

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.python

FIELDS = (OutputField("answer", "str"), OutputField("score", "int"))


def submit(fields: Sequence[OutputField] | None, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Call SUBMIT and return what it sent."""
    sent: list[dict[str, Any]] = []
    with pytest.raises(SubmitSignal):
        make_submit(fields, sent.append)(*args, **kwargs)
    assert len(sent) == 1
    return sent[0]


def refusal(fields: Sequence[OutputField] | None, *args: Any, **kwargs: Any) -> str:
    """Call SUBMIT with wrong arguments and return the error's text; nothing may have been sent."""
    sent: list[dict[str, Any]] = []
    with pytest.raises(TypeError) as refused:
        make_submit(fields, sent.append)(*args, **kwargs)
    assert sent == []
    return str(refused.value)


@given(st.integers(0, 2))
def test_fields_go_by_position_or_by_name(positional: int) -> None:
    """Every way to write the call sends the same fields, in their declared order."""
    answer = {"answer": "a", "score": 1}
    values = list(answer.items())
    sent = submit(FIELDS, *(v for _, v in values[:positional]), **dict(reversed(values[positional:])))
    assert list(sent.items()) == values


def test_without_declared_fields_there_is_one() -> None:
    """A module without output fields submits one value, ``output``."""
    assert submit(None, 5) == {"output": 5}
    assert submit(None, output=[1]) == {"output": [1]}


def test_no_fields_take_no_value() -> None:
    """A signature without outputs submits no fields."""
    assert submit([]) == {}


@pytest.mark.parametrize("value", [None, 0, "", []])
def test_a_falsy_answer_is_an_answer(value: Any) -> None:
    """None, zero and empty values are submitted like any other."""
    assert submit(None, value) == {"output": value}


@pytest.mark.parametrize("name", ["class", "two words", "self", "args", "send"])
def test_any_field_name_can_be_submitted(name: str) -> None:
    """A field whose name is no identifier, or a name used in SUBMIT itself, can be given by keyword or position."""
    assert submit([OutputField(name)], **{name: 1}) == {name: 1}
    assert submit([OutputField(name)], 1) == {name: 1}


@pytest.mark.parametrize(
    ("args", "kwargs", "why"),
    [
        ((), {}, "is missing 'answer', 'score'"),
        (("a",), {}, "is missing 'score'"),
        (("a", 1, 2), {}, "takes 2 values but 3 were given"),
        (("a", 1), {"answer": "b"}, "got field 'answer' twice"),
        ((), {"answer": "a", "scores": 1}, "has no field 'scores' (did you mean 'score'?); is missing 'score'"),
        ((), {"zzz": 1}, "has no field 'zzz'; is missing"),
    ],
)
def test_a_wrong_call_is_explained(args: tuple[Any, ...], kwargs: dict[str, Any], why: str) -> None:
    """One error names all problems and the expected call; nothing is sent."""
    text = refusal(FIELDS, *args, **kwargs)
    assert why in text
    assert text.startswith("SUBMIT() ")
    assert text.endswith("Expected: SUBMIT(answer: str, score: int)")


def test_schema_shows_types_where_there_are_some() -> None:
    """A field without a type has its name only."""
    assert submit_signature([OutputField("a"), OutputField("b", "list[str]")]) == "SUBMIT(a, b: list[str])"
    assert submit_signature([]) == "SUBMIT()"


def test_help_shows_the_call() -> None:
    """Name, signature and docstring describe the call."""
    function = make_submit(FIELDS, lambda fields: None)
    assert function.__name__ == function.__qualname__ == "SUBMIT"
    assert str(inspect.signature(function)) == "(answer: str, score: int)"
    assert function.__annotations__ == {"answer": str, "score": int}
    assert "SUBMIT(answer: str, score: int)" in str(function.__doc__)


def test_the_signal_passes_except_exception() -> None:
    """``except Exception`` does not catch the end of the cell."""
    assert issubclass(SubmitSignal, BaseException)
    assert not issubclass(SubmitSignal, Exception)


def test_an_answer_that_cannot_be_sent_does_not_end_the_cell() -> None:
    """An error from sending is raised in place of the signal."""

    def refuse(fields: dict[str, Any]) -> None:
        raise TypeError("cannot send")

    with pytest.raises(TypeError, match="cannot send"):
        make_submit(FIELDS, refuse)("a", 1)


def test_annotations_are_the_types_of_the_fields() -> None:
    """A builtin type is itself, another one its text, and a field without a type has none."""
    fields = [OutputField("a", "float"), OutputField("b", "list[str]"), OutputField("c"), OutputField("d", "print")]
    function = make_submit(fields, lambda answer: None)
    assert function.__annotations__ == {"a": float, "b": "list[str]", "d": "print"}


def test_a_function_that_code_has_kept_answers_for_the_current_fields() -> None:
    """The fields are those of the time of the call; an old keyword is refused with the call that is expected."""
    sent: list[dict[str, Any]] = []
    kept = make_submit([OutputField("answer")], sent.append, lambda: [OutputField("title", "str")])
    with pytest.raises(SubmitSignal):
        kept(5)
    assert sent == [{"title": 5}]
    with pytest.raises(TypeError, match=r"has no field 'answer'.*Expected: SUBMIT\(title: str\)"):
        kept(answer=5)
