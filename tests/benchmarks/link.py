"""The link between host and kernel: what it costs, how many round trips it takes, how much it carries.

``python -m tests.benchmarks.link`` measures it alone. Both ways to a kernel, through the tunnel and over its own TCP
ports, lead to the same kernel process, taken in turns. Distance is played by the proxy of the fault tests.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from daytona_kernel_interp.runtime.event_loop import io_loop
from tests import hermetic
from tests.faults.proxy import UP, Faults, Proxy
from tests.faults.sandbox import ThroughProxy
from tests.faults.soak import raw_client
from tests.integration.driver import Driver

from .linked import Client, LinkedKernel, peak_rss

if TYPE_CHECKING:
    from collections.abc import Iterator

MB = 1_000_000
MIB = 1 << 20
_BLOCK = 40  # executes in a row with one client
_WARM_UP = 5


@dataclass(frozen=True)
class Plan:
    """How often, and how much."""

    rounds: int = 20
    delays_s: tuple[float, ...] = (0.02, 0.04, 0.08)
    firsts: int = 9
    transfers: int = 5
    transfer_bytes: int = 1 << 30
    interrupts: int = 5
    freezes: int = 3


QUICK = Plan(rounds=4, delays_s=(0.04,), firsts=3, transfers=1, transfer_bytes=256 * MIB, interrupts=2, freezes=1)


@dataclass(frozen=True)
class Line:
    """One number of the table, and what it has to reach, if anything."""

    what: str
    detail: str
    value: float
    limit: float | None = None
    at_least: bool = False

    @property
    def verdict(self) -> str:
        if self.limit is None:
            return ""
        reached = self.value >= self.limit if self.at_least else self.value <= self.limit
        return "reached" if reached else "**missed**"


def measure(plan: Plan) -> Iterator[Line]:
    """Measure everything, in the order of the table."""
    yield from measure_cost(plan)
    yield from measure_round_trips(plan)
    yield from measure_throughput(plan)
    yield from measure_interrupts(plan)
    yield from measure_recovery(plan)


def table(lines: list[Line]) -> str:
    """Return the Markdown table."""
    rows = ["| the link | measured | | target | |", "|---|---|---|---|---|"]
    for line in lines:
        sign = ">=" if line.at_least else "<="
        target = "" if line.limit is None else f"{sign} {line.limit:g}"
        rows.append(f"| {line.what} | {line.detail} | {line.value:.2f} | {target} | {line.verdict} |")
    return "\n".join(rows)


# --- what an execute costs -----------------------------------------------------------------------------------------


def measure_cost(plan: Plan) -> Iterator[Line]:
    """An empty execute through tunnel and relay, beside the same kernel over TCP."""
    tunnel: list[float] = []
    direct: list[float] = []
    with LinkedKernel() as kernel:
        for number in range(plan.rounds):
            turns = [(tunnel, kernel.through_tunnel), (direct, kernel.direct)]
            for times, path in turns if number % 2 else reversed(turns):
                times += io_loop().run(_block(kernel, path))
    ratio = statistics.median(tunnel) / statistics.median(direct)
    yield Line("empty execute, x direct TCP", f"{_spread(tunnel)} ms, direct {_spread(direct)} ms", ratio, 1.6)


async def _block(kernel: LinkedKernel, path: Path) -> list[float]:
    async with kernel.client(path) as client:
        times = [await client.time_cell() for _ in range(_WARM_UP + _BLOCK)]
    return times[_WARM_UP:]


# --- round trips ---------------------------------------------------------------------------------------------------


def measure_round_trips(plan: Plan) -> Iterator[Line]:
    """The first execute of a client whose streams were dialled before it came, and those that follow."""
    with Proxy() as proxy, LinkedKernel(proxy) as kernel:
        floor_ms = statistics.median(io_loop().run(_block(kernel, kernel.through_tunnel)))
        for delay_s in plan.delays_s:
            proxy.faults = Faults(delay_s=delay_s)
            rtt_ms = 2000 * delay_s
            where = f"{rtt_ms / 2:g} ms one way"
            firsts = [io_loop().run(_first(kernel)) for _ in range(plan.firsts)]
            first = statistics.median(firsts)
            yield Line(f"first execute on a warm relay, RTT, {where}", f"{_spread(firsts)} ms", first / rtt_ms, 1.6)
            steady = io_loop().run(_block(kernel, kernel.through_tunnel))
            value = (statistics.median(steady) - floor_ms) / rtt_ms
            detail = f"{_spread(steady)} ms, {floor_ms:.1f} ms without delay"
            yield Line(f"steady execute less floor, RTT, {where}", detail, value, 1.1)


async def _first(kernel: LinkedKernel) -> float:
    path = await kernel.preopened()
    begin = time.perf_counter()
    client = Client(path)
    try:
        await client.time_cell()
        return (time.perf_counter() - begin) * 1000
    finally:
        await client.channels.aclose()


# --- throughput ----------------------------------------------------------------------------------------------------


def measure_throughput(plan: Plan) -> Iterator[Line]:
    """Random bytes from another process into a real kernel; what relay and tunnel keep of them."""
    message_bytes = 64 * MIB
    count = plan.transfer_bytes // message_bytes
    tunnel: list[float] = []
    direct: list[float] = []
    with LinkedKernel() as kernel:
        relay = kernel.relay_pid
        with peak_rss(relay, os.getpid()) as growth:
            for _ in range(plan.transfers):
                direct.append(_transfer(kernel.direct, count, message_bytes))
                tunnel.append(_transfer(kernel.through_tunnel, count, message_bytes))
    speeds = [plan.transfer_bytes / MB / seconds for seconds in tunnel]
    beside = [plan.transfer_bytes / MB / seconds for seconds in direct]
    ratio = statistics.median(speeds) / statistics.median(beside)
    size = f"{plan.transfer_bytes >> 20} MiB into a kernel"
    yield Line(
        f"{size}, x direct ZMQ", f"{_spread(speeds)} MB/s, direct {_spread(beside)} MB/s", ratio, 0.4, at_least=True
    )
    yield Line(f"{size}, growth of the relay", "MiB, peak", growth[relay] / MIB, 64)
    yield Line(f"{size}, growth of the tunnel", "MiB, peak", growth[os.getpid()] / MIB, 64)


def _transfer(path: Path, count: int, size: int) -> float:
    command = [sys.executable, "-m", "tests.benchmarks.sender", str(path), str(count), str(size)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"the sender to {path} failed:\n{done.stderr}")
    return float(done.stdout)


# --- interrupts ----------------------------------------------------------------------------------------------------


def measure_interrupts(plan: Plan) -> Iterator[Line]:
    """From the call to the cell's end on the host, alone and while 500 MB are on their way up."""
    delay_s, speed, total = 0.02, 50 * MB, 500 * MB
    with Proxy() as proxy, ThreadPoolExecutor(1) as thread:
        driver = Driver(ThroughProxy(proxy))
        try:
            proxy.faults = Faults(delay_s=delay_s, bytes_per_s=speed)
            alone = [_interrupt(driver, thread) for _ in range(plan.interrupts)]
            with raw_client(driver.session.kernel.connection_file) as client:
                begin = proxy.passed[UP]
                message = client.session.msg("comm_msg", {"comm_id": "nobody", "data": {}})
                client.session.send(client.shell_channel.socket, message, buffers=[bytes(total)])
                proxy.until_passed(UP, begin + 40 * MB)
                busy = [_interrupt(driver, thread) for _ in range(plan.interrupts)]
                if proxy.passed[UP] - begin >= total:
                    raise AssertionError("the upload ended before the interrupts did")
                proxy.faults = Faults()
                proxy.until_passed(UP, begin + total)
        finally:
            driver.close()
    limit = 2 * 2000 * delay_s + 100
    yield Line("interrupt to the cell's end, ms, 40 ms RTT", _spread(alone), statistics.median(alone))
    detail = f"{_spread(busy)}, at {speed / MB:g} MB/s"
    yield Line("interrupt under a 500 MB upload, ms, slowest", detail, max(busy), limit)


