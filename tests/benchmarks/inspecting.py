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

    _Watched = Callable[[KernelInterpreter], contextlib.AbstractContextManager[None]]

# A step as a model writes it: some work in Python, some output.
_STEP = "total = 0\nfor number in range(400_000):\n    total += number * number\nprint(total)"
_BLOCK_STEPS = 60  # about two seconds, so that a view's looks come in as they do in a long run
_BUSY_S = 6.0
_BUSY = f"import time\n_end = time.time() + {_BUSY_S}\nwhile time.time() < _end: pass"
_HELD = "sum(range(2 * 10**8))"
# A Jupyter client that reads all that the kernel publishes, and inspects it once a second.
_CLIENT = """
import sys, threading, time
from jupyter_client import BlockingKernelClient
from daytona_kernel_interp import live
from daytona_kernel_interp.session.session_file import find_session
view = live(sys.argv[1])
client = BlockingKernelClient()
client.load_connection_file(find_session(sys.argv[1]).connection_file)
client.start_channels(stdin=False)
client.wait_for_ready(timeout=60)

def look():
    while True:
        view.inspect()
        time.sleep(1)

threading.Thread(target=look, daemon=True).start()
print("joined", flush=True)
while True:
    client.get_iopub_msg()
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
    lines = [*_looks(30 if quick else 200), *_costs(3 if quick else 15)]
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
            yield _cost(what, interpreter, watched, rounds)


def _cost(what: str, interpreter: KernelInterpreter, watched: _Watched, rounds: int) -> Line:
    """Return the additional time of steps with an observer, as the median of many pairs.

    Each watched block stands between two others, which it is compared with: a machine that gets slower or faster
    meanwhile changes all three. Whole blocks are compared, including the steps with an inspection.
    """
    pairs = []
    before = _block(interpreter)
    for _ in range(rounds):
        with watched(interpreter):
            interpreter.execute(_STEP)  # joining is not what is measured
            beside = _block(interpreter)
        after = _block(interpreter)
        pairs.append(_Pair(before, beside, after))
        before = after
    wall = sorted(pair.cost(lambda block: block.wall_ms) for pair in pairs)
    cpu = _p50([pair.cost(lambda block: block.cpu_ms) for pair in pairs])
    alone = _p50([pair.before.wall_ms for pair in pairs])
    return Line(
        f"what {what} costs a step of {alone:.0f} ms",
        _p50(wall),
        5,
        "%",
        f" (of {rounds} pairs half within {_at(wall, 0.25):.1f} and {_at(wall, 0.75):.1f}; kernel's CPU: {cpu:.1f} %)",
    )


class _Block(NamedTuple):
    """What steps took on the average: of the clock, and of the kernel's own processor time."""

    wall_ms: float
    cpu_ms: float


class _Pair(NamedTuple):
    """A watched block, and those before and after it."""

    before: _Block
    beside: _Block
    after: _Block

    def cost(self, of: Callable[[_Block], float]) -> float:
        """Return by how many per cent the watched one took longer."""
        return 200 * of(self.beside) / (of(self.before) + of(self.after)) - 100


def _block(interpreter: KernelInterpreter) -> _Block:
    before, began = interpreter.execute("time.process_time()"), time.perf_counter()
    for _ in range(_BLOCK_STEPS):
        interpreter.execute(_STEP)
    took = time.perf_counter() - began
    cpu = interpreter.execute("time.process_time()") - before
    return _Block(1000 * took / _BLOCK_STEPS, 1000 * cpu / _BLOCK_STEPS)


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
    return _at(sorted(values), 0.95)


def _at(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
