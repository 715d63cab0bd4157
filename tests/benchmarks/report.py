"""Samples as one table, held against the targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from .samples import Key, Sample

OURS = "KernelInterpreter"
TUNED = "our kernel, no tunnel"
STOCK = "stock ipykernel"
LOCAL = "dspy.LocalInterpreter"
BROKER = "polling broker"
BARE = "a Python that imports nothing"

SEQUENTIAL = "tool call, one after the other"
PARALLEL = "tool calls from 32 threads"
EMPTY = "empty cell"
SCALAR = "cell with a scalar value"
VARIABLE = "cell with a new 1 MiB string"
START = "start to first result"
IMPORT = "import daytona_kernel_interp"

COLUMNS = (OURS, TUNED, STOCK, LOCAL, BROKER)
ROWS = (SEQUENTIAL, PARALLEL, EMPTY, SCALAR, VARIABLE, START, IMPORT)
RATES = (PARALLEL,)

Samples: TypeAlias = Mapping[Key, Sample]


@dataclass(frozen=True)
class Target:
    """A number that a row has to reach."""

    row: str
    text: str
    value: Callable[[Samples], float]
    limit: float
    at_least: bool = False

    def reached(self, samples: Samples) -> bool:
        value = self.value(samples)
        return value >= self.limit if self.at_least else value <= self.limit


def _p50(row: str, peer: str = OURS) -> Callable[[Samples], float]:
    return lambda samples: samples[row, peer].p50


def _ratio(row: str, other: Key) -> Callable[[Samples], float]:
    return lambda samples: samples[row, OURS].p50 / samples[other].p50


TARGETS = (
    Target(SEQUENTIAL, "p50 <= 3 ms", _p50(SEQUENTIAL), 3),
    Target(SEQUENTIAL, "p95 <= 8 ms", lambda samples: samples[SEQUENTIAL, OURS].p95, 8),
    Target(SEQUENTIAL, "p50 <= 0.5 x empty cell", _ratio(SEQUENTIAL, (EMPTY, OURS)), 0.5),
    Target(PARALLEL, ">= 700 a second", _p50(PARALLEL), 700, at_least=True),
    Target(EMPTY, "p50 <= 1.8 x no tunnel", _ratio(EMPTY, (EMPTY, TUNED)), 1.8),
    Target(START, "p50 <= 800 ms", _p50(START), 800),
    Target(IMPORT, "p50 <= 60 ms", _p50(IMPORT), 60),
)


def table(samples: Samples) -> str:
    """Return the Markdown table of all rows that were measured."""
    lines = [
        "| p50 / p95 in ms (x ours) | " + " | ".join(COLUMNS) + " | target | here | |",
        "|" + "---|" * (len(COLUMNS) + 4),
    ]
    for row in ROWS:
        if (row, OURS) in samples:
            lines += _lines(row, samples)
    return "\n".join(lines)


def _lines(row: str, samples: Samples) -> list[str]:
    measured = [_label(row, samples), *(_cell(row, column, samples) for column in COLUMNS)]
    targets: list[Target | None] = [target for target in TARGETS if target.row == row]
    lines = []
    for target in targets or [None]:
        verdict = ["", "", ""]
        if target is not None:
            verdict = [
                target.text,
                _number(target.value(samples)),
                "reached" if target.reached(samples) else "**missed**",
            ]
        lines.append(f"| {' | '.join([*measured, *verdict])} |")
        measured = [""] * len(measured)
    return lines


def _label(row: str, samples: Samples) -> str:
    if row in RATES:
        return f"{row} (p50 / p5, calls a second)"
    if row == IMPORT:
        return f"{row}, whole process ({BARE}: {_number(samples[row, BARE].p50)})"
    return row


def _cell(row: str, column: str, samples: Samples) -> str:
    sample = samples.get((row, column))
    if sample is None:
        return ""
    text = f"{_number(sample.p50)} / {_number(sample.p5 if row in RATES else sample.p95)}"
    return text if column == OURS else f"{text} ({_number(sample.p50 / samples[row, OURS].p50)}x)"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def as_json(samples: Samples) -> dict[str, Any]:
    """Return everything that was measured, for a program to compare."""
    rows: dict[str, dict[str, Any]] = {}
    for (row, peer), sample in samples.items():
        numbers = {"p5": sample.p5, "p50": sample.p50, "p95": sample.p95, "count": len(sample.values)}
        rows.setdefault(row, {})[peer] = {**numbers, "values": sample.values}
    targets = [
        {
            "row": target.row,
            "target": target.text,
            "value": target.value(samples),
            "reached": target.reached(samples),
        }
        for target in TARGETS
        if (target.row, OURS) in samples
    ]
    return {"rows": rows, "targets": targets}
