"""What a look into a session takes, and what it costs the session."""

from __future__ import annotations

import contextlib
import math
import statistics
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from daytona_kernel_interp import KernelInterpreter

# A step as a model writes it: some work in Python, some output.
_STEP = "total = 0\nfor number in range(400_000):\n    total += number * number\nprint(total)"
_BUSY_S = 6.0
_BUSY = f"import time\n_end = time.time() + {_BUSY_S}\nwhile time.time() < _end: pass"
_HELD = "sum(range(2 * 10**8))"
# A Jupyter client that reads whatever the kernel publishes, and looks once a second.
_CLIENT = """
import sys, threading, time
from daytona_kernel_interp import live
view = live(sys.argv[1])

def look():
    while True:
        view.inspect()
        time.sleep(1)

with view._joined(lambda output: None) as guest:
    threading.Thread(target=look, daemon=True).start()
    print("joined", flush=True)
    while True:
        guest._client.get_iopub_msg()
"""


class Line(NamedTuple):
    """One row: what was measured, and the target."""

    what: str
    value: float
    limit: float
    unit: str
    beside: str = ""

    def __str__(self) -> str:
        verdict = "reached" if self.value <= self.limit else "**missed**"
        return (
            f"| {self.what} | {self.value:.1f} {self.unit}{self.beside} | <= {self.limit:g} {self.unit} | {verdict} |"
        )


def run(quick: bool) -> str:
    """Measure, and return the table."""
    rounds = 2 if quick else 8
    lines = [*_looks(30 if quick else 200), *_costs(rounds)]
    return "\n".join(["| looking in, p50 | measured | target | |", "|---|---|---|---|", *map(str, lines)])


def _looks(times: int) -> Iterator[Line]:
    from daytona_kernel_interp import KernelInterpreter

    with KernelInterpreter(sandbox="local") as interpreter:
        interpreter.execute("import json\nvalues = list(range(1000))\nnames = {str(n): n for n in values}\nx = 1")
        idle = _timed(interpreter.inspect, times)
        yield Line("inspect(), idle", _p50(idle), 10, "ms", f" (p95 {_p95(idle):.1f})")
        with _running(interpreter, _BUSY):
            busy = _timed(interpreter.inspect, times, _BUSY_S - 1.5)
        yield Line("inspect(), a loop in Python runs", _p50(busy), 40, "ms", f" (p95 {_p95(busy):.1f})")
        held = []
        with _running(interpreter, _HELD):
            held += _timed(lambda: _by_relay(interpreter), 5)
        yield Line("inspect(), native code holds the kernel", _p50(held), 250, "ms", f" (max {max(held):.0f})")
        interpreter.execute("for i in range(1000): globals()[f'v{i}'] = [i] * 10")
        many = _timed(interpreter.inspect, times // 2)
        yield Line("inspect(), 1,000 variables", _p50(many), 100, "ms", f" (p95 {_p95(many):.1f})")
        with _running(interpreter, _BUSY):
            many = _timed(interpreter.inspect, times // 2, _BUSY_S - 1.5)
        yield Line("... while a loop runs", _p50(many), math.inf, "ms", f" (p95 {_p95(many):.1f})")


def _costs(rounds: int) -> Iterator[Line]:
    from daytona_kernel_interp import KernelInterpreter

    with KernelInterpreter(sandbox="local") as interpreter:
        interpreter.execute("import time; values = list(range(1000))")
        for what, watched in (
            ("a second client that looks", _joined),
            ("view() in the host's process", _viewed),
            ("view(), 1,000 variables,", _viewed),
        ):
            if "1,000" in what:
                interpreter.execute("for i in range(1000): globals()[f'v{i}'] = [i] * 10")
            alone, beside = _Steps(interpreter), _Steps(interpreter)
            for _ in range(rounds):
                alone.take(15)
                with watched(interpreter):
                    interpreter.execute(_STEP)  # joining is not what is measured
                    beside.take(30)
                alone.take(15)
            cost, cpu = 100 * (beside.p50 / alone.p50 - 1), 100 * (beside.cpu / alone.cpu - 1)
            yield Line(f"what {what} costs a step of {alone.p50:.0f} ms", cost, 5, "%", f" (kernel's CPU: {cpu:.1f} %)")


class _Steps:
    """Steps timed in turns with others, so that the machine's own changes hit both."""

    def __init__(self, interpreter: KernelInterpreter) -> None:
        self._interpreter = interpreter
        self._taken: list[float] = []
        self._cpu: list[float] = []

    def take(self, times: int) -> None:
        before = self._interpreter.execute("time.process_time()")
        self._taken += _timed(lambda: self._interpreter.execute(_STEP), times)
        self._cpu.append((self._interpreter.execute("time.process_time()") - before) / times)

    @property
    def p50(self) -> float:
        return _p50(self._taken)

    @property
    def cpu(self) -> float:
        return statistics.mean(self._cpu)


def _by_relay(interpreter: KernelInterpreter) -> None:
    if interpreter.inspect().answered_by != "relay":
        raise AssertionError("the kernel answered: nothing holds it")


@contextlib.contextmanager
def _running(interpreter: KernelInterpreter, code: str) -> Iterator[None]:
    cell = threading.Thread(target=interpreter.execute, args=(code,))
    cell.start()
    time.sleep(0.5)
    try:
        yield
    finally:
        cell.join()


@contextlib.contextmanager
def _joined(interpreter: KernelInterpreter) -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", _CLIENT, interpreter.session_id], stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        client.stdout.readline()
        try:
            yield
        finally:
            client.kill()


@contextlib.contextmanager
def _viewed(interpreter: KernelInterpreter) -> Iterator[None]:
    view = interpreter.view()
    try:
        yield
    finally:
        view.close()
        view._thread.join()


def _timed(work: Callable[[], Any], times: int, limit_s: float = 60.0) -> list[float]:
    taken: list[float] = []
    end = time.monotonic() + limit_s
    while len(taken) < times and time.monotonic() < end:
        began = time.perf_counter()
        work()
        taken.append((time.perf_counter() - began) * 1000)
    return taken


def _p50(values: list[float]) -> float:
    return statistics.median(values)


def _p95(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.95))]
