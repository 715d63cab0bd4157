"""Samples, taken in turns: A B C, B C A, C A B, …"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

Key: TypeAlias = tuple[str, str]  # row, peer
Measure: TypeAlias = Callable[[], list[float]]


@dataclass
class Sample:
    """What was measured for one cell of the table."""

    values: list[float] = field(default_factory=list)

    @property
    def p50(self) -> float:
        return statistics.median(self.values)

    @property
    def p95(self) -> float:
        """The value that at most one in twenty exceeds."""
        ordered = sorted(self.values)
        return ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]

    @property
    def p5(self) -> float:
        """The value that at most one in twenty falls below: a rate's bad end."""
        ordered = sorted(self.values)
        return ordered[int(len(ordered) * 0.05)]


def take_turns(rounds: int, measures: Mapping[Key, Measure]) -> dict[Key, Sample]:
    """Run every measure once a round, each round from another starting point."""
    samples = {key: Sample() for key in measures}
    keys = list(measures)
    for number in range(rounds):
        first = number % len(keys)
        for key in keys[first:] + keys[:first]:
            with _collector_off():
                samples[key].values += measures[key]()
    return samples


@contextmanager
def _collector_off() -> Iterator[None]:
    # A collection of all that dspy has imported takes longer than what is measured.
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
