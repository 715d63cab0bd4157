"""The spans of a session, their lanes and totals, and charts of them."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daytona_kernel_interp.page import timeline
from daytona_kernel_interp.recording.model import Entry, LMCall, Outcome, Usage
from tests.sessions import BEGAN, MODEL, MemoryStore, call, small

TIMES = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True))


def _entry(calls: list[Any], elapsed_s: float | None = 10.0) -> Entry:
    return Entry(0, "m", "1", BEGAN, Outcome("returned", "ok"), calls=calls, elapsed_s=elapsed_s)


def _cell_spans(entry: Entry) -> list[timeline.Span]:
    return timeline.cell_spans(replace(small(), entries=[entry], lm_calls=()))[0]


@given(times=st.lists(st.tuples(TIMES, TIMES), max_size=30), elapsed_s=TIMES)
@example(times=[(9e307, 9e307)], elapsed_s=None)
def test_lanes_hold_what_does_not_overlap(times: list[tuple[float | None, float | None]], elapsed_s: Any) -> None:
    """For any times in a file, each call has a bar inside the chart, and bars of a lane do not overlap."""
    store = MemoryStore()
    calls = [call(store, n, "f", began_s or 0.0, took) for n, (began_s, took) in enumerate(times)]
    spans = _cell_spans(_entry(calls, elapsed_s))
    assert sorted(span.call or 0 for span in spans) == list(range(len(calls)))
    for lane in {span.lane for span in spans}:
        ours = sorted((span for span in spans if span.lane == lane), key=lambda span: (span.start_s, span.end_s))
        assert all(one.end_s <= other.start_s for one, other in itertools.pairwise(ours))
    drawn = timeline.chart(spans, 0.0)
    assert len(drawn.bars) == len(calls)
    assert all(0 <= float(bar.x[:-1]) + float(bar.width[:-1]) <= 100.01 for bar in drawn.bars)
    assert all(bar.y + bar.height <= drawn.height for bar in drawn.bars)


def test_calls_at_once_lie_beside_each_other() -> None:
    """Three searches at the same time have three lanes; the sub-call after them has the first of its kind."""
    spans = timeline.cell_spans(small())[1]
    assert [(span.kind, span.lane) for span in spans] == [("tool", 0), ("tool", 1), ("tool", 2), ("llm", 0)]
    assert [span.failed for span in spans] == [False, False, True, False]
    assert [span.start_s for span in timeline.session_spans(small()) if span.kind == "llm"] == pytest.approx(
        [11.5, 31.01]
    )


def test_what_never_ended_is_open() -> None:
    """A call without an answer lasts until its cell ends; a cell without an end, until the last known time."""
    store = MemoryStore()
    waiting = call(store, 1, "f", 2.0, None)
    (span,) = _cell_spans(_entry([waiting]))
    assert (span.open, span.start_s, span.end_s) == (True, 2.0, 10.0)
    assert timeline.cell_length_s(_entry([waiting, call(store, 2, "g", 1.0, 4.0)], None)) == 5.0


def test_requests_of_one_call_are_shown() -> None:
    """The requests of one llm_query_batched have their own lanes; a plain llm_query is not shown twice."""
    store = MemoryStore()
    entry = _entry([call(store, 1, "llm_query_batched", 0.0, 3.0, kind="llm")])
    requests = [LMCall(f"r{n}", 0, BEGAN, 2.0, store.put({}), store.put([]), Usage(MODEL, 1, 2, 0.5)) for n in range(3)]
    session = replace(small(), entries=[entry], lm_calls=requests)
    assert [span.lane for span in timeline.session_spans(session) if span.kind == "request"] == [0, 1, 2]
    assert [span.kind for span in timeline.cell_spans(session)[0]].count("request") == 3
    alone = replace(session, lm_calls=requests[:1])
    assert sorted(span.kind for span in timeline.session_spans(alone)) == ["llm", "step"]
    assert timeline.totals(session).llms_at_once == 3


def test_sums_count_each_once() -> None:
    """Tokens and cost come from the requests if these are known, else from steps and calls, else are unknown."""
    session = small()
    sums = timeline.totals(session)
    assert (sums.steps, sums.failed, sums.tool_calls, sums.llm_calls, sums.tools_at_once) == (5, 1, 3, 2, 3)
    assert (sums.usage.prompt_tokens, sums.usage.completion_tokens) == (5 * 3200, 5 * 240)
    assert sums.usage.cost_usd == pytest.approx(0.008)
    without = replace(session, lm_calls=())
    assert timeline.totals(without).usage.prompt_tokens == 5 * 3200 + 410
    bare = replace(without, entries=[replace(one, usage=None, calls=()) for one in session.entries])
    assert timeline.totals(bare).usage.cost_usd is None


def test_a_time_before_the_beginning() -> None:
    """A time before the beginning counts as the beginning."""
    assert timeline.seconds_between(BEGAN, BEGAN + timedelta(seconds=2)) == 2
    assert timeline.seconds_between(BEGAN, BEGAN - timedelta(days=1)) == 0


@given(st.floats(min_value=1e-6, max_value=1e9))
def test_ticks_are_few_and_inside(length_s: float) -> None:
    """For any length, the axis has at most nine ticks, the first at its beginning."""
    ticks = timeline.chart([], length_s).ticks
    assert 1 <= len(ticks) <= 9
    assert ticks[0] == ("0.000%", "0")
    assert all(float(x[:-1]) <= 100 and math.isfinite(float(x[:-1])) for x, _ in ticks)
