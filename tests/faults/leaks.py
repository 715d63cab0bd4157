"""Start and end sessions in an emulated Daytona in every way there is, and count the sandboxes that are left.

``python -m tests.faults.leaks`` (or ``make leaks``) does it 200 times and prints a table; its exit code is not zero if
a sandbox is left when the time is over after which a sandbox without a host ends by itself. Each way once is a test.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from daytona_kernel_interp import DaytonaSandbox
from daytona_kernel_interp.testing import DaytonaEmulator, Fault
from daytona_kernel_interp.testing.model import State
from tests import hermetic
from tests.hosts import Hosts
from tests.integration.daytona_service import until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daytona_kernel_interp.testing.model import Record

SESSIONS = 200
_LANES = 6
_ENDED = (State.DESTROYING, State.DESTROYED)
_NO_HOST_S = DaytonaSandbox().effective_auto_stop_interval * 60 + 20  # the service looks every 10 s
_LIFE_S = DaytonaSandbox().effective_ttl_minutes * 60

STUCK = "it does not start in time"

_BEGIN = """
from daytona_kernel_interp import DaytonaSandbox, KernelInterpreter
interpreter = KernelInterpreter(sandbox=DaytonaSandbox(upload=True, {options}))
"""
_RUNS = _BEGIN + 'interpreter.execute("x = 1")\nprint("ready", flush=True)\n'
_STARTS = _BEGIN + 'print("ready", flush=True)\ninterpreter.start()\n'
_FAILS = (
    _BEGIN
    + """
try:
    interpreter.start()
    print("started", flush=True)
except Exception as error:
    print("failed", str(error).replace("\\n", " "), flush=True)
