"""``diff``: compare two recorded runs step by step, and find where they diverge."""

from __future__ import annotations

import difflib
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..formatting import shorten, table
from ..recording.notebook_reader import open_run
from .compare import EXACT, Comparison, Difference, Tolerance
from .tape import diff_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..recording.model import Entry, Transcript
    from ..recording.notebook_reader import RecordingSource

_SIMILARITY = 0.5  # ratio from which on code counts as another version of the same step


@dataclass(frozen=True)
class StepDiff:
    """A step of one run paired with a step of the other.

    Attributes:
        a: Number of the step in the first run; None if the first run has no such step.
        b: Number of the step in the second run, or None.
        differences: The differences between the two steps; empty if they are equal.
        code: The code of the step.
    """

    a: int | None
    b: int | None
    differences: list[Difference]
    code: str

    @property
    def kind(self) -> Literal["same", "differs", "only a", "only b"]:
        """The result of the comparison."""
        if self.a is None or self.b is None:
            return "only b" if self.a is None else "only a"
        return "differs" if self.differences else "same"


@dataclass(frozen=True, repr=False)  # the generated repr would contain whole cells
class RunDiff:
    """The differences between two runs. ``str()`` gives a text; a notebook shows a table.

    Attributes:
        name_a: Name of the first run.
        name_b: Name of the second run.
        steps: All steps of both runs, paired.
    """

    name_a: str
    name_b: str
    steps: list[StepDiff]

    @property
    def same(self) -> bool:
        """Whether the runs are equal."""
        return all(step.kind == "same" for step in self.steps)

    @property
    def parts_at(self) -> StepDiff | None:
        """The first step that differs, None if there is none."""
        return next((step for step in self.steps if step.kind != "same"), None)

    def table(self) -> str:
        """Return a table of all steps: numbers, kinds of difference, and the first line of the code."""
        rows = [("A", "B", "", "CODE"), *(_row(step) for step in self.steps)]
        return "\n".join(table(rows))

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        first = self.parts_at
        if first is None:
            return f"{self.name_a} and {self.name_b} are the same: {len(self.steps)} steps."
        numbers = " and ".join(str(number) for number in (first.a, first.b) if number is not None)
        lines = [f"{self.name_a} and {self.name_b} diverge at step {numbers}.", "", self.table()]
        for step in self.steps:
            lines += _details(step)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from html import escape

        cells = [_row(step) for step in self.steps]
        rows = "".join(f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>" for row in cells)
        heads = "".join(f"<th>{escape(text)}</th>" for text in (self.name_a, self.name_b, "", "code"))
        return f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def diff(run_a: RecordingSource, run_b: RecordingSource, *, tolerance: Tolerance | bool | None = None) -> RunDiff:
    """Compare two recorded runs step by step: code, variables, calls, outputs and outcomes.

    Steps are paired by their code, so a step that only one run has does not shift the steps after it.

    Args:
        run_a: The path of a notebook, a :class:`Recording`, or the report or transcript of a replay.
        run_b: The second run.
        tolerance: Differences that do not count. None or False: all count; True: the defaults of :class:`Tolerance`.

    Raises:
        RecordingError: If a recording cannot be read.
    """
    (first, name_a), (second, name_b) = open_run(run_a), open_run(run_b)
    if name_a == name_b:
        name_a, name_b = f"{name_a} (A)", f"{name_b} (B)"
    if tolerance is None or isinstance(tolerance, bool):
        tolerance = Tolerance() if tolerance else EXACT
    comparison = Comparison(first.store, second.store, tolerance)
    return RunDiff(name_a, name_b, [_compared(comparison, *pair) for pair in _pairs(first, second)])


def _compared(comparison: Comparison, one: Entry | None, other: Entry | None) -> StepDiff:
    found = list(comparison.differences(one, other)) if one is not None and other is not None else []
    shown = one or other
    a, b = (None if entry is None else entry.index for entry in (one, other))
    return StepDiff(a, b, found, shown.code if shown is not None else "")


def _pairs(first: Transcript, second: Transcript) -> Iterator[tuple[Entry | None, Entry | None]]:
    matcher = difflib.SequenceMatcher(
        None, [entry.code for entry in first.entries], [entry.code for entry in second.entries], autojunk=False
    )
    for _, a, a_end, b, b_end in matcher.get_opcodes():
        left, right = list(first.entries[a:a_end]), list(second.entries[b:b_end])
        while left and right:  # equal steps are paired in order, others while they are similar
            if len(left) == len(right) or _similar(left[0], right[0]):
                yield left.pop(0), right.pop(0)
            elif len(left) > len(right):
                yield left.pop(0), None
            else:
                yield None, right.pop(0)
        yield from itertools.zip_longest(left, right)


def _similar(one: Entry, other: Entry) -> bool:
    return difflib.SequenceMatcher(None, one.code[:2000], other.code[:2000], autojunk=False).ratio() >= _SIMILARITY


def _row(step: StepDiff) -> tuple[str, str, str, str]:
    what = ", ".join(dict.fromkeys(difference.what for difference in step.differences))
    marks = {"same": "", "differs": what, "only a": "only A", "only b": "only B"}
    line = next((line for line in step.code.splitlines() if line.strip()), "")
    numbers = ["" if number is None else str(number) for number in (step.a, step.b)]
    return numbers[0], numbers[1], marks[step.kind], shorten(line, 80)


def _details(step: StepDiff) -> Iterator[str]:
    if not step.differences:
        return
    yield f"\nstep {step.a} of A, step {step.b} of B"
    for difference in step.differences:
        text = diff_text(difference.expected, difference.came, "A", "B").replace("recorded (A)", "A", 1)
        yield from (f"  {difference.what}:", *(f"    {line}" for line in text.splitlines()))
