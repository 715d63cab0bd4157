"""What ran when, and what it took: a transcript as lanes of intervals and as sums. Pure functions."""

from __future__ import annotations

import contextlib
import heapq
import math
from dataclasses import dataclass, replace
from datetime import timezone
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from ..recording.model import Entry, RecordedCall, Transcript, Usage

Kind = Literal["model", "step", "tool", "llm", "request"]


@dataclass(frozen=True)
class Span:
    """Something that took time.

    Attributes:
        start_s: Seconds after the session, or the cell, began.
        end_s: Never before ``start_s``.
        lane: From 0; spans of one kind that overlap lie in different lanes.
        entry: The index of the cell it belongs to; None: between cells.
        call: The call's id, for tools and language models that the cell called.
        open: Whether its end is not known.
    """

    kind: Kind
    name: str
    start_s: float
    end_s: float
    lane: int
    entry: int | None = None
    call: int | None = None
    failed: bool = False
    open: bool = False


@dataclass(frozen=True)
class Totals:
    """Sums of a session. None: not told."""

    steps: int
    failed: int
    tool_calls: int
    llm_calls: int
    elapsed_s: float
    in_cells_s: float
    tools_at_once: int
    llms_at_once: int
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None


def seconds_between(start: datetime, end: datetime) -> float:
    """Return the seconds from ``start`` to ``end``, 0 if it is before; times without a zone are UTC."""
    return max(0.0, (in_utc(end) - in_utc(start)).total_seconds())


def in_utc(at: datetime) -> datetime:
    """Return a time in UTC; one without a zone, or at the end of all times, is taken for that already."""
    with contextlib.suppress(OverflowError):
        return at.astimezone(timezone.utc) if at.tzinfo else at.replace(tzinfo=timezone.utc)
    return at.replace(tzinfo=timezone.utc)


def failed(entry: Entry) -> bool:
    """Whether the cell's caller got an error, or the cell came to no end of its own."""
    return entry.outcome.kind in ("raised", "unfinished")


def is_setup(entry: Entry) -> bool:
    """Whether it is what DSPy's RLM runs before the model's first step, from DSPy 3.4 on (``primitives/facade.py``)."""
    return "__dspy_host_token" in entry.variables


def session_spans(transcript: Transcript) -> list[Span]:
    """Return what ran in the whole session: the main model, the cells, their calls and the models' requests."""
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
                0,
                entry.index,
                failed=failed(entry),
                open=entry.elapsed_s is None,
            )
        )
        spans += [_call_span(call, entry, offset_s, offset_s + length_s) for call in entry.calls]
    return spans + _requests(transcript)


def cell_spans(transcript: Transcript) -> dict[int, list[Span]]:
    """Return what each cell called and asked, by its index; times are from the cell's beginning."""
    began = {entry.index: seconds_between(transcript.facts.began, entry.began) for entry in transcript.entries}
    found: dict[int, list[Span]] = {index: [] for index in began}
    for span in _spans(transcript):
        if span.entry in began and span.kind != "step":
            offset_s = began[span.entry]
            moved = replace(span, start_s=max(0.0, span.start_s - offset_s), end_s=max(0.0, span.end_s - offset_s))
            found[span.entry].append(moved)
    return {index: _in_lanes(spans) for index, spans in found.items()}


def cell_length_s(entry: Entry) -> float:
    """Return how long a cell took; for one without an end, until the last thing that is known of it."""
    if entry.elapsed_s is not None:
        return sane_duration(entry.elapsed_s)
    return max((sane_duration(call.began_s) + sane_duration(call.elapsed_s) for call in entry.calls), default=0.0)


def totals(transcript: Transcript) -> Totals:
    """Add up a session."""
    entries = transcript.entries
    calls = [call for entry in entries for call in entry.calls]
    # The list of requests is the more complete: one call of llm_query_batched makes many.
    usages = [one.usage for one in transcript.lm_calls if one.usage is not None]
    usages = usages or [usage for usage in _usages(entries) if usage is not None]
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
        prompt_tokens=_sum(usages, "prompt_tokens"),
        completion_tokens=_sum(usages, "completion_tokens"),
        cost_usd=_sum(usages, "cost_usd"),
    )


def _usages(entries: Iterable[Entry]) -> Iterator[Usage | None]:
    for entry in entries:
        yield entry.usage
        yield from (call.usage for call in entry.calls)


def _sum(usages: Iterable[Usage], name: str) -> int | None:
    known = [value for usage in usages if (value := getattr(usage, name)) is not None and math.isfinite(value)]
    return sum(known) if known else None


def _call_span(call: RecordedCall, entry: Entry, offset_s: float, end_s: float) -> Span:
    start_s = offset_s + sane_duration(call.began_s)
    known = call.elapsed_s is not None
    return Span(
        call.kind,
        call.name,
        start_s,
        start_s + sane_duration(call.elapsed_s) if known else max(start_s, end_s),
        0,
        entry.index,
        call.id,
        failed=call.error is not None,
        open=not known,
    )


def _requests(transcript: Transcript) -> list[Span]:
    """The models' requests: the main model's, and a cell's where one call of it made several."""
    began = transcript.facts.began
    llm_calls = {entry.index: sum(call.kind == "llm" for call in entry.calls) for entry in transcript.entries}
    made: dict[int, int] = {}
    for one in transcript.lm_calls:
        if one.entry is not None:
            made[one.entry] = made.get(one.entry, 0) + 1
    spans = []
    for one in transcript.lm_calls:
        if one.entry is not None and made[one.entry] <= llm_calls.get(one.entry, 0):
            continue  # each is a call of the cell, and shown as that
        start_s = seconds_between(began, one.began)
        name = (one.usage.model if one.usage else None) or "model"
        kind: Kind = "model" if one.entry is None else "request"
        end_s = start_s + sane_duration(one.elapsed_s)
        broken = bool(one.error)
        spans.append(Span(kind, name, start_s, end_s, 0, one.entry, None, broken, one.elapsed_s is None))
    return spans


def sane_duration(seconds: float | None) -> float:
    """Return a duration that can be drawn, whatever a file says."""
    return seconds if seconds is not None and math.isfinite(seconds) and seconds > 0 else 0.0


def _in_lanes(spans: Sequence[Span]) -> list[Span]:
    """Give each span the lowest lane of its kind that is free when it begins."""
    placed: list[Span] = []
    busy: dict[Kind, list[tuple[float, int]]] = {}  # until when, which lane
    free: dict[Kind, list[int]] = {}
    for span in sorted(spans, key=lambda one: (one.start_s, one.end_s)):
        running, idle = busy.setdefault(span.kind, []), free.setdefault(span.kind, [])
        while running and running[0][0] <= span.start_s:
            heapq.heappush(idle, heapq.heappop(running)[1])
        lane = heapq.heappop(idle) if idle else len(running)
        heapq.heappush(running, (span.end_s, lane))
        placed.append(replace(span, lane=lane))
    return placed