def _interrupt(driver: Driver, thread: ThreadPoolExecutor) -> float:
    running = threading.Event()
    driver.tools["running"] = running.set
    cell = thread.submit(driver.run, "running()\nimport time\nwhile True: time.sleep(0.01)")
    if not running.wait(30):
        raise AssertionError("the cell did not start")
    begin = time.perf_counter()
    driver.interrupt()
    cell.result()
    return (time.perf_counter() - begin) * 1000


# --- recovery ------------------------------------------------------------------------------------------------------


def measure_recovery(plan: Plan) -> Iterator[Line]:
    """From the moment a link freezes without a FIN to the end of the cell, or to the bytes' going on."""
    cells: list[float] = []
    bulk: list[float] = []
    with Proxy() as proxy, ThreadPoolExecutor(1) as thread:
        driver = Driver(ThroughProxy(proxy))
        try:
            driver.tools["freeze"] = proxy.freeze
            for _ in range(plan.freezes):
                begin = time.perf_counter()
                driver.run("freeze()")
                cells.append(time.perf_counter() - begin)
                passed = proxy.passed[UP]
                sending = thread.submit(driver.run, "pass", variables={"data": os.urandom(150 * MB)})
                proxy.until_passed(UP, passed + 30 * MB)
                proxy.freeze()
                begin, passed = time.perf_counter(), proxy.passed[UP]
                proxy.until_passed(UP, passed + MB)
                bulk.append(time.perf_counter() - begin)
                sending.result()
        finally:
            driver.close()
    yield Line("recovered from a frozen link, s, slowest", f"a cell: {_spread(cells)}", max(cells), 5)
    yield Line("recovered from a frozen link, s, slowest", f"a bulk send: {_spread(bulk)}", max(bulk), 5)


def _spread(values: list[float]) -> str:
    ordered = sorted(values)
    p95 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
    return f"{statistics.median(values):.3g} / {p95:.3g}"


def main() -> int:
    """Measure the link alone."""
    parser = argparse.ArgumentParser(description="Measure the link between host and kernel.")
    parser.add_argument("--quick", action="store_true", help="few samples: a look, no proof")
    parser.add_argument("--only", choices=["cost", "round_trips", "throughput", "interrupts", "recovery"])
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="dki-bench-"))
    hermetic.isolate(os.environ, folder)
    work = globals()[f"measure_{options.only}"] if options.only else measure
    try:
        print(table(list(work(QUICK if options.quick else Plan()))))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
