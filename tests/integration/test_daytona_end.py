"""What becomes of a sandbox at an emulated Daytona when the process that made it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from daytona_kernel_interp import KernelInterpreter, cli
from daytona_kernel_interp.testing import Fault
from tests.integration.daytona_service import WAIT_S, until

if TYPE_CHECKING:
    from tests.integration.daytona_service import Service

ENDS = """
import os, signal, sys, threading, time
from daytona_kernel_interp import KernelInterpreter
interpreter = KernelInterpreter()
interpreter.execute("x = 42")
print("ready", flush=True)
END
"""
MID_START = """
import sys
from daytona_kernel_interp import KernelInterpreter
print("ready", flush=True)
KernelInterpreter().execute("x = 42")
"""


@pytest.mark.parametrize(
    ("end", "number"),
    [
        pytest.param("pass", None, id="it ends"),
        pytest.param("1 / 0", None, id="it raises"),
        pytest.param("interpreter.execute('import time; time.sleep(60)')", signal.SIGTERM, id="SIGTERM in a cell"),
        pytest.param("time.sleep(60)", signal.SIGTERM, id="SIGTERM"),
        pytest.param("interpreter.execute('import time; time.sleep(60)')", signal.SIGINT, id="SIGINT in a cell"),
    ],
)
def test_a_process_that_ends_deletes_its_sandbox(daytona: Service, end: str, number: int | None) -> None:
    """However it ends; the fixture sees that nothing is left, and a signal stays the cause of its death."""
    host = start_host(daytona, ENDS.replace("END", end))
    if number is not None:
        host.send_signal(number)
    code = host.wait(WAIT_S)
    if number == signal.SIGTERM:
        assert code == -signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_ends_while_it_starts_one_deletes_it(daytona: Service, number: int) -> None:
    """The create has been answered, and the sandbox is about to start."""
    daytona.emulator.fail(Fault("start", delay_s=1.0))
    host = start_host(daytona, MID_START)
    until(lambda: bool(daytona.sandboxes), "the sandbox")
    host.send_signal(number)
    host.wait(WAIT_S)


def test_lost_sandboxes_are_listed_and_deleted(daytona: Service, capfd: pytest.CaptureFixture[str]) -> None:
    """That of a process that was killed; not that of this one, nor when the answer is no."""
    host = start_host(daytona, ENDS.replace("END", "time.sleep(60)"))
    (lost,) = (sandbox["id"] for sandbox in daytona.sandboxes)
    with KernelInterpreter() as interpreter:
        interpreter.start()
        assert cli.main(["gc", "--yes"]) == 0
        assert "No sandbox at Daytona is lost" in capfd.readouterr().err
        host.kill()
        host.wait()
        assert cli.main(["ls"]) == 0
        assert f"process {host.pid}, gone" in capfd.readouterr().out
        assert cli.main(["gc", "--yes"]) == 0
        shown = capfd.readouterr()
        assert lost in shown.out
        assert "Deleted 1." in shown.err
        until(lambda: len(daytona.sandboxes) == 1, "the lost one's end")
        assert interpreter.execute("1 + 1") == 2


def start_host(daytona: Service, code: str) -> subprocess.Popen[bytes]:
    """Start a process that uses the emulator, and return when it says that it is ready."""
    host = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **daytona.emulator.environment()},
    )
    assert host.stdout is not None
    with contextlib.closing(host.stdout):
        assert host.stdout.readline() == b"ready\n"
    return host