"""
)
_IN_CELL = "interpreter.execute('import time; time.sleep(60)')"
_IDLE = "import time; time.sleep(60)"


@dataclass(frozen=True)
class Way:
    """How a session starts and ends."""

    name: str
    code: str
    faults: tuple[Fault, ...] = ()
    options: str = ""
    signal: int | None = None  # sent when it is ready and `once` holds
    once: str = ""  # "cell": its sandbox's link is up; "made": there is a sandbox; "deleted": there is none any more;
    # "busy": the first of its faults has struck
    says: str = "ready"
    words: str = ""  # in the error, where there is one


def _api(operation: str, **what: object) -> Fault:
    return Fault("api", operation, **what)  # type: ignore[arg-type]


def _toolbox(operation: str, **what: object) -> Fault:
    return Fault("toolbox", operation, **what)  # type: ignore[arg-type]


def _fails(name: str, words: str, *faults: Fault, options: str = "") -> Way:
    return Way(name, _FAILS, faults, options, says="failed", words=words)


def ways(folder: Path) -> list[Way]:
    """Return all of them; ``folder`` has what some need (see :func:`prepare`)."""
    short = "start_timeout=1"
    return [
        Way("shut down", _RUNS + "interpreter.shutdown()"),
        Way("shut down while the service is busy", _RUNS + "interpreter.shutdown()", (_busy(409), _busy(400))),
        Way("an exception in a with block", _RUNS + "with interpreter: 1 / 0"),
        Way("the process ends", _RUNS),
        Way(
            "the process ends, the service is busy", _RUNS, (_busy(409), _busy(400), _api("deleteSandbox", status=502))
        ),
        Way("the process ends by an exception", _RUNS + "1 / 0"),
        Way("forgotten", _RUNS + f"del interpreter\n{_IDLE}", signal=signal.SIGKILL, once="deleted"),
        Way("detached, and nobody comes", _RUNS + "interpreter.detach()"),
        Way("SIGINT", _RUNS + _IDLE, signal=signal.SIGINT),
        Way("SIGINT in a cell", _RUNS + _IN_CELL, signal=signal.SIGINT),
        Way("SIGINT during the start", _STARTS, (Fault("start", delay_s=0.5),), signal=signal.SIGINT, once="made"),
        Way("SIGINT while it is shut down", _RUNS + "interpreter.shutdown()", _BUSY, signal=signal.SIGINT, once="busy"),
        Way("SIGINT while the process ends", _RUNS, _BUSY, signal=signal.SIGINT, once="busy"),
        Way("SIGTERM", _RUNS + _IDLE, signal=signal.SIGTERM),
        Way("SIGTERM in a cell", _RUNS + _IN_CELL, signal=signal.SIGTERM),
        Way("SIGTERM during the start", _STARTS, (Fault("start", delay_s=0.5),), signal=signal.SIGTERM, once="made"),
        Way("SIGKILL", _RUNS + _IDLE, signal=signal.SIGKILL),
        Way("SIGKILL in a cell", _RUNS + _IN_CELL, signal=signal.SIGKILL),
        Way("SIGKILL during the start", _STARTS, (Fault("start", delay_s=0.5),), signal=signal.SIGKILL, once="made"),
        _fails("create is refused", "has no permission for this", _api("createSandbox", status=403)),
        _fails("create fails", "a planned fault", _api("createSandbox", status=500)),
        _fails("create fails, and made one", "DaytonaBadGatewayError", _api("createSandbox", status=502, after=True)),
        _fails(
            "create is not answered, and made one",
            "Server disconnected",
            _api("createSandbox", refuse=True, after=True),
        ),
        _fails("create hangs", "after 1 s", _api("createSandbox", hang=True), options=short),
        _fails("create hangs, and made one", "after 1 s", _api("createSandbox", hang=True, after=True), options=short),
        _fails(STUCK, "after 1 s", Fault("start", hang=True), options=short),
        _fails("it fails to start", "no room", Fault("start", error="no room")),
        _fails("the first look fails", "is not usable", _toolbox("executeCommand", status=502)),
        _fails("the first look hangs", "after 2 s", _toolbox("executeCommand", hang=True), options="start_timeout=2"),
        _fails("the upload fails", "could not be uploaded", _toolbox("uploadFiles", status=500, times=None)),
        _fails(
            "the installation fails",
            "it has neither pip nor uv",
            options=f"python={str(folder / 'bare/bin/python')!r}, env_vars={{'PATH': '/usr/bin:/bin'}}",
        ),
        _fails("an answer is lost", "is not usable", _toolbox("executeCommand", refuse=True, after=True)),
        _fails("no preview link", "a planned fault", _api("getPortPreviewUrl", status=500)),
        _fails("the preview refuses", "cannot be reached", Fault("preview", status=403, times=None)),
        _fails(
            "the relay ends at once",
            "ended with exit code 3",
            options=f"env_vars={{'PYTHONPATH': {str(folder / 'no-relay')!r}}}",
        ),
        _fails(
            "the kernel ends at once",
            "ended with exit code 3",
            options=f"env_vars={{'PYTHONPATH': {str(folder / 'no-kernel')!r}}}",
        ),
    ]


def _busy(status: int) -> Fault:
    return _api("deleteSandbox", status=status, body='{"message": "Sandbox state change in progress"}')


_BUSY = (_busy(409),) * 6  # for a second and more


def prepare(folder: Path) -> None:
    """Make a Python that has nothing installed, and what keeps relay or kernel from starting."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "bare")], check=True)
    for name, module in (("no-relay", "daytona_kernel_interp.guest.relay"), ("no-kernel", "guest.kernel.kernel_app")):
        (folder / name).mkdir()
        text = f"import os, sys\nif any(each.endswith({module!r}) for each in sys.orig_argv): os._exit(3)\n"
        (folder / name / "sitecustomize.py").write_text(text)


@dataclass
class Row:
    """What became of the sessions that ended in one way."""

    way: str
    sessions: int = 0
    unlike: list[str] = field(default_factory=list)  # what went otherwise than the way says
    left: int = 0  # sandboxes, when the process had ended
    left_without_host: int = 0  # and when a sandbox without a host has ended by itself
    left_at_last: int = 0  # and when every sandbox has


