"""Compute the timeline of a transcript, its totals and its charts. Pure functions.

Bars are placed in percent of the width, so that a wider chart is a zoomed one.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ..formatting import MAX_DURATION_S, duration
from ..recording.model import DSPY_TOKEN, Usage, total_usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from ..recording.model import Entry, RecordedCall, Transcript

Kind = Literal["model", "step", "tool", "llm", "request"]

_LABELS: dict[Kind, str] = {
    "model": "main model",
    "step": "steps",
    "tool": "tools",
    "llm": "LLM calls",
    "request": "requests",
}
_MAX_LANES = 40  # per kind; further overlapping spans share the last lane
_GROUP_PX, _GAP_PX, _TOP_PX = 110, 10, 20
_MAX_TICKS = 8


@dataclass(frozen=True)
class Span:
    """An interval in which a step, a call or a request ran.

    Attributes:
        start_s: Seconds after the session, or the cell, began.
        end_s: At least ``start_s``.
        entry: Index of the cell that it belongs to; None: between cells.
        call: Id of the call, for tool calls and sub-calls.
        lane: From 0; overlapping spans of one kind have different lanes.
        open: Whether the end is unknown.
    """

    kind: Kind
    name: str
    start_s: float
    end_s: float
    entry: int | None = None
    call: int | None = None
    lane: int = 0
    failed: bool = False
    open: bool = False


@dataclass(frozen=True)
class Totals:
    """Totals of a session. None: unknown."""

    steps: int
    failed: int
    tool_calls: int
    llm_calls: int
    elapsed_s: float
    in_cells_s: float
    tools_at_once: int
    llms_at_once: int
    usage: Usage


def seconds_between(start: datetime, end: datetime) -> float:
    """Return the seconds from ``start`` to ``end``, at least 0."""
    return max(0.0, (end - start).total_seconds())


def failed(entry: Entry) -> bool:
    """Return whether the cell raised or did not end."""
    return entry.outcome.kind in ("raised", "unfinished")


def is_setup(entry: Entry) -> bool:
    """Return whether a step is the setup that DSPy's RLM runs first, from DSPy 3.4 on (``primitives/facade.py``)."""
    return DSPY_TOKEN in entry.variables


def session_spans(transcript: Transcript) -> list[Span]:
    """Return the spans of the session: main model, steps, calls and requests."""
    return _in_lanes(_spans(transcript))


def _spans(transcript: Transcript) -> list[Span]:
    began = transcript.facts.began
    spans: list[Span] = []
    for entry in transcript.entries:
        offset_s = seconds_between(began, entry.began)
        length_s = cell_length_s(entry)
        spans.append(
            Span(
                "step",
                f"step {entry.index}",
                offset_s,
                offset_s + length_s,
                entry.index,
                failed=failed(entry),
                open=entry.elapsed_s is None,
            )
        )
        spans += [_call_span(call, entry, offset_s, offset_s + length_s) for call in entry.calls]
    return spans + _requests(transcript)


def cell_spans(transcript: Transcript) -> dict[int, list[Span]]:
    """Return the calls and requests of each cell by its index. Times are relative to the cell's beginning."""
    began = {entry.index: seconds_between(transcript.facts.began, entry.began) for entry in transcript.entries}
    found: dict[int, list[Span]] = {index: [] for index in began}
    for span in _spans(transcript):
        if span.entry in began and span.kind != "step":
            offset_s = began[span.entry]
            moved = replace(span, start_s=max(0.0, span.start_s - offset_s), end_s=max(0.0, span.end_s - offset_s))
            found[span.entry].append(moved)
    return {index: _in_lanes(spans) for index, spans in found.items()}


def cell_length_s(entry: Entry) -> float:
    """Return the duration of a cell; without an end, until the last known end of a call."""
    if entry.elapsed_s is not None:
        return sane_duration(entry.elapsed_s)
    return max((sane_duration(call.began_s) + sane_duration(call.elapsed_s) for call in entry.calls), default=0.0)


def totals(transcript: Transcript) -> Totals:
    """Return the totals of a session."""
    entries = transcript.entries
    calls = [call for entry in entries for call in entry.calls]
    # The list of requests is more complete: one call of llm_query_batched makes several.
    usage = total_usage(one.usage for one in transcript.lm_calls)
    usage = usage or total_usage([*(one.usage for one in entries), *(one.usage for one in calls)])
    spans = session_spans(transcript)
    return Totals(
        steps=len(entries),
        failed=sum(map(failed, entries)),
        tool_calls=sum(call.kind == "tool" for call in calls),
        llm_calls=sum(call.kind == "llm" for call in calls),
        elapsed_s=max((span.end_s for span in spans), default=0.0),
        in_cells_s=sum(map(cell_length_s, entries)),
        tools_at_once=max((span.lane + 1 for span in spans if span.kind == "tool"), default=0),
        llms_at_once=max((span.lane + 1 for span in spans if span.kind in ("llm", "request")), default=0),
        usage=usage or Usage(),
    )


