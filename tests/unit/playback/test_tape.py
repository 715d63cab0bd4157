"""The tape: recorded calls found by tool and arguments."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.codec import values
from daytona_kernel_interp.errors import ReplayMismatch
from daytona_kernel_interp.playback.canonical import canonical, same_value
from daytona_kernel_interp.playback.tape import Tape
from daytona_kernel_interp.wire.comm import Parameter, ToolSpec
from tests.transcripts import LLM_QUERY, SEARCH, Maker
from tests.unit.strategies import FEW, VALUES

ANY = ToolSpec("tool", "", None)


def encoded(*args: Any, **kwargs: Any) -> Any:
    return values.dumps((list(args), kwargs))


@FEW
@given(arguments=st.lists(st.lists(VALUES, max_size=2), min_size=1, max_size=6), seed=st.integers(0, 100))
def test_calls_in_any_order_get_their_own_answers(arguments: list[list[Any]], seed: int) -> None:
    """In any order, each call gets an answer for the same arguments, equal calls in the recorded order."""
    maker = Maker()
    calls = [maker.call("tool", *args, result=number) for number, args in enumerate(arguments)]
    maker.add("x", calls=calls, tools=[ANY])
    tape = Tape(maker.entries, maker.store)
    order = list(range(len(arguments)))
    random.Random(seed).shuffle(order)
    got: dict[str, list[int]] = {}
    for number in order:
        found = tape.take(0, "tool", encoded(*arguments[number]))
        key = canonical(maker.store.load(calls[number].arguments))
        assert canonical(maker.store.load(found.arguments)) == key
        got.setdefault(key, []).append(found.id)
    assert all(ids == sorted(ids) for ids in got.values())
    assert sorted(itertools.chain.from_iterable(got.values())) == [call.id for call in calls]
    assert tape.left(0) == []


@FEW
@given(value=VALUES)
def test_a_value_is_the_same_after_a_round_trip(value: Any) -> None:
    """Decoding and encoding a value does not change its canonical form."""
    first = values.dumps(value)
    assert same_value(first, values.dumps(values.loads(first)))


@FEW
@given(items=st.dictionaries(st.text(max_size=3), VALUES, min_size=2, max_size=5), big=st.booleans())
def test_the_order_of_dicts_and_sets_means_nothing(items: dict[str, Any], big: bool) -> None:
    """The order of a dict, large pieces included, does not count; another key does."""
    if big:
        items = {**items, "one": "a" * 70_000, "other": b"b" * 70_000}
    backwards = dict(reversed(items.items()))
    assert same_value(values.dumps([items, set(items)]), values.dumps([backwards, set(backwards)]))
    assert not same_value(values.dumps(items), values.dumps({**items, "a further key": 1}))


def test_large_pieces_are_told_apart() -> None:
    """Two values that differ only in a large piece are different."""
    assert not same_value(values.dumps("a" * 70_000), values.dumps("b" * 70_000))
    assert not same_value(values.dumps({1, 2}), values.dumps({1, 3}))
    assert not same_value(values.dumps([1, 2]), values.dumps([2, 1]))


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [(["a", 5], {}), (["a"], {"limit": 5}), ([], {"limit": 5, "query": "a"}), (["a", 5.0], {})],
)
def test_how_arguments_are_passed_means_nothing(args: list[Any], kwargs: dict[str, Any]) -> None:
    """Positional and keyword arguments are the same, in any order, and equal numbers too."""
    maker = Maker()
    maker.add("x", calls=[maker.call("search", "b", 5), maker.call("search", "a", limit=5)], tools=[SEARCH])
    assert Tape(maker.entries, maker.store).take(0, "search", encoded(*args, **kwargs)).id == 2


def test_keywords_beside_the_signature_are_compared() -> None:
    """Arguments that a tool takes as ``**options`` belong to the call."""
    spec = ToolSpec("tool", "", (Parameter("a", 1), Parameter("options", 4)))
    maker = Maker()
    maker.add("x", calls=[maker.call("tool", 1, b=2, c=3)], tools=[spec])
    tape = Tape(maker.entries, maker.store)
    with pytest.raises(ReplayMismatch):
        tape.take(0, "tool", encoded(1, b=2))
    assert tape.take(0, "tool", encoded(c=3, b=2, a=1)).id == 1


def test_the_same_call_twice_gets_its_answers_in_order() -> None:
    """Equal calls get the recorded answers in order; one more call is refused."""
    maker = Maker()
    maker.add("x", calls=[maker.call("llm_query", "hi", result=answer) for answer in "ab"], tools=[LLM_QUERY])
    tape = Tape(maker.entries, maker.store)
    found = [tape.take(0, "llm_query", encoded(prompt="hi")) for _ in "ab"]
    assert [values.loads(maker.store.load(call.result)) for call in found if call.result] == ["a", "b"]
    with pytest.raises(ReplayMismatch, match="once more; all equal calls, the last in step 0, are answered"):
        tape.take(0, "llm_query", encoded("hi"))


def test_the_own_cell_comes_first() -> None:
    """Equal calls of two cells get the answers of their own cell; a late call of a thread gets one that is left."""
    maker = Maker()
    maker.add("x", calls=[maker.call("search", "a", result=1)], tools=[SEARCH])
    maker.add("y", calls=[maker.call("search", "a", result=2)], tools=[SEARCH])
    tape = Tape(maker.entries, maker.store)
    assert tape.take(1, "search", encoded("a")).id == 2
    assert [call.id for call in tape.left(0)] == [1]
    assert tape.take(1, "search", encoded("a")).id == 1
    assert tape.left(0) == tape.left(1) == []


def test_a_miss_shows_the_nearest_recorded_call() -> None:
    """The error has the call, and the difference from the most similar recorded call."""
    maker = Maker()
    calls = [
        maker.call("search", "apples and pears"),
        maker.call("search", "stones"),
        maker.call("llm_query", "apples"),
    ]
    maker.add("x", calls=calls, tools=[SEARCH, LLM_QUERY])
    with pytest.raises(ReplayMismatch) as caught:
        Tape(maker.entries, maker.store).take(0, "search", encoded("apples or pears"))
    text = str(caught.value)
    assert "step 0 calls search('apples or pears'), which is not on the tape" in text
    assert "-search('apples and pears')" in text
    assert "+search('apples or pears')" in text
    assert "stones" not in text


def test_a_long_prompt_is_compared_line_by_line() -> None:
    """For a long prompt the error shows the line that differs."""
    lines = [f"line {number}" for number in range(200)]
    maker = Maker()
    maker.add("x", calls=[maker.call("llm_query", "\n".join(lines))], tools=[LLM_QUERY])
    lines[100] = "another line"
    with pytest.raises(ReplayMismatch) as caught:
        Tape(maker.entries, maker.store).take(0, "llm_query", encoded("\n".join(lines)))
    assert "-line 100\n+another line" in str(caught.value)
    assert len(str(caught.value).splitlines()) < 20


def test_a_long_line_is_compared_piece_by_piece() -> None:
    """For a line of thousands of characters the error shows the part that differs."""
    maker = Maker()
    maker.add("x", calls=[maker.call("llm_query", "a" * 3000 + "b" + "c" * 3000)], tools=[LLM_QUERY])
    with pytest.raises(ReplayMismatch) as caught:
        Tape(maker.entries, maker.store).take(0, "llm_query", encoded("a" * 3000 + "x" + "c" * 3000))
    assert len(str(caught.value)) < 2500


def test_a_name_that_was_never_called() -> None:
    """The error lists the tools that were called."""
    maker = Maker()
    maker.add("x", calls=[maker.call("search", "a")], tools=[SEARCH])
    with pytest.raises(ReplayMismatch, match="the tape has calls of search"):
        Tape(maker.entries, maker.store).take(0, "fetch", encoded("a"))


def test_a_recording_without_calls() -> None:
    """The error says that the tape has no calls."""
    maker = Maker()
    maker.add("x")
    with pytest.raises(ReplayMismatch, match="not on the tape; the tape has no calls"):
        Tape(maker.entries, maker.store).take(0, "fetch", encoded("a"))