class Lane:
    """An emulator of its own, in which sessions end one after the other."""

    def __init__(self, hosts: Hosts, folder: Path) -> None:
        self._hosts, self._all = hosts, ways(folder)
        self._made: dict[str, str] = {}  # sandbox -> way

    def run(self, numbers: Sequence[int]) -> dict[str, Row]:
        """End as many sessions, each in the way of its number, and then let time pass."""
        rows: dict[str, Row] = {}
        with DaytonaEmulator() as emulator:
            for number in numbers:
                way = self._all[number % len(self._all)]
                row = rows.setdefault(way.name, Row(way.name))
                row.sessions += 1
                before = set(self._made)
                if unlike := self._one(emulator, way):
                    row.unlike.append(unlike)
                emulator.heal()
                emulator.forget_tokens()
                row.left += sum(record.id not in before for record in _there(emulator))
            until(lambda: not any(map(self._is_under_way, _fleet(emulator))), "the last link's end")
            emulator.advance(_NO_HOST_S)
            for record in _there(emulator):
                rows[self._made[record.id]].left_without_host += 1
            emulator.advance(_LIFE_S)
            for record in _there(emulator):
                rows[self._made[record.id]].left_at_last += 1
        return rows

    def _is_under_way(self, record: Record) -> bool:
        starting = record.state in (State.CREATING, State.STARTING) and self._made[record.id] != STUCK
        return record.open_sockets > 0 or starting

    def _one(self, emulator: DaytonaEmulator, way: Way) -> str:
        """Start and end one session; return what went otherwise than it should."""
        for fault in way.faults:
            emulator.fail(fault)
        before = {record.id for record in _fleet(emulator)}
        host = self._hosts.start(way.code.format(options=way.options), emulator.environment())
        try:
            said = host.line()
            if way.once == "busy":
                until(lambda: len(list(emulator.server.world.faults)) < len(way.faults), way.once)
            elif way.once:
                there = way.once == "made"
                until(lambda: bool({record.id for record in _there(emulator)} - before) == there, way.once)
            if way.signal is not None:
                host.send_signal(way.signal)
            code = host.wait()
        finally:
            host.close()
            self._made.update({record.id: way.name for record in _fleet(emulator) if record.id not in before})
        if not said.startswith(way.says) or way.words not in said:
            return f"it said {said!r}"
        if way.signal in (signal.SIGKILL, signal.SIGTERM) and code != -way.signal:
            return f"it ended with {code}"
        return ""


def _fleet(emulator: DaytonaEmulator) -> list[Record]:
    return list(emulator.server.world.fleet)


def _there(emulator: DaytonaEmulator) -> list[Record]:
    """Return the sandboxes without a pending deletion."""
    return [record for record in _fleet(emulator) if record.state not in _ENDED]


def run(hosts: Hosts, sessions: int | None = None) -> list[Row]:
    """End so many sessions, by default one in each way, several at a time; return what became of them."""
    folder = Path(tempfile.mkdtemp(prefix="dki-leaks-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        prepare(folder)
        names = [way.name for way in ways(folder)]
        numbers = range(len(names) if sessions is None else sessions)
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(_LANES))
        lanes = [pool.submit(Lane(hosts, folder).run, numbers[lane::_LANES]) for lane in range(_LANES)]
        rows = {name: Row(name) for name in names}
        for lane in lanes:
            for name, row in lane.result().items():
                whole = rows[name]
                whole.sessions += row.sessions
                whole.unlike += row.unlike
                whole.left += row.left
                whole.left_without_host += row.left_without_host
                whole.left_at_last += row.left_at_last
    return list(rows.values())


def table(rows: Sequence[Row]) -> str:
    """Return the account as text, with its sums."""
    hours = _LIFE_S // 3600
    head = f"| {'how the session ended':38} | sessions | left | after {_NO_HOST_S / 60:.0f} min | after {hours} h |"
    total = Row("all", sum(row.sessions for row in rows))
    for name in ("left", "left_without_host", "left_at_last"):
        setattr(total, name, sum(getattr(row, name) for row in rows))
    lines = [head, f"| {'---':38} |      --: |  --: |          --: |        --: |"]
    for row in (*rows, total):
        counts = f"{row.left:4} | {row.left_without_host:12} | {row.left_at_last:10}"
        lines.append(f"| {row.way:38} | {row.sessions:8} | {counts} | {'; '.join(row.unlike)}")
    return "\n".join(lines)


def main() -> int:
    """Print the account; 1 if a sandbox is left at last, or something went otherwise than its way says."""
    parser = argparse.ArgumentParser(prog="make leaks", description="Count the sandboxes that sessions leave.")
    parser.add_argument("--sessions", type=int, default=SESSIONS)
    options = parser.parse_args()
    folder, begin = Path(tempfile.mkdtemp(prefix="dki-leaks-")), time.monotonic()
    hermetic.isolate(os.environ, folder)
    try:
        with Hosts() as hosts:
            rows = run(hosts, options.sessions)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(table(rows))
    print(f"\n{time.monotonic() - begin:.0f} s")
    return int(any(row.left_at_last or row.unlike for row in rows))


if __name__ == "__main__":
    sys.exit(main())