def _call_span(call: RecordedCall, entry: Entry, offset_s: float, end_s: float) -> Span:
    start_s = offset_s + sane_duration(call.began_s)
    known = call.elapsed_s is not None
    return Span(
        call.kind,
        call.name,
        start_s,
        start_s + sane_duration(call.elapsed_s) if known else max(start_s, end_s),
        entry.index,
        call.id,
        failed=call.error is not None,
        open=not known,
    )


def _requests(transcript: Transcript) -> list[Span]:
    """Return the requests of the main model, and those of a cell if one of its calls made several."""
    began = transcript.facts.began
    llm_calls = {entry.index: sum(call.kind == "llm" for call in entry.calls) for entry in transcript.entries}
    made = Counter(one.entry for one in transcript.lm_calls)
    spans = []
    for one in transcript.lm_calls:
        if one.entry is not None and made[one.entry] <= llm_calls.get(one.entry, 0):
            continue  # each is shown as a call of the cell
        start_s = seconds_between(began, one.began)
        name = (one.usage.model if one.usage else None) or "model"
        kind: Kind = "model" if one.entry is None else "request"
        end_s = start_s + sane_duration(one.elapsed_s)
        spans.append(Span(kind, name, start_s, end_s, one.entry, failed=bool(one.error), open=one.elapsed_s is None))
    return spans


def sane_duration(seconds: float | None) -> float:
    """Return a duration that can be drawn: 0 for an unknown, negative or infinite one, at most 30 years."""
    return min(seconds, MAX_DURATION_S) if seconds is not None and math.isfinite(seconds) and seconds > 0 else 0.0


def _in_lanes(spans: Sequence[Span]) -> list[Span]:
    """Give each span the lowest lane of its kind that is free when it begins."""
    placed: list[Span] = []
    busy: dict[Kind, list[tuple[float, int]]] = {}  # end and lane of running spans
    free: dict[Kind, list[int]] = {}
    for span in sorted(spans, key=lambda one: (one.start_s, one.end_s)):
        running, idle = busy.setdefault(span.kind, []), free.setdefault(span.kind, [])
        while running and running[0][0] <= span.start_s:
            heapq.heappush(idle, heapq.heappop(running)[1])
        lane = heapq.heappop(idle) if idle else len(running)
        heapq.heappush(running, (span.end_s, lane))
        placed.append(replace(span, lane=lane))
    return placed


# --- charts ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    """The bar of one span: position in percent and pixels, link target and text."""

    span: Span
    x: str
    width: str
    y: int
    height: int
    link: str
    title: str


@dataclass(frozen=True)
class Chart:
    """Bars, labels of their groups, and the ticks of the time axis."""

    bars: list[Bar]
    groups: list[tuple[str, str, int, int]]  # kind, label, y, height
    ticks: list[tuple[str, str]]  # x, label
    height: int


def chart(spans: Sequence[Span], length_s: float, *, bar_px: int = 14) -> Chart:
    """Return the chart of ``spans``, at least ``length_s`` seconds long."""
    length_s = max(length_s, max((span.end_s for span in spans), default=0.0), 1e-6)
    lanes = Counter[str]()
    for span in spans:
        lanes[span.kind] = max(lanes[span.kind], min(span.lane + 1, _MAX_LANES))
    bars: list[Bar] = []
    groups: list[tuple[str, str, int, int]] = []
    y = _TOP_PX
    for kind, label in _LABELS.items():
        if not lanes[kind]:
            continue
        pitch = max(4, min(bar_px + 2, _GROUP_PX // lanes[kind]))
        groups.append((kind, label, y, pitch * lanes[kind]))
        bars += [_bar(span, length_s, y, pitch) for span in spans if span.kind == kind]
        y += pitch * lanes[kind] + _GAP_PX
    return Chart(bars, groups, list(_ticks(length_s)), y)


def _bar(span: Span, length_s: float, y: int, pitch: int) -> Bar:
    link = "" if span.entry is None else f"#s{span.entry}" + ("" if span.call is None else f"-{span.call}")
    state = ", failed" if span.failed else ""
    took = "not answered" if span.open else duration(span.end_s - span.start_s)
    return Bar(
        span,
        x=f"{span.start_s / length_s:.3%}",
        width=f"{(span.end_s - span.start_s) / length_s:.3%}",
        y=y + pitch * min(span.lane, _MAX_LANES - 1),
        height=pitch - (2 if pitch > 5 else 1),
        link=link,
        title=f"{span.name}: {took}, {duration(span.start_s)} after the start{state}",
    )


def _ticks(length_s: float) -> Iterator[tuple[str, str]]:
    """Yield positions and labels of round times on the axis."""
    rough = length_s / _MAX_TICKS
    if rough < 30:
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    else:
        step = next((one for one in (60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400) if one >= rough), rough)
    for number in range(_MAX_TICKS + 1):
        if number * step <= length_s * 0.94:
            label = duration(number * step).removesuffix(" 00 s") if number else "0"
            yield f"{number * step / length_s:.3%}", label
