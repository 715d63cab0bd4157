"""What is measured, of whom, and how often."""

from __future__ import annotations

import functools
import itertools
import json
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import psutil

from . import cells, peers
from .broker import BrokerPeer
from .report import BARE, EMPTY, IMPORT, LOCAL, OURS, PARALLEL, SCALAR, SEQUENTIAL, START, STOCK, TUNED, VARIABLE
from .samples import Key, Measure, Sample, take_turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PACKAGE = "daytona_kernel_interp"
_UNWANTED = ("dspy", "daytona")  # what an import of the package may not bring along


@dataclass(frozen=True)
class Plan:
    """How many rounds there are, and how much each holds."""

    rounds: int = 10
    starts: int = 9
    imports: int = 15
    cells: int = 20
    variables: int = 3
    calls: int = 50  # one after the other, in one cell
    parallel_calls: int = 1600
    broker_calls: int = 10
    broker_parallel_calls: int = 320


QUICK = Plan(rounds=2, starts=2, imports=3, cells=15, calls=50, parallel_calls=400, broker_calls=5)


class _ToolCaller(Protocol):
    def evaluate(self, expression: str) -> Any: ...


def measure_cells(plan: Plan) -> dict[Key, Sample]:
    """Measure what a started interpreter does: cells, variables and tool calls."""
    ours, theirs, broker = peers.kernel_interpreter(), peers.local_interpreter(), BrokerPeer()
    direct: list[peers.Peer] = [peers.TunedKernel(), peers.StockKernel()]
    measures: dict[Key, Measure] = {}
    with ExitStack() as stack:
        stack.callback(broker.stop)
        broker.start()
        for peer in (ours, *direct, theirs):
            stack.callback(peer.stop)
            peer.start()
        for caller in (ours, theirs):
            caller.evaluate(cells.DEFINITIONS)
            measures |= _tool_calls(caller.name, caller, plan.calls, plan.parallel_calls)
        measures |= _tool_calls(broker.name, broker, plan.broker_calls, plan.broker_parallel_calls)
        for peer in (ours, *direct, theirs):
            measures |= _cells(peer, plan)
        for measure in measures.values():  # warm-up
            measure()
        return take_turns(plan.rounds, measures)


def _tool_calls(name: str, caller: _ToolCaller, calls: int, parallel_calls: int) -> dict[Key, Measure]:
    return {
        (SEQUENTIAL, name): lambda: list(caller.evaluate(f"call_in_sequence({calls})")),
        (PARALLEL, name): lambda: list(caller.evaluate(f"call_in_parallel({parallel_calls})")),
    }


def _cells(peer: peers.Peer, plan: Plan) -> dict[Key, Measure]:
    fresh = _megabytes()

    def repeat(code: str) -> Measure:
        # The first two run with cold caches, after other peers had the machine.
        return lambda: peer.time_cells([code] * (plan.cells + 2))[2:]

    return {
        (EMPTY, peer.name): repeat(cells.EMPTY),
        (SCALAR, peer.name): repeat(cells.SCALAR),
        (VARIABLE, peer.name): lambda: peer.time_variables([next(fresh) for _ in range(plan.variables)]),
    }


def _megabytes() -> Iterator[str]:
    """Yield strings of 1 MiB, no two alike: a cache of values shall not help."""
    for number in itertools.count():
        yield f"{number:016x}" * 65536


def measure_starts(plan: Plan) -> dict[Key, Sample]:
    """Measure from nothing to the first result, in this process, which has imported everything before."""
    makers: dict[str, Callable[[], peers.Peer]] = {
        OURS: peers.kernel_interpreter,
        TUNED: peers.TunedKernel,
        STOCK: peers.StockKernel,
        LOCAL: peers.local_interpreter,
    }
    measures: dict[Key, Measure] = {
        (START, name): functools.partial(peers.time_start, make) for name, make in makers.items()
    }
    for measure in measures.values():
        measure()
    return take_turns(plan.starts, measures)


def measure_import(plan: Plan) -> dict[Key, Sample]:
    """Measure a fresh process that imports the package, and one that does nothing."""
    _refuse_unwanted_imports()
    return take_turns(
        plan.imports,
        {
            (IMPORT, OURS): lambda: [_time_python(f"import {PACKAGE}")],
            (IMPORT, BARE): lambda: [_time_python("pass")],
        },
    )


def _time_python(code: str) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return (time.perf_counter() - begin) * 1000


def _refuse_unwanted_imports() -> None:
    code = f"import json, sys, {PACKAGE}; print(json.dumps(sorted(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    found = [name for name in _UNWANTED if name in json.loads(output)]
    if found:
        raise AssertionError(f"import {PACKAGE} imports {', '.join(found)}")


@contextmanager
def nothing_left_running() -> Iterator[None]:
    """Fail if a process that was started meanwhile is still there."""
    me = psutil.Process()
    before = set(me.children(recursive=True))
    yield
    _, alive = psutil.wait_procs(set(me.children(recursive=True)) - before, timeout=5)
    if alive:
        raise AssertionError(f"left running: {', '.join(str(process) for process in alive)}")
