"""Values in and out, and what printing costs, beside ``dspy.LocalInterpreter`` and a stock kernel."""

from __future__ import annotations

import gc
import statistics
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import dspy
import numpy as np
import pandas as pd

from daytona_kernel_interp import KernelInterpreter

from . import peers
from .report import LOCAL, OURS

if TYPE_CHECKING:
    from collections.abc import Callable

_MB = 1 << 20
_ROWS = 1_000_000
_PRINTS = 100_000
# Runs in the kernel: the growth of its memory's peak in MB while ``work`` runs.
_GROWTH = """
def _status(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key)) / 1024

def _growth(work):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before
"""
_PRINT_A_GB = (
    "def _print_a_gb():\n    piece = 'x' * (1 << 20) + '\\n'\n    for _ in range(1024): print(piece, end='')\n"
)
_PRINT_MANY = f"""
import time
def _print_many():
    begin = time.perf_counter()
    for number in range({_PRINTS}): print("a line of text that is not very long")
    return (time.perf_counter() - begin) / {_PRINTS} * 1e6
"""


class Line(NamedTuple):
    """One row: what was measured of ours, what is shown of a peer, and the target."""

    what: str
    ours: float
    limit: float
    unit: str
    peer: str = ""

    def __str__(self) -> str:
        verdict = "reached" if self.ours <= self.limit else "**missed**"
        measured = f"{self.ours:,.1f} {self.unit} | {self.peer} | <= {self.limit:g} {self.unit}"
        return f"| {self.what} | {measured} | {verdict} |"


def run(quick: bool) -> str:
    """Measure, and return the table."""
    rounds = 2 if quick else 5
    lines = [*_inputs(rounds), *_arrays(), *_frames(rounds), *_prints()]
    head = f"| values and prints | {OURS} | peer, same run | target | |\n|---|---|---|---|---|"
    return "\n".join([head, *map(str, lines)])


def _inputs(rounds: int) -> list[Line]:
    text = "x" * (32 * _MB)
    record = {"tags": ["a", "b"], "score": 1 / 3, "text": "lorem " * 40}
    records = [{"id": number, "name": f"name {number}", **record} for number in range(100_000)]
    with KernelInterpreter(sandbox="local") as ours, ExitStack() as stack:
        theirs = dspy.LocalInterpreter()
        stack.callback(theirs.shutdown)
        empty = _median(rounds * 4, partial(ours.execute, "1;"))
        first = _median(rounds, lambda: ours.execute("1;", {"v": _new(_MB)}))
        same, same_local = (_unchanged(rounds, one, text) for one in (ours, theirs))
        equal, equal_local = (_median(rounds, partial(_send_equal, one, text)) for one in (ours, theirs))
        nested, nested_local = (_unchanged(rounds, one, records) for one in (ours, theirs))
    return [
        Line("32 MiB str, same object, over an empty cell", same - empty, 2, "ms", f"{LOCAL} {same_local:.0f} ms"),
        Line("32 MiB str, equal but new", equal, 60, "ms", f"{LOCAL} {equal_local:.0f} ms"),
        Line(f"32 MiB nested, unchanged: {nested:.0f} ms", nested / nested_local, 0.35, "x", f"{nested_local:.0f} ms"),
        Line("1 MiB str, first time", first, 15, "ms"),
    ]


def _unchanged(rounds: int, interpreter: Any, value: Any) -> float:
    interpreter.execute("1;", {"v": value})
    return _median(rounds, partial(interpreter.execute, "1;", {"v": value}))


def _send_equal(interpreter: Any, text: str) -> None:
    interpreter.execute("1;", {"v": text[:-1] + "x"})


def _arrays() -> list[Line]:
    lines = []
    for what, value in (("str", "y" * 100_000_000), ("array", np.ones(100_000_000, np.uint8))):
        with KernelInterpreter(sandbox="local") as interpreter:
            interpreter.execute("import numpy")
            elapsed, growth = _with_growth(partial(interpreter.execute, "1;", {"v": value}))
        lines += [Line(f"100 MB {what}, first time", elapsed, 1200, "ms"), Line("... host memory", growth, 200, "MB")]
    return lines


def _frames(rounds: int) -> list[Line]:
    lines = []
    for what, dtype, limit in (("texts of pyarrow", "string[pyarrow]", 1000), ("texts of Python", "object", 3000)):
        frame = _frame(dtype)
        with KernelInterpreter(sandbox="local", output_fields=[{"name": "frame"}]) as interpreter:
            interpreter.execute("import pandas")
            inward = _median(rounds, partial(_send_anew, interpreter, frame))
            outward = _median(rounds, partial(interpreter.execute, "SUBMIT(frame)"))
            pd.testing.assert_frame_equal(interpreter.get("frame"), frame)
        lines.append(Line(f"frame of {_ROWS:,} rows, {what}, in", inward, limit, "ms"))
        lines.append(Line("... out through SUBMIT", outward, limit, "ms"))
    return lines


def _send_anew(interpreter: KernelInterpreter, frame: Any) -> None:
    interpreter._inputs.kernel_has(())  # as if it were the first time
    interpreter.execute("1;", {"frame": frame})


def _frame(dtype: str) -> Any:
    random = np.random.default_rng(0)
    texts = [f"text {number}" for number in range(_ROWS)]
    return pd.DataFrame(
        {
            **{f"int{n}": random.integers(0, 1000, _ROWS) for n in range(4)},
            **{f"float{n}": random.random(_ROWS) for n in range(3)},
            **{f"text{n}": pd.Series(texts, dtype=dtype) for n in range(2)},
            "time": pd.date_range("2020", periods=_ROWS, freq="s", tz="Europe/Berlin"),
        }
    )


def _prints() -> list[Line]:
    with KernelInterpreter(sandbox="local") as interpreter:
        interpreter.execute(_GROWTH + _PRINT_A_GB + _PRINT_MANY)
        _, growth = _with_growth(partial(interpreter.execute, "_kernel = _growth(_print_a_gb)"))
        kernel = interpreter.get("_kernel")
        interpreter.execute("_each = _print_many()")
        each = interpreter.get("_each")
    stock = peers.StockKernel()
    stock.start()
    try:
        stock.time_cells([_PRINT_MANY])
        theirs = statistics.median(stock.time_cells(["_print_many();"] * 2)) / _PRINTS * 1000
    finally:
        stock.stop()
    return [
        Line("1 GB printed in pieces of 1 MiB: host memory", growth, 20, "MB"),
        Line("... kernel memory", kernel, 20, "MB"),
        Line(
            f"{_PRINTS:,} prints, most past the cap, each ({each:.1f} us)",
            each / theirs,
            1,
            "x",
            f"stock ipykernel {theirs:.1f} us",
        ),
    ]


def _new(size: int) -> str:
    return f"{time.perf_counter_ns():020d}".ljust(size, "z")


def _median(rounds: int, work: Callable[[], object]) -> float:
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        work()
        times.append((time.perf_counter() - begin) * 1000)
    return statistics.median(times)


def _with_growth(work: Callable[[], object]) -> tuple[float, float]:
    """Return the milliseconds that it takes, and by how many MB this process's memory grows at most."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) * 1000, _status("VmHWM") - before


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024
