"""Sandboxes at an emulated Daytona over time: kept running, stopped, restarted, paused, without a host."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from daytona_kernel_interp import DaytonaSandbox, KernelInterpreter
from daytona_kernel_interp.interpreter.interpreter import CodeInterpreterError
from daytona_kernel_interp.runtime.event_loop import io_loop
from daytona_kernel_interp.sandboxes.daytona.sandbox import RunningDaytonaSandbox
from daytona_kernel_interp.testing import Fault
from tests.access import session_of
from tests.integration.daytona_service import WAIT_S, Service, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.hosts import Hosts

MINUTE_S = 60.0
AUTO_STOP_S = DaytonaSandbox().effective_auto_stop_interval * MINUTE_S


@pytest.fixture
def interpreter(daytona: Service) -> Iterator[KernelInterpreter]:
    with KernelInterpreter() as made:
        yield made


@contextlib.contextmanager
def meanwhile(interpreter: KernelInterpreter, act: Callable[[], object]) -> Iterator[None]:
    """Run ``act`` in another thread as soon as a cell calls ``begun``."""
    begun, failed = threading.Event(), []
    interpreter.tools["begun"] = begun.set

    def run() -> None:
        try:
            assert begun.wait(WAIT_S)
            act()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join()
    assert not failed, failed


def running(interpreter: KernelInterpreter) -> RunningDaytonaSandbox:
    sandbox = session_of(interpreter).sandbox
    assert isinstance(sandbox, RunningDaytonaSandbox)
    return sandbox


def test_a_host_keeps_its_sandbox_up_until_its_time_is_over(interpreter: KernelInterpreter, daytona: Service) -> None:
    """It runs during a cell of an hour and an idle session, and is deleted a day after its creation."""

    def an_hour() -> None:
        for _ in range(5):
            daytona.emulator.advance(AUTO_STOP_S - MINUTE_S)

    passed = threading.Event()

    def pass_an_hour() -> None:
        an_hour()
        passed.set()

    interpreter.tools["wait"] = lambda: passed.wait(WAIT_S)
    with meanwhile(interpreter, pass_an_hour):
        assert interpreter.execute("begun(); x = wait(); x") is True
    an_hour()
    assert daytona.only["state"] == "started"
    assert interpreter.execute("x") is True
    daytona.emulator.advance(24 * 60 * MINUTE_S)
    with pytest.raises(CodeInterpreterError, match="SandboxGone: the Daytona sandbox was deleted"):
        interpreter.execute("x")


KEEPS = """
from daytona_kernel_interp import DaytonaSandbox, KernelInterpreter
begun = lambda output: print(interpreter.session_id, flush=True)
interpreter = KernelInterpreter(sandbox=DaytonaSandbox(keep=True), on_output=begun)
interpreter.execute("x = 42; import time; print(flush=True); time.sleep(60)")
"""


def test_a_kept_sandbox_of_a_dead_host_waits_and_is_taken_up(daytona: Service, hosts: Hosts) -> None:
    """It runs with its variables until its auto-stop; a process that attaches stops it at shutdown."""
    host = hosts.start(KEEPS, daytona.emulator.environment())
    session = host.line()
    host.send_signal(signal.SIGKILL)
    host.wait()
    daytona.emulator.advance(AUTO_STOP_S - MINUTE_S)
    with KernelInterpreter.attach(session) as interpreter:
        interpreter.interrupt()
        assert interpreter.execute("x") == 42
    until(lambda: daytona.only["state"] == "stopped", "its stop")
    with pytest.raises(CodeInterpreterError, match=r"no session|is over"):
        KernelInterpreter.attach(session)
    daytona.ask("DELETE", f"/sandbox/{daytona.only['id']}")


def test_a_sandbox_that_was_restarted_is_told(daytona: Service) -> None:
    """The sandbox was stopped and started again: it runs with a new token and without the kernel."""
    with KernelInterpreter(sandbox=DaytonaSandbox(keep=True)) as interpreter:
        interpreter.execute("x = 1")
        made = daytona.only["id"]

        def restart() -> None:
            # The host does not observe the stopped state.
            daytona.emulator.fail(Fault("api", "getSandbox", status=500, times=None))
            daytona.ask("POST", f"/sandbox/{made}/stop")
            record = daytona.emulator.server.world.fleet.by_id(made)
            assert record is not None
            until(lambda: record.state.value == "stopped", "the stop")
            daytona.ask("POST", f"/sandbox/{made}/start")
            until(lambda: record.state.value == "started", "the start")
            daytona.emulator.heal()

        with meanwhile(interpreter, restart), pytest.raises(CodeInterpreterError) as caught:
            interpreter.execute("begun(); import time; time.sleep(60)")
        assert "the Daytona sandbox was restarted" in str(caught.value)
        with pytest.raises(CodeInterpreterError, match="cannot run code any more"):
            interpreter.execute("x")
    daytona.ask("DELETE", f"/sandbox/{made}")


def lose_link(interpreter: KernelInterpreter) -> None:
    """Cut every connection of the session, on the thread that owns them."""

    async def abort() -> None:
        for stream in session_of(interpreter).tunnel.streams:
            if stream.carrier.socket is not None:
                stream.carrier.socket.abort()

    io_loop().run(abort())


@pytest.mark.slow
@pytest.mark.parametrize("status", [307, 404])
def test_an_outage_of_the_service_that_looks_like_a_refusal_is_waited_for(daytona: Service, status: int) -> None:
    """API and toolbox fail, the proxy refuses a good token, links are cut; after twelve seconds the cell goes on."""
    emulator = daytona.emulator
    with KernelInterpreter(sandbox=DaytonaSandbox()) as interpreter:
        interpreter.execute("import time; n = 0")

        def outage() -> None:
            for place in ("api", "toolbox"):
                emulator.fail(Fault(place, status=503, times=None))
            emulator.fail(Fault("preview", status=status, times=None, headers={"Location": "http://login.example/"}))
            lose_link(interpreter)
            threading.Event().wait(12)  # longer than a refusal that counts may last
            emulator.heal()

        with meanwhile(interpreter, outage):
            text = interpreter.execute("begun()\nfor i in range(30):\n    n += 1; time.sleep(0.5)\nprint(n)")
        assert text == "30\n"


def test_a_sandbox_out_of_memory_is_told_when_the_service_notices(
    interpreter: KernelInterpreter, daytona: Service
) -> None:
    """All processes are dead and the state is started for minutes, without a reason: the error names a likely one."""
    interpreter.execute("x = 1")
    made, sandbox = daytona.only["id"], running(interpreter)

    def kill() -> None:
        daytona.emulator.out_of_memory(made)
        until(lambda: sandbox._preview_silent, "a look at it")
        daytona.emulator.advance(160)

    with meanwhile(interpreter, kill), pytest.raises(CodeInterpreterError) as caught:
        interpreter.execute("begun(); import time; time.sleep(60)")
    assert "SandboxGone: the Daytona sandbox was deleted" in str(caught.value)
    assert "it may have run out of its 1 GiB of memory" in str(caught.value)


def test_a_dead_daemon_is_waited_for_as_long_as_a_lost_link(daytona: Service) -> None:
    """The state stays started: after the resume lifetime, the error has the last response."""
    with KernelInterpreter(sandbox=DaytonaSandbox(resume_lifetime=3)) as interpreter:
        interpreter.execute("x = 1")
        made = daytona.only["id"]
        kill = meanwhile(interpreter, lambda: daytona.emulator.kill_daemon(made))
        with kill, pytest.raises(CodeInterpreterError, match=r"TunnelLost: .*HTTP 502"):
            interpreter.execute("begun(); import time; time.sleep(60)")


@pytest.fixture
def vm(daytona: Service) -> Iterator[DaytonaSandbox]:
    """A sandbox of a class that can be paused."""
    daytona.ask("POST", "/snapshots", {"name": "vm", "imageName": "python:3.12-slim", "sandboxClass": "linux-vm"})
    until(lambda: daytona.ask("GET", "/snapshots/vm")["state"] == "active", "the snapshot")
    yield DaytonaSandbox(snapshot="vm")
    daytona.ask("DELETE", "/snapshots/vm")


def test_a_paused_sandbox_is_resumed_with_its_kernel(daytona: Service, vm: DaytonaSandbox) -> None:
    """A cell during the pause completes normally, and variables are kept."""
    with KernelInterpreter(sandbox=vm) as interpreter:
        pid = interpreter.execute("import os; x = 42; os.getpid()")
        made, states = daytona.only["id"], []

        def pause() -> None:
            states.append(daytona.ask("POST", f"/sandbox/{made}/pause")["state"])

        with meanwhile(interpreter, pause):
            assert interpreter.execute("begun(); import time; time.sleep(1); print('went on')") == "went on\n"
        assert states == ["pausing"]
        assert interpreter.execute("x, os.getpid()") == (42, pid)
        assert daytona.only["state"] == "started"


def test_a_sandbox_that_was_left_and_paused_is_taken_up(daytona: Service, vm: DaytonaSandbox) -> None:
    """It stays paused without a request, although the clock advances."""
    first = KernelInterpreter(sandbox=vm)
    pid = first.execute("import os; x = 42; os.getpid()")
    session = first.session_id
    first.detach()
    daytona.ask("POST", f"/sandbox/{daytona.only['id']}/pause")
    until(lambda: daytona.only["state"] == "paused", "the pause")
    daytona.emulator.advance(2 * AUTO_STOP_S)
    assert daytona.only["state"] == "paused"
    with KernelInterpreter.attach(session) as interpreter:
        assert interpreter.execute("x, os.getpid()") == (42, pid)
