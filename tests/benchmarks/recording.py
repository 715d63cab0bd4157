"""What recording a session costs."""

from __future__ import annotations

import contextlib
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daytona_kernel_interp import KernelInterpreter, Recording
from tests.access import access_of

if TYPE_CHECKING:
    from collections.abc import Callable

_LARGE = "x" * (1 << 20)
_SIGNATURE, _RLM_STEPS = "text, number: int -> answer: int", 7
_STEP = "print(len(text), look(number))\nnumber + 1"


@dataclass(frozen=True)
class Line:
    """A row of the table; ``limit`` is what is promised, in ``unit``."""

    what: str
    value: float
    limit: float | None
    unit: str
    note: str = ""


def measure(quick: bool) -> list[Line]:
    """Return what was measured."""
    folder = Path(tempfile.mkdtemp(prefix="dki-record-"))
    try:
        kernels = 2 if quick else 9
        return [*_steps(folder, kernels, 300), *_rlm_steps(folder, kernels, 12), *_long(folder, 2000)]
    finally:
        shutil.rmtree(folder)


def run(quick: bool) -> str:
    """Measure, and return the table."""
    return table(measure(quick))


def table(lines: list[Line]) -> str:
    """Return the Markdown table of what was measured."""
    rows = ["| recording | measured | promised | |", "|---|---|---|---|"]
    for line in lines:
        note = f" ({line.note})" if line.note else ""
        promised, verdict = "", ""
        if line.limit is not None:
            promised = f"≤ {line.limit:g} {line.unit}"
            verdict = "reached" if line.value <= line.limit else "**missed**"
        rows.append(f"| {line.what} | {line.value:.3g} {line.unit}{note} | {promised} | {verdict} |")
    return "\n".join(rows)


def _look(key: int) -> int:
    """Return the key."""
    return key


@dataclass(frozen=True)
class Work:
    """What is done with and without recording; no two steps have the same code, as no two of a model's have."""

    code: Callable[[int], str]
    variables: Callable[[int], dict[str, Any]] = lambda _: {}
    limit: float | None = None


_WORKS = {
    "an empty cell": Work(lambda number: f"# {number}"),
    "a step: 1 MiB of unchanged input, a scalar, a print, a tool call, a value": Work(
        lambda number: f"# {number}\n{_STEP}", lambda number: {"text": _LARGE, "number": number}, limit=1.05
    ),
}


def _steps(folder: Path, kernels: int, rounds: int) -> list[Line]:
    """Measure the same steps with and without recording, in turn: what the machine does else hits both.

    Two kernels that do the same differ by some percent for as long as they live, so it is one kernel whose recorder is
    taken away for every other step; and several such kernels. Each step is compared with the one beside it: the speed
    of a shared machine changes from second to second by more than what is measured.
    """
    times: dict[str, tuple[list[float], list[float]]] = {what: ([], []) for what in _WORKS}
    ratios: dict[str, list[float]] = {what: [] for what in _WORKS}
    for number in range(kernels):
        for what, (without, with_) in _kernel(folder / f"steps-{number}.ipynb", rounds).items():
            added = statistics.median([one - other for one, other in zip(with_, without, strict=True)])
            ratios[what].append(1 + added / statistics.median(without))
            times[what][0].extend(without)
            times[what][1].extend(with_)
    lines = []
    for what, found in ratios.items():
        without_ms, with_ms = map(statistics.median, times[what])
        spread = f"median of {kernels} kernels, {min(found):.2f} to {max(found):.2f}"
        note = f"{spread}; {with_ms:.2f} / {without_ms:.2f} ms"
        lines.append(Line(f"recorded / not recorded: {what}", statistics.median(found), _WORKS[what].limit, "x", note))
    return lines


def _kernel(path: Path, rounds: int) -> dict[str, tuple[list[float], list[float]]]:
    """Return what each work took, in ms, without and with recording."""
    times: dict[str, tuple[list[float], list[float]]] = {}
    with KernelInterpreter({"look": _look}, sandbox="local", record=path) as interpreter:
        interpreter.start()
        access = access_of(interpreter)
        recorder = access.recorder
        for what, work in _WORKS.items():
            times[what] = [], []
            for turn in range(rounds):
                for which in (0, 1) if turn % 2 else (1, 0):
                    access.recorder = recorder if which else None
                    code, variables = work.code(turn * 2 + which), work.variables(turn)
                    begin = time.perf_counter()
                    interpreter.execute(code, variables)
                    times[what][which].append((time.perf_counter() - begin) * 1000)
        access.recorder = recorder
    return times


