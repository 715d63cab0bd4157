"""A sandbox at the emulated Daytona: from `started` to the first result, and how often that waits for the network.

The service runs in a process of its own, this module as a program, behind a proxy that delays every byte each way: API,
toolbox and previews alike. Connections to it are made without delay, so what TCP and TLS take to begin is not in the
number of round trips.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .emulator import table
from .link import Line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

_LOGGER = "daytona_kernel_interp.sandboxes.daytona.create"
_WARM_UP = 1


@dataclass(frozen=True)
class Plan:
    """How often, and over how long a way."""

    starts: int = 15
    delays_s: tuple[float, ...] = (0.04, 0.2)


QUICK = Plan(starts=4, delays_s=(0.04,))


def measure(plan: Plan) -> Iterator[Line]:
    """Measure everything, in the order of the table."""
    with _service() as service:
        from daytona_kernel_interp.runtime.event_loop import io_loop
        from daytona_kernel_interp.sandboxes.daytona.snapshot_build import build_snapshot
        from daytona_kernel_interp.sandboxes.daytona.snapshot_image import KernelImage

        name = KernelImage().name()
        io_loop().run(build_snapshot(KernelImage(), name, lambda line: None))
        for snapshot, what in ((name, "the image"), (None, "the package there, no relay")):
            yield from _distances(service, snapshot, what, plan)


def _distances(service: _Service, snapshot: str | None, what: str, plan: Plan) -> Iterator[Line]:
    """Near, far and a child process of this machine in turns, so that what else the machine does falls on all alike."""
    times: dict[float | None, list[float]] = {delay_s: [] for delay_s in (None, 0.0, *plan.delays_s)}
    for number in range(_WARM_UP + plan.starts):
        for delay_s, taken in times.items():
            if delay_s is not None:
                service.delay(delay_s)
            ms = _start_here() if delay_s is None else _start(snapshot)
            if number >= _WARM_UP:
                taken.append(ms)
    near = times[0.0]
    detail = f"{_spread(near)} ms; LocalSandbox {_spread(times[None])} ms"
    yield Line(f"started to first result, ms, {what}", detail, statistics.median(near), 900 if snapshot else None)
    ratio = statistics.median(near) / statistics.median(times[None])
    yield Line(f"the same, x a start of LocalSandbox, {what}", "", ratio)
    for delay_s in plan.delays_s:  # over a long way nothing hides behind what the sandbox does meanwhile
        trips = (statistics.median(times[delay_s]) - statistics.median(near)) / (2000 * delay_s)
        where = f"{1000 * delay_s:g} ms one way"
        yield Line(f"the same less that, RTT, {where}, {what}", f"{_spread(times[delay_s])} ms", trips, 4)


def run(quick: bool) -> str:
    """Measure and return the table."""
    print("measure sandboxes at the emulated Daytona ...", file=sys.stderr)
    return table("a sandbox at the emulated Daytona", "p50 / p95", list(measure(QUICK if quick else Plan())))


def _start_here() -> float:
    from daytona_kernel_interp import KernelInterpreter, LocalSandbox

    begun = time.perf_counter()
    with KernelInterpreter(sandbox=LocalSandbox()) as interpreter:
        interpreter.execute("6 * 7")
        return (time.perf_counter() - begun) * 1000


def _start(snapshot: str | None) -> float:
    from daytona_kernel_interp import DaytonaSandbox, KernelInterpreter

    with _begun() as begun, KernelInterpreter(sandbox=DaytonaSandbox(snapshot=snapshot)) as interpreter:
        if interpreter.execute("6 * 7") != 42:
            raise AssertionError("the first cell went wrong")
        return (time.perf_counter() - begun[0]) * 1000


@contextlib.contextmanager
def _begun() -> Iterator[list[float]]:
    """The moment at which the package learned that the sandbox had started."""
    found: list[float] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().endswith(" started"):
                found.append(time.perf_counter())

    logger, handler = logging.getLogger(_LOGGER), Handler()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


# --- the service ----------------------------------------------------------------------------------------------


class _Service:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def delay(self, seconds: float) -> None:
        """Delay every byte so long, each way."""
        self.tell(f"{seconds}\n")
        self.hear()

    def tell(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def hear(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@contextlib.contextmanager
def _service() -> Iterator[_Service]:
    command = [sys.executable, "-m", "tests.benchmarks.daytona"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        service = _Service(process)
        given = json.loads(service.hear())
        before = {name: os.environ.get(name) for name in given}
        os.environ.update(given)
        try:
            yield service
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
            assert process.stdin is not None
            process.stdin.close()


def _serve(orders: TextIO) -> None:
    """Be the service: an order is a line with the delay that holds from then on."""
    from daytona_kernel_interp.testing import DaytonaEmulator
    from tests.faults.proxy import Faults, Proxy

    with Proxy() as proxy, DaytonaEmulator() as emulator:
        world = emulator.server.world
        proxy.lead_to(int(world.address.rpartition(":")[2]))
        world.address = f"127.0.0.1:{proxy.port}"  # its addresses of toolboxes and previews
        print(json.dumps(emulator.environment()), flush=True)
        for line in orders:
            proxy.faults = Faults(delay_s=float(line))
            print("done", flush=True)


def _spread(values: list[float]) -> str:
    ordered = sorted(values)
    return f"{statistics.median(ordered):.0f} / {ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]:.0f}"


if __name__ == "__main__":
    _serve(sys.stdin)
