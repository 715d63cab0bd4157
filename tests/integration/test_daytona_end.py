"""What becomes of a sandbox at an emulated Daytona when the process that made it ends."""

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
    """That of a process that was killed, and its session with it; not that of this one."""
    host = hosts.start(RUNS, daytona.emulator.environment())
    assert host.line() == "ready"
    (lost,) = (sandbox["id"] for sandbox in daytona.sandboxes)
    with KernelInterpreter() as interpreter:
        interpreter.start()
        assert cli.main(["gc", "--yes"]) == 0
        assert "No sandbox at Daytona is lost" in capfd.readouterr().err
        host.send_signal(signal.SIGKILL)
        host.wait()
        assert cli.main(["ls"]) == 0
        assert f"process {host.pid}, gone" in capfd.readouterr().out
        assert cli.main(["gc", "--yes"]) == 0
        shown = capfd.readouterr()
        assert lost in shown.out
        assert "Deleted 1." in shown.err
        until(lambda: len(daytona.sandboxes) == 1, "the lost one's end")
        assert [record.id for record in list_records()] == [
            interpreter.session_id
        ]  # no process can attach to the other
        assert interpreter.execute("1 + 1") == 2
