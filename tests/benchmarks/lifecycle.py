"""One life of an interpreter, as tables of DSPy interpreters have it: from its construction to its shutdown.

Each life is one sample of every column but the warm ones, which it takes several times. Lives of the peers take turns.
"""

from __future__ import annotations

import gc
import shutil
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dspy
from dspy.primitives.code_interpreter import CodeInterpreterError
from dspy.primitives.python_interpreter import PythonInterpreter

from daytona_kernel_interp import KernelInterpreter

from . import cells, report
from .polling import PollingInterpreter
from .samples import Sample

if TYPE_CHECKING:
    from collections.abc import Callable

    from .report import Samples
    from .samples import Key

CONSTRUCT = "construct"
BEGIN = "start"
FIRST = "first execute"
INTERACTIVE = "time to interactive"
WARM = "warm scalar"
TOOL = "host-tool round trip"
MEGABYTE = "1 MiB variable"
SHUTDOWN = "shutdown"
COLUMNS = (CONSTRUCT, BEGIN, FIRST, INTERACTIVE, WARM, TOOL, MEGABYTE, SHUTDOWN)

POLLING = "straightforward: stock kernel, polled"
DENO = "dspy.PythonInterpreter"

TARGETS = (
    report.Target(INTERACTIVE, "p50 <= 800 ms", lambda samples: samples[INTERACTIVE, report.OURS].p50, 800),
    report.Target(
        WARM,
        "p50 <= 0.8 x straightforward",
        lambda samples: samples[WARM, report.OURS].p50 / samples[WARM, POLLING].p50,
        0.8,
    ),
    report.Target(SHUTDOWN, "p50 <= 150 ms", lambda samples: samples[SHUTDOWN, report.OURS].p50, 150),
)


@dataclass(frozen=True)
class Plan:
    """How many lives, and how often each does what is warm."""

    lives: int = 9
    warm: int = 20


QUICK = Plan(lives=2, warm=10)


def measure(plan: Plan) -> dict[Key, Sample]:
    """Measure every interpreter that this machine can run."""
    peers = _peers()
    for name, make in list(peers.items()):
        try:
            _live(make, 1)  # imports, caches of the file system, byte code
        except CodeInterpreterError as error:  # Deno without the network that it loads Pyodide from
            if name != DENO:
                raise
            print(f"{name} is left out: {error}", file=sys.stderr)
            del peers[name]
    samples: dict[Key, Sample] = {(column, name): Sample() for column in COLUMNS for name in peers}
    names = list(peers)
    for number in range(plan.lives):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            for column, times in _live(peers[name], plan.warm).items():
                samples[column, name].values += times
    return samples


def table(samples: Samples) -> str:
    """Return one line for each interpreter, and one for each target."""
    lines = [f"| p50 / p95 in ms | {' | '.join(COLUMNS)} |", "|" + "---|" * (len(COLUMNS) + 1)]
    for name in dict.fromkeys(peer for _, peer in samples):
        numbers = (samples[column, name] for column in COLUMNS)
        lines.append(f"| {name} | {' | '.join(f'{_ms(sample.p50)} / {_ms(sample.p95)}' for sample in numbers)} |")
    for target in TARGETS:
        verdict = "reached" if target.reached(samples) else "**missed**"
        lines.append(f"\n{target.row}: {target.text}: {_ms(target.value(samples))}, {verdict}")
    return "\n".join(lines)


def _peers() -> dict[str, Callable[[], Any]]:
    tools = {"add": cells.add}
    peers: dict[str, Callable[[], Any]] = {
        report.OURS: lambda: KernelInterpreter(tools, sandbox="local"),
        POLLING: lambda: PollingInterpreter(tools),
    }
    if hasattr(dspy, "LocalInterpreter"):
        peers[report.LOCAL] = lambda: dspy.LocalInterpreter(tools)
    if shutil.which("deno"):
        peers[DENO] = lambda: PythonInterpreter(tools=tools)  # type: ignore[arg-type]
    return peers


def _live(make: Callable[[], Any], warm: int) -> dict[str, list[float]]:
    gc.collect()
    times: dict[str, list[float]] = {column: [] for column in COLUMNS}

    def take(column: str, work: Callable[..., Any], *arguments: Any) -> Any:
        begin = time.perf_counter()
        result = work(*arguments)
        times[column].append((time.perf_counter() - begin) * 1000)
        return result

    interpreter = take(CONSTRUCT, make)
    try:
        take(BEGIN, interpreter.start)
        take(FIRST, interpreter.execute, cells.SCALAR)
        times[INTERACTIVE].append(sum(times[column][0] for column in (CONSTRUCT, BEGIN, FIRST)))
        for number in range(warm):
            assert str(take(WARM, interpreter.execute, f"{number} + 1")) == str(number + 1)
            assert str(take(TOOL, interpreter.execute, f"add({number})")) == str(number + 1)
        for number in range(3):
            take(MEGABYTE, interpreter.execute, "len(data)", {"data": f"{number:016x}" * 65536})
    finally:
        take(SHUTDOWN, interpreter.shutdown)
    return times


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
