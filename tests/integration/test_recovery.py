"""Links that cannot resume: the relay dies, and the host recovers missing output from the kernel's journal."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from daytona_kernel_interp.client.execution_result import ExecutionAborted
from daytona_kernel_interp.errors import CellNotRun, KernelDied, TunnelLost
from daytona_kernel_interp.runtime.event_loop import io_loop
from daytona_kernel_interp.sandboxes.local import RunningLocalSandbox
from daytona_kernel_interp.wire.comm import OutputField
from daytona_kernel_interp.wire.keepalive import LinkTimings

if TYPE_CHECKING:
    from pathlib import Path

    from daytona_kernel_interp.client.outputs import Output
    from tests.integration.driver import Driver

pytestmark = pytest.mark.kernel


def local(driver: Driver) -> RunningLocalSandbox:
    """Return the running sandbox of a driver."""
    sandbox = driver.session.sandbox
    assert isinstance(sandbox, RunningLocalSandbox)
    return sandbox


def wait_for_file(path: Path) -> None:
    """Wait until a cell has created a file, at most 30 s."""
    end = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.01)


def kill_relay(driver: Driver) -> None:
    """Kill the relay and wait for its end."""
    process = psutil.Process(local(driver).pid)
    process.kill()
    process.wait(10)


def test_a_cell_survives_its_relay(own_driver: Driver) -> None:
    """The relay is killed during a cell: the kernel continues, a new relay adopts it, and no output is missing."""
    own_driver.run("x = 1")
    own_driver.tools["kill_relay"] = lambda: kill_relay(own_driver)
    code = "print('before')\nkill_relay()\nfor i in range(500):\n    print(i, flush=True)\nx += 1\nx"
    result = own_driver.run(code)
    assert result.cell.text() == "before\n" + "".join(f"{i}\n" for i in range(500))
    assert result.cell.value_text() == "2"
    assert own_driver.value("x") == 2


def test_a_cell_that_ends_long_after_the_recovery_is_heard(own_driver: Driver, tmp_path: Path) -> None:
    """The kernel's reply goes to a lost connection, but the end of the cell is detected."""
    gate = tmp_path / "gate"
    own_driver.tools["kill_relay"] = lambda: kill_relay(own_driver)
    own_driver.tools["open_gate"] = gate.touch
    code = (
        "import os, time\nkill_relay()\nopen_gate()\n"  # the second call proves that the link is back
        f"while not os.path.exists({str(gate)!r}):\n    time.sleep(0.01)\nprint('end')\n1 / 0"
    )
    result = own_driver.run(code)
    assert result.cell.text() == "end\n"
    assert result.cell.error is not None
    assert result.cell.error.name == "ZeroDivisionError"
    assert own_driver.value("1 + 1") == 2


