"""Sandboxes at an emulated Daytona after the end of the process that created them."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from daytona_kernel_interp import KernelInterpreter
from daytona_kernel_interp.cli import command_line as cli
from daytona_kernel_interp.session.session_file import list_records
from tests.integration.daytona_service import until

if TYPE_CHECKING:
    import pytest

    from tests.hosts import Hosts
    from tests.integration.daytona_service import Service

RUNS = """
import time
from daytona_kernel_interp import KernelInterpreter
interpreter = KernelInterpreter()
interpreter.execute("x = 42")
print("ready", flush=True)
time.sleep(60)
"""


def test_lost_sandboxes_are_listed_and_deleted(
    daytona: Service, hosts: Hosts, capfd: pytest.CaptureFixture[str]
) -> None:
    """The sandbox of a killed process and its session are listed and deleted; this process's are not."""
    host = hosts.start(RUNS, daytona.emulator.environment())
    assert host.line() == "ready"
    (lost,) = (sandbox["id"] for sandbox in daytona.sandboxes)
    with KernelInterpreter() as interpreter:
        interpreter.start()
        assert cli.main(["gc", "--yes"]) == 0
        assert "No orphaned sandboxes at Daytona" in capfd.readouterr().err
        host.send_signal(signal.SIGKILL)
        host.wait()
        assert cli.main(["ls"]) == 0
        assert f"process {host.pid}, gone" in capfd.readouterr().out
        assert cli.main(["gc", "--yes"]) == 0
        shown = capfd.readouterr()
        assert lost in shown.out
        assert "Deleted 1." in shown.err
        until(lambda: len(daytona.sandboxes) == 1, "the lost one's end")
        # No process can attach to the other.
        assert [record.id for record in list_records()] == [interpreter.session_id]
        assert interpreter.execute("1 + 1") == 2
