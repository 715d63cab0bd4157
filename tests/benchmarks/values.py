"""Values in and out, and what printing costs, beside ``dspy.LocalInterpreter``, a straight send and a stock kernel."""

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

from daytona_kernel_interp import KernelInterpreter

from . import frames, peers
from .frames import median as _median
from .report import LOCAL, OURS
from .straight import Straight

if TYPE_CHECKING:
    from collections.abc import Callable

_MB = 1 << 20
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
    """One row: the measured value, the value of a comparable library, and the target."""

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
    with Straight() as straight:
        lines = [*_inputs(rounds, straight), *_arrays(rounds, straight), *_frames(rounds, straight)]
    lines += [*_prints(), *_watched(10 * rounds)]
    head = f"| values and prints | {OURS} | peers, same run | target | |\n|---|---|---|---|---|"
    return "\n".join([head, *map(str, lines)])


def _inputs(rounds: int, straight: Straight) -> list[Line]:
    text = "x" * (32 * _MB)
    record = {"tags": ["a", "b"], "score": 1 / 3, "text": "lorem " * 40}
    records = [{"id": number, "name": f"name {number}", **record} for number in range(100_000)]
    with KernelInterpreter(sandbox="local") as ours, ExitStack() as stack:
        theirs = dspy.LocalInterpreter()
        stack.callback(theirs.shutdown)
        empty = _median(rounds * 4, partial(ours.execute, "1;"))
        first, first_local = (_median(rounds, partial(_send_new, one)) for one in (ours, theirs))
        same, same_local = _unchanged(rounds, ours, theirs, text)
        equal, equal_local = (_median(rounds, partial(_send_equal, one, text)) for one in (ours, theirs))
        nested, nested_local = _unchanged(rounds, ours, theirs, records)
    sends = {size: straight.milliseconds(_new(size), rounds) for size in (_MB, 32 * _MB)}
    large = straight.milliseconds(records, rounds)
    return [
        Line("32 MiB str, same object, over an empty cell", same - empty, 2, "ms", _peers(same_local, sends[32 * _MB])),
        Line("32 MiB str, equal but new", equal, 60, "ms", _peers(equal_local, sends[32 * _MB])),
        Line(
            f"32 MiB nested, unchanged: {nested:.0f} ms", nested / nested_local, 0.35, "x", _peers(nested_local, large)
        ),
        Line("1 MiB str, first time", first, 15, "ms", _peers(first_local, sends[_MB])),
    ]


def _peers(local_ms: float | None, straight_ms: float) -> str:
    ours = [] if local_ms is None else [f"{LOCAL} {local_ms:.0f} ms"]
    return ", ".join([*ours, f"straight send {straight_ms:.1f} ms"])


def _send_new(interpreter: Any) -> None:
    interpreter.execute("1;", {"v": _new(_MB)})


def _unchanged(rounds: int, ours: Any, theirs: Any, value: Any) -> tuple[float, float]:
    """Return what each takes for a value that it was sent before; measured in turns, for the ratio's sake."""
    times: list[list[float]] = [[], []]
    for number in range(rounds + 1):
        for one, taken in zip((ours, theirs), times, strict=True):
            milliseconds = _median(1, partial(one.execute, "1;", {"v": value}))
            taken += [milliseconds] if number else []
    return statistics.median(times[0]), statistics.median(times[1])


def _send_equal(interpreter: Any, text: str) -> None:
    interpreter.execute("1;", {"v": text[:-1] + "x"})


def _arrays(rounds: int, straight: Straight) -> list[Line]:
    lines = []
    for what, value in (("str", "y" * 100_000_000), ("array", np.ones(100_000_000, np.uint8))):
        with KernelInterpreter(sandbox="local") as interpreter:
            interpreter.execute("import numpy")
            elapsed, growth = _with_growth(partial(interpreter.execute, "1;", {"v": value}))
        peer = _peers(None, straight.milliseconds(value, rounds))
        lines.append(Line(f"100 MB {what}, first time", elapsed, 1200, "ms", peer))
        lines.append(Line("... host memory", growth, 200, "MB"))
    return lines


def _frames(rounds: int, straight: Straight) -> list[Line]:
    lines = []
    for what, frame in (
        ("pandas", frames.pandas_frame("str")),
        ("pandas, texts as objects", frames.pandas_frame("object")),
        ("polars", frames.polars_frame()),
    ):
        peer = _peers(None, straight.milliseconds(frame, rounds))
        lines += _frame_lines(what, frames.measure(frame, rounds, arrow=True), 1000, peer)
    return lines + _frame_lines("pandas, neither side with pyarrow", frames.without_arrow(rounds), 3000, "")


def _frame_lines(what: str, times: frames.Times, limit: float, peer: str) -> list[Line]:
    rows = f"frame of {frames.ROWS:,} rows, {what}"
    return [
        Line(f"{rows}, in", times.inward, limit, "ms", peer),
        Line("... out through SUBMIT", times.outward, limit, "ms", peer),
    ]


def _watched(count: int) -> list[Line]:
    """How long after a print ``on_output`` is called: both processes read the machine's one monotonic clock."""
    delays: list[float] = []

    def watch(output: Any) -> None:
        now = time.monotonic()
        delays.extend((now - float(line)) * 1000 for line in output.text.split())

    with KernelInterpreter(sandbox="local", on_output=watch) as interpreter:
        interpreter.execute(f"import time\nfor _ in range({count}): print(time.monotonic()); time.sleep(0.05)")
    assert len(delays) == count
    delays.sort()
    return [
        Line("on_output after the print, p50", delays[count // 2], 50, "ms"),
        Line("... p95", delays[int(count * 0.95)], 50, "ms"),
    ]


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
