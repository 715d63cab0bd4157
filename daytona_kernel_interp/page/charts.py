"""Draw spans as charts. Bars are placed in percent of the width, so that a wider chart is a zoomed one."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..formatting import duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .timeline import Kind, Span

_ORDER: tuple[Kind, ...] = ("model", "step", "tool", "llm", "request")
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
    for kind in _ORDER:
        if not lanes[kind]:
            continue
        pitch = max(4, min(bar_px + 2, _GROUP_PX // lanes[kind]))
        groups.append((kind, _LABELS[kind], y, pitch * lanes[kind]))
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