def _rlm_steps(folder: Path, pairs: int, runs: int) -> list[Line]:
    """Measure steps of whole ``dspy.RLM`` runs with a model that answers at once, beside runs with an idle callback.

    The cost of DSPy's own callback handling is reported separately.
    """
    import dspy
    from dspy.utils.callback import BaseCallback

    ratios: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs):
        with contextlib.ExitStack() as stack:
            paths = [None, None, folder / f"rlm-{pair}.ipynb"]
            kernels = [stack.enter_context(KernelInterpreter(sandbox="local", record=path)) for path in paths]
            rlm: Any = dspy.RLM  # has the keyword from this package
            programs = [rlm(_SIGNATURE, interpreter=one, tools=[_look], max_iters=20) for one in kernels]
            callbacks: list[list[BaseCallback]] = [[], [BaseCallback()], []]
            times: list[list[float]] = [[], [], []]
            for turn in range(runs):
                for at in range(3):
                    which = (at + turn) % 3
                    with dspy.context(lm=_scripted(_RLM_STEPS), callbacks=callbacks[which]):
                        begin = time.perf_counter()
                        programs[which](text=_LARGE, number=turn)
                    times[which].append((time.perf_counter() - begin) * 1000)
            plain, idle, recorded = (statistics.median(each[1:]) for each in times)
            ratios[0].append(recorded / plain)
            ratios[1].append(recorded / idle)
    what = "a step of dspy.RLM, whose model takes no time: recorded / "
    return [
        Line(f"{what}not recorded", statistics.median(ratios[0]), None, "x"),
        Line(f"{what}not recorded, with a DSPy callback that does nothing", statistics.median(ratios[1]), None, "x"),
    ]


def _scripted(steps: int) -> Any:
    """Return a model that has ``_STEP`` run ``steps`` times, and then answers."""
    from dspy.utils import DummyLM

    looks = [{"reasoning": f"I look at it for the time {number}.", "code": _STEP} for number in range(steps)]
    return DummyLM([*looks, {"reasoning": "That is all.", "code": "SUBMIT(answer=number)"}])


def _long(folder: Path, cells: int) -> list[Line]:
    """Measure a session of many cells: what each adds late in it, and how it loads.

    Early and late, each is followed by one that is not recorded: the machine may be another one by then.
    """
    path, window = folder / "long.ipynb", cells // 10
    took: dict[str, tuple[list[float], list[float]]] = {"early": ([], []), "late": ([], [])}
    with KernelInterpreter({"look": _look}, sandbox="local", record=path) as interpreter:
        interpreter.start()
        access = access_of(interpreter)
        recorder = access.recorder
        for number in range(cells):
            when = "early" if 10 <= number < 10 + window else "late" if number >= cells - window else ""
            for which in (1, 0) if when else (1,):
                access.recorder = recorder if which else None
                begin = time.perf_counter()
                interpreter.execute(_STEP, {"text": "a text", "number": number})
                if when:
                    took[when][which].append((time.perf_counter() - begin) * 1000)
        access.recorder = recorder
    (early_without, early), (late_without, late) = (tuple(map(statistics.median, both)) for both in took.values())
    begin = time.perf_counter()
    recording = Recording.load(path)
    loading = time.perf_counter() - begin
    assert len(recording) == cells
    size = f"{path.stat().st_size / 1e6:.1f} MB"
    return [
        Line(
            f"cell {cells:,} / cell 10 of one session",
            (late / late_without) / (early / early_without),
            1.2,
            "x",
            f"{late:.2f} / {early:.2f} ms; unrecorded ones beside them {late_without:.2f} / {early_without:.2f} ms",
        ),
        Line(f"Recording.load of {cells:,} cells", loading, 2, "s", size),
    ]
