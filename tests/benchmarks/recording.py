"""What recording a session costs."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from daytona_kernel_interp import KernelInterpreter, Recording

if TYPE_CHECKING:
    from collections.abc import Callable

_LARGE = "x" * (1 << 20)
_STEP = "print(len(text), look(number))\nnumber + 1"


@dataclass(frozen=True)
class Line:
    """A row of the table; ``limit`` is what is promised, in ``unit``."""

    what: str
    value: float
    limit: float
    unit: str
    note: str = ""


def measure(quick: bool) -> list[Line]:
    """Return what was measured."""
    folder = Path(tempfile.mkdtemp(prefix="dki-record-"))
    try:
        return [*_steps(folder, 200 if quick else 1000), *_long(folder, 2000)]
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
        verdict = "reached" if line.value <= line.limit else "**missed**"
        rows.append(f"| {line.what} | {line.value:.3g} {line.unit}{note} | ≤ {line.limit:g} {line.unit} | {verdict} |")
    return "\n".join(rows)


def _look(key: int) -> int:
    return key


def _steps(folder: Path, rounds: int) -> list[Line]:
    """Measure the same steps with and without recording, in turn: what the machine does else hits both."""
    tools = {"look": _look}
    with (
        KernelInterpreter(tools, sandbox="local") as plain,
        KernelInterpreter(tools, sandbox="local", record=folder / "steps.ipynb") as recorded,
    ):
        both = (plain, recorded)
        lines = []
        works: dict[str, Callable[[KernelInterpreter, int], object]] = {
            "an empty cell": lambda one, _: one.execute("pass"),
            "a step: 1 MiB of unchanged input, a scalar, a print, a tool call, a value": (
                lambda one, number: one.execute(_STEP, {"text": _LARGE, "number": number})
            ),
        }
        for what, work in works.items():
            times: tuple[list[float], list[float]] = ([], [])
            for number in range(rounds):
                for which in (0, 1) if number % 2 else (1, 0):
                    begin = time.perf_counter()
                    work(both[which], number)
                    times[which].append((time.perf_counter() - begin) * 1000)
            without, with_ = map(statistics.median, times)
            note = f"{with_:.2f} / {without:.2f} ms"
            lines.append(Line(f"recorded / not recorded: {what}", with_ / without, 1.05, "x", note))
        return lines


def _long(folder: Path, cells: int) -> list[Line]:
    """Measure a session of many cells: what each adds late in it, and how it loads."""
    path = folder / "long.ipynb"
    times = []
    with KernelInterpreter({"look": _look}, sandbox="local", record=path) as interpreter:
        for number in range(cells):
            begin = time.perf_counter()
            interpreter.execute(_STEP, {"text": "a text", "number": number})
            times.append((time.perf_counter() - begin) * 1000)
    window = cells // 10
    early, late = statistics.median(times[10 : 10 + window]), statistics.median(times[-window:])
    begin = time.perf_counter()
    recording = Recording.load(path)
    loading = time.perf_counter() - begin
    assert len(recording) == cells
    size = f"{path.stat().st_size / 1e6:.1f} MB"
    return [
        Line(f"cell {cells:,} / cell 10 of one session", late / early, 1.2, "x", f"{late:.2f} / {early:.2f} ms"),
        Line(f"Recording.load of {cells:,} cells", loading, 2, "s", size),
    ]
