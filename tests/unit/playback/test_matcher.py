"""Calls of a program matched with the steps of a recording."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.errors import ReplayMismatch
from daytona_kernel_interp.interpreter.options import CallSettings
from daytona_kernel_interp.interpreter.request import build_request
from daytona_kernel_interp.playback.matcher import RecordingMatcher
from daytona_kernel_interp.recording.model import DSPY_TOKEN
from daytona_kernel_interp.wire.comm import Parameter, ToolSpec
from tests.transcripts import LLM_QUERY, SEARCH, Maker
from tests.unit.strategies import FEW, VALUES

if TYPE_CHECKING:
    from daytona_kernel_interp.recording.model import Entry


def step(matcher: RecordingMatcher, code: str, variables: dict[str, Any], tools: Any, fields: Any) -> Entry | None:
    """Return the step that matches a request with these parts."""
    request = build_request(code, variables, CallSettings({}, fields), matcher.inputs)
    return matcher.step(replace(request, tools=tuple(tools)), variables)


SETUP = {DSPY_TOKEN: "of another process"}


def follower(maker: Maker) -> RecordingMatcher:
    return RecordingMatcher(maker.transcript(), "run.ipynb")


@FEW
@given(steps=st.lists(st.tuples(st.text(max_size=5), st.dictionaries(st.sampled_from("abc"), VALUES)), max_size=5))
def test_the_recorded_steps_are_followed(steps: list[tuple[str, dict[str, Any]]]) -> None:
    """The recorded calls match the entries in order, and none is left."""
    maker = Maker()
    entries = [maker.add(code, variables=variables) for code, variables in steps]
    following = follower(maker)
    for entry, (code, variables) in zip(entries, steps, strict=True):
        assert step(following, code, variables, (), None) is entry
    assert following.left == 0


def test_other_code_shows_a_diff() -> None:
    """The error shows the difference from the next step."""
    maker = Maker()
    maker.add("print(1)\nprint(2)")
    with pytest.raises(ReplayMismatch) as caught:
        step(follower(maker), "print(1)\nprint(3)", {}, (), None)
    text = str(caught.value)
    assert text.startswith("Step 0 of run.ipynb has other code than requested:\n--- recorded (step 0)\n+++ now\n")
    assert "-print(2)\n+print(3)" in text


def test_the_nearest_step_is_shown() -> None:
    """Code that is more similar to another step than to the next is compared with that step."""
    maker = Maker()
    for code in ("import os", "total = sum(numbers)\nprint(total)", "SUBMIT(1)"):
        maker.add(code)
    with pytest.raises(ReplayMismatch, match=r"Step 0 of run\.ipynb .*; the most similar step is 1:\n") as caught:
        step(follower(maker), "total = sum(values)\nprint(total)", {}, (), None)
    assert "-total = sum(numbers)\n+total = sum(values)" in str(caught.value)
    with pytest.raises(ReplayMismatch, match="the most similar step is 2, which has exactly this code"):
        step(follower(maker), "SUBMIT(1)", {}, (), None)


def test_a_step_too_many() -> None:
    """After the last step the error names the number of steps."""
    maker = Maker()
    maker.add("a")
    following = follower(maker)
    step(following, "a", {}, (), None)
    with pytest.raises(ReplayMismatch, match=r"run\.ipynb has 1 steps, and a further one was requested"):
        step(following, "b", {}, (), None)
    with pytest.raises(ReplayMismatch, match="has 0 steps"):
        step(follower(Maker()), "b", {}, (), None)


def test_other_values() -> None:
    """The error names a variable that differs, with the difference, and a variable that is missing."""
    maker = Maker()
    maker.add("a", variables={"text": "one\ntwo\n" * 100, "n": 1})
    with pytest.raises(ReplayMismatch) as caught:
        step(follower(maker), "a", {"text": "one\ntwo\n" * 99 + "one\nthree\n", "n": 1}, (), None)
    assert "Step 0 of run.ipynb has another value of the variable 'text':" in str(caught.value)
    assert "-two\n+three" in str(caught.value)
    with pytest.raises(ReplayMismatch, match="recorded n, text; requested text"):
        step(follower(maker), "a", {"text": ""}, (), None)


def test_a_large_value_is_encoded_once_and_still_checked() -> None:
    """An unchanged text is recognized at every step; another text of the same size is not."""
    text = "a" * 100_000
    maker = Maker()
    for _ in range(3):
        maker.add("a", variables={"text": text, "items": [1, {"b"}]})
    following = follower(maker)
    for _ in range(2):
        step(following, "a", {"text": text, "items": [1, {"b"}]}, (), None)
    with pytest.raises(ReplayMismatch, match="another value of the variable 'text'"):
        step(following, "a", {"text": "b" + text[1:], "items": [1, {"b"}]}, (), None)


def test_tools_and_fields() -> None:
    """Other tools, parameters or output fields are refused; other docstrings and signatures of DSPy's tools are not."""
    maker = Maker()
    maker.submitted("a", {"n": 1}, tools=[SEARCH, LLM_QUERY])
    fields = [{"name": "n"}]
    renamed = ToolSpec("search", "", (Parameter("words", 1), Parameter("limit", 1, "5")))
    with pytest.raises(ReplayMismatch, match=r"recorded search\(query, limit\); requested search\(words, limit\)"):
        step(follower(maker), "a", {}, [renamed, LLM_QUERY], fields)
    with pytest.raises(ReplayMismatch, match="requested no tool 'llm_query'"):
        step(follower(maker), "a", {}, [SEARCH], fields)
    with pytest.raises(ReplayMismatch, match="recorded n; requested one value"):
        step(follower(maker), "a", {}, [SEARCH, LLM_QUERY], None)
    other = [ToolSpec("llm_query", "docs", (Parameter("prompt", 3),)), ToolSpec("search", "", SEARCH.parameters)]
    assert step(follower(maker), "a", {}, other, fields) is maker.entries[0]


def test_dspys_own_first_step() -> None:
    """DSPy's setup step matches with any code, is skipped if only the recording has it, and is None otherwise."""
    maker = Maker()
    maker.add("the setup of one version", variables=SETUP)
    maker.add("a")
    both, without = follower(maker), follower(maker)
    assert both.left == 1
    assert step(both, "the setup of another", {DSPY_TOKEN: "this process's"}, (), None) is maker.entries[0]
    assert step(both, "a", {}, (), None) is maker.entries[1]
    assert step(without, "a", {}, (), None) is maker.entries[1]
    bare = Maker()
    bare.add("a")
    assert step(follower(bare), "setup", SETUP, (), None) is None
