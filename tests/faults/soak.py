"""Work through a link that is cut continuously, with a count of lost data.

``python -m tests.faults.soak`` (or ``make soak``) runs all of it and prints a table; its exit code is not zero if data
was lost. A shorter run of the same code is among the tests.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import os
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_client.blocking.client import BlockingKernelClient

from daytona_kernel_interp.codec import values
from tests import hermetic
from tests.integration.driver import Driver

from .proxy import DOWN, UP, Faults, Proxy
from .sandbox import ThroughProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CUTS = Faults(cut_after_s=(0.05, 0.3))
_CELL_S = 60.0


@dataclass(frozen=True)
class Plan:
    """The amount of work."""

    sequential: int = 2000
    pipelined: int = 2000
    lines: int = 20_000
    bulk_bytes: int = 1_000_000_000  # each way
    value_bytes: int = 100_000_000
    cuts: int = 5000  # at least; cells run until this number is reached
    seed: int = 1


MINUTE = Plan(sequential=1500, pipelined=1000, lines=10_000, bulk_bytes=300_000_000, value_bytes=50_000_000, cuts=700)


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    work: str
    amount: str
    lost: str  # empty: none
    cuts: int
    duration_s: float


class Soak:
    """One session behind one proxy."""

    def __init__(self, plan: Plan, proxy: Proxy, driver: Driver) -> None:
        self._plan, self._proxy, self._driver = plan, proxy, driver
        self._random = random.Random(plan.seed)

    def rows(self) -> Iterator[Row]:
        """Run the work and yield its rows."""
        plan = self._plan
        self._driver.run("import hashlib, random\nseen = []")
        self._proxy.faults = CUTS
        size = f"{plan.bulk_bytes / 1e6:.0f} MB"
        yield self._row("executes, one after the other", f"{plan.sequential}", self._sequential)
        yield self._row("executes, pipelined by a second client", f"{plan.pipelined}", self._pipelined)
        yield self._row("printed lines", f"{plan.lines}", self._lines)
        yield self._row("into the kernel", size, self._bulk_up)
        yield self._row("out of the kernel", size, self._bulk_down)
        yield self._row("executes, until there were cuts enough", "", self._until_cut_enough)

    def _row(self, work: str, amount: str, do: Callable[[], str]) -> Row:
        cuts, begin = self._proxy.cut_count, time.monotonic()
        try:
            lost = do()
        except Exception as error:
            lost = f"{type(error).__name__}: {error}"
        return Row(work, amount, lost, self._proxy.cut_count - cuts, time.monotonic() - begin)

    def _sequential(self) -> str:
        return self._count_cells(range(self._plan.sequential))

    def _until_cut_enough(self) -> str:
        missing = iter(lambda: self._proxy.cut_count < self._plan.cuts, False)
        return self._count_cells(number for number, _ in enumerate(missing))

    def _count_cells(self, numbers: Iterator[int] | range) -> str:
        """Run a cell for each number, each with a side effect and an output."""
        driver = self._driver
        driver.run("seen.clear()")
        ran = []
        for number in numbers:
            text = driver.text(f"seen.append({number})\nprint('cell', {number})")
            ran.append(number)
            if text != f"cell {number}\n":
                return f"cell {number} printed {text!r}"
        return _compare(driver.value("seen"), ran)

    def _pipelined(self) -> str:
        """Send every cell before the first reply is read, with jupyter_client alone."""
        driver, count = self._driver, self._plan.pipelined
        driver.run("seen.clear()")
        with raw_client(driver.session.kernel.connection_file) as client:
            sent = [client.execute(f"seen.append({number})") for number in range(count)]
            replied = [client.get_shell_msg(timeout=_CELL_S)["parent_header"]["msg_id"] for _ in sent]
            idle: list[str] = []
            while len(idle) < count:
                message = client.get_iopub_msg(timeout=_CELL_S)
                parent = message["parent_header"].get("msg_id")
                if message["content"].get("execution_state") == "idle" and parent in sent:
                    idle.append(parent)
        ran = _compare(driver.value("seen"), list(range(count)))
        return ran or _compare(replied, sent, "replies") or _compare(idle, sent, "idles")

    def _lines(self) -> str:
        count = self._plan.lines
        code = f"for i in range({count}): print('line', i, flush=True)"
        cell = self._driver.run(code, timeout_s=_CELL_S, max_output_chars=None).cell
        expected = "".join(f"line {i}\n" for i in range(count))
        return "" if cell.text() == expected else f"{len(cell.text())} characters came, not these {len(expected)}"

    def _bulk_up(self) -> str:
        for size in self._sizes():
            data = self._random.randbytes(size)
            cell = self._driver.run(
                "hashlib.sha256(data).hexdigest()", variables={"data": data}, timeout_s=_CELL_S
            ).cell
            if cell.value is None or values.loads(cell.value) != hashlib.sha256(data).hexdigest():
                return f"{size} bytes arrived otherwise"
        self._driver.run("del data")
        return ""

    def _bulk_down(self) -> str:
        """Pass values from the kernel to a host tool."""
        taken: list[str] = []
        self._driver.tools["take"] = lambda data: taken.append(hashlib.sha256(data).hexdigest())
        for size in self._sizes():
            code = f"data = random.randbytes({size})\ntake(data)\nhashlib.sha256(data).hexdigest()"
            cell = self._driver.run(code, timeout_s=_CELL_S).cell
            if cell.value is None or values.loads(cell.value) != taken.pop() or taken:
                return f"{size} bytes arrived otherwise"
        return ""

    def _sizes(self) -> Iterator[int]:
        for start in range(0, self._plan.bulk_bytes, self._plan.value_bytes):
            yield min(self._plan.value_bytes, self._plan.bulk_bytes - start)


def run(plan: Plan) -> tuple[list[Row], Proxy]:
    """Run ``plan`` in a new session; return the rows and the closed proxy."""
    with contextlib.ExitStack() as stack:
        proxy = stack.enter_context(Proxy(seed=plan.seed))
        driver = Driver(ThroughProxy(proxy))
        stack.callback(driver.close)
        rows = []
        for row in Soak(plan, proxy, driver).rows():
            print(_line(row), file=sys.stderr, flush=True)
            rows.append(row)
        proxy.faults = Faults()
    return rows, proxy


@contextlib.contextmanager
def raw_client(connection_file: Path) -> Iterator[BlockingKernelClient]:
    """Return a plain Jupyter client."""
    client = BlockingKernelClient()
    client.load_connection_file(str(connection_file))
    client.start_channels(stdin=False, hb=False)
    try:
        client.wait_for_ready(timeout=_CELL_S)
        yield client
    finally:
        client.stop_channels()


def _compare(got: list[int] | list[str], wanted: list[int] | list[str], what: str = "cells") -> str:
    if got == wanted:
        return ""
    missing, extra = len(set(wanted) - set(got)), len(got) - len(set(got))
    place = next(i for i, (a, b) in enumerate(itertools.zip_longest(got, wanted)) if a != b)
    return f"{what}: {missing} of {len(wanted)} missing, {extra} repeated, wrong from number {place} on"


def _line(row: Row) -> str:
    return f"| {row.work:38} | {row.amount:>7} | {row.lost or 'nothing':10} | {row.cuts:5} | {row.duration_s:7.1f} |"


def main() -> int:
    """Print the table; return 1 if data was lost or too few cuts were made."""
    parser = argparse.ArgumentParser(prog="make soak", description="Work through a link that is cut all the time.")
    parser.add_argument("--minute", action="store_true", help="the short run that is among the tests")
    parser.add_argument("--seed", type=int, default=Plan.seed)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="dki-soak-"))
    hermetic.isolate(os.environ, folder)
    plan = MINUTE if options.minute else Plan()
    try:
        rows, proxy = run(Plan(**{**vars(plan), "seed": options.seed}))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"| {'through a link cut every 50 to 300 ms':38} |  amount | lost       |  cuts | seconds |")
    print(f"| {'---':38} |     --: | ---        |   --: |     --: |")
    print("\n".join(map(_line, rows)))
    print(
        f"\n{proxy.cut_count} cuts ({dict(proxy.cuts)}), {proxy.dials} dials, bytes passed: {proxy.passed[UP]} up, ",
        end="",
    )
    print(f"{proxy.passed[DOWN]} down, seed {options.seed}")
    return int(proxy.cut_count < plan.cuts or any(row.lost for row in rows))


if __name__ == "__main__":
    sys.exit(main())