def test_a_cell_that_ended_while_there_was_no_relay_is_told_in_full(
    own_driver: Driver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Output, reply and SUBMIT of a cell that ended without a relay come from the journal."""
    done = tmp_path / "done"
    launch = RunningLocalSandbox.launch

    async def launch_when_done(sandbox: RunningLocalSandbox) -> None:
        await asyncio.to_thread(wait_for_file, done)
        await launch(sandbox)

    monkeypatch.setattr(RunningLocalSandbox, "launch", launch_when_done)
    code = (
        "import os, threading, time\nparent = os.getppid()\nprint('first', flush=True)\n"
        "while os.getppid() == parent:\n    time.sleep(0.01)\nprint('unheard')\n"
        f"threading.Timer(0.3, lambda: open({str(done)!r}, 'w').close()).start()\nSUBMIT(42)"
    )
    killer = threading.Thread(target=kill_relay, args=(own_driver,))

    def kill_once(output: Output) -> None:
        if killer.ident is None:
            killer.start()

    result = own_driver.run(code, fields=[OutputField("answer", "int")], on_output=kill_once)
    killer.join()
    assert result.cell.text() == "first\nunheard\n"
    assert result.cell.submission is not None


def test_a_relay_killed_again_and_again_repeats_no_tool_call(own_driver: Driver) -> None:
    """Each call is made once and gets its reply, through any relay."""
    calls: list[int] = []

    def note(number: int) -> int:
        calls.append(number)
        if number % 3 == 0:
            kill_relay(own_driver)
        return 10 * number

    own_driver.tools["note"] = note
    assert own_driver.value("[note(i) for i in range(10)]") == [10 * i for i in range(10)]
    assert calls == list(range(10))


def test_a_cell_that_did_not_reach_the_kernel_is_known_not_to_have_run(own_driver: Driver) -> None:
    """The relay dies with the unsent request: the error reports that, the kernel is alive, and the cell never runs."""
    own_driver.value("runs = 0")
    os.kill(local(own_driver).pid, signal.SIGSTOP)  # it may read the request's bytes, but forwards none
    outcome: list[BaseException] = []

    def run() -> None:
        try:
            own_driver.run("runs += 1")
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while not own_driver.session.tunnel._in_flight:
        pass
    kill_relay(own_driver)
    thread.join(30)
    assert [type(error) for error in outcome] == [CellNotRun]
    assert own_driver.value("runs") == 0


def test_what_was_queued_for_a_link_that_is_lost_for_good_never_runs(
    own_driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With relay and kernel unreachable, the call raises an error, and its request is discarded."""
    kernel = psutil.Process(own_driver.value("import os; os.getpid()"))

    async def gone(sandbox: object) -> None:
        raise ValueError("no relay any more")

    monkeypatch.setattr(RunningLocalSandbox, "launch", gone)
    own_driver.session.tunnel._dialer.times = LinkTimings(resume_lifetime_s=1.0)
    kill_relay(own_driver)
    with pytest.raises(ExecutionAborted) as caught:
        own_driver.run("import pathlib; pathlib.Path('ran').touch()")
    assert isinstance(caught.value.error, TunnelLost)
    assert own_driver.session.kernel._channels is None
    assert kernel.is_running()  # it waits for a relay; the next test's end of the session is its end
    kernel.kill()


def test_a_kernel_that_died_without_a_relay_is_told_with_its_output(own_driver: Driver) -> None:
    """If both die at once, the error reports the kernel's death with its output."""
    pid = own_driver.value("import os; os.getpid()")

    def kill_both() -> None:
        os.kill(local(own_driver).pid, signal.SIGSTOP)
        os.kill(pid, signal.SIGKILL)
        kill_relay(own_driver)

    own_driver.tools["kill_both"] = kill_both
    with pytest.raises(ExecutionAborted) as caught:
        own_driver.run("print('last words')\nkill_both()")
    assert isinstance(caught.value.error, KernelDied)
    assert caught.value.cell.text() == "last words\n"


@pytest.mark.parametrize("end", ["import os; os._exit(0)", "import ctypes; ctypes.string_at(0)"])
def test_what_was_printed_in_the_last_instant_is_not_lost(own_driver: Driver, end: str) -> None:
    """Output right before a process ends is kept, including text that no thread had read."""
    with pytest.raises(ExecutionAborted) as caught:
        own_driver.run(f"import sys\nfor i in range(1000):\n    print('line', i)\nsys.stderr.write('err ü')\n{end}")
    text = caught.value.cell.text()
    assert "".join(f"line {i}\n" for i in range(1000)) in text
    assert "err ü" in text


@pytest.mark.parametrize("end", ["os._exit(7)", "ctypes.PyDLL(None).abort()", "os.kill(os.getpid(), 9)"])
def test_output_that_the_kernel_had_not_read_from_its_pipes_is_not_lost(own_driver: Driver, end: str) -> None:
    """What C code or a child process writes right before the process ends is kept, also if nothing had read it."""
    code = (
        "import ctypes, os, sys\nprint('first')\n"
        "for stream in (sys.stdout, sys.stderr):\n    stream._pipe_lock.acquire()\n"  # the reader waits for it
        f"os.write(1, b'to stdout ')\nos.system('echo to stderr >&2')\nos.write(1, b'at the end')\n{end}"
    )
    with pytest.raises(ExecutionAborted) as caught:
        own_driver.run(code)
    assert caught.value.cell.text() == "first\nto stdout at the endto stderr\n"
    assert isinstance(caught.value.error, KernelDied)
    assert caught.value.error.stderr == "to stderr\n"


def test_an_interrupt_reaches_a_cell_on_its_way(own_driver: Driver) -> None:
    """A cell that is interrupted before it reaches the kernel does not run, or is interrupted at once."""
    own_driver.value("ran = False")
    io_loop().run(own_driver.session.kernel.interrupt())
    kernel = psutil.Process(own_driver.value("import os; os.getpid()"))
    kernel.suspend()
    outcome: list[object] = []
    thread = threading.Thread(target=lambda: outcome.append(own_driver.run("import time; time.sleep(20); ran = True")))
    thread.start()
    while own_driver.session.kernel.running is None:
        pass
    own_driver.interrupt()
    threading.Event().wait(1.2)  # SIGINT is pending in the stopped process, the interrupt request in its socket
    kernel.resume()
    thread.join(30)
    assert outcome
    assert own_driver.value("ran") is False
