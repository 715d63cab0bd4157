"""Daytona's SDK takes seconds to import: a thread imports it once, and a start waits only for the remaining time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import daytona_kernel_interp

if TYPE_CHECKING:
    from tests.integration.daytona_service import Service

ROOT = Path(daytona_kernel_interp.__file__).parent.parent
BEGUN_EARLIER = """
import os, sys, threading
from daytona_kernel_interp.sandboxes.daytona.api import begin_import

def sdk():
    return {name for name in sys.modules if name.partition(".")[0] in ("daytona", "daytona_api_client_async")}

assert not sdk() and threading.active_count() == 1
begin_import()
begin_import()  # it is begun once
(thread,) = [each for each in threading.enumerate() if each.name == "daytona-sdk"]
child = os.fork()  # waits for the import, or the child would hang in its own
if child == 0:
    from daytona import AsyncDaytona
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
thread.join()
before = sdk()
assert before

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        assert name.partition(".")[0] != "daytona", name

sys.meta_path.insert(0, Forbidden())
from daytona_kernel_interp.runtime.event_loop import io_loop
from daytona_kernel_interp.sandboxes.daytona.api import DaytonaAPI

async def connect():
    await (await DaytonaAPI.connect()).aclose()

io_loop().run(connect())
print("ok")
"""


def test_a_start_does_not_wait_for_an_import_that_was_begun_earlier(daytona: Service) -> None:
    """A thread imports the SDK once; afterwards, a client is created without another import."""
    command = [sys.executable, "-W", "ignore", "-c", BEGUN_EARLIER]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert (done.stdout, done.returncode) == ("ok\n", 0), done.stderr


NEVER_IMPORTED = """
import threading
print("importing", flush=True)
threading.Event().wait()
"""
STARTS = "from daytona_kernel_interp import KernelInterpreter; KernelInterpreter(sandbox='daytona').start()"


def test_an_interrupt_does_not_wait_for_the_import(tmp_path: Path) -> None:
    """The end of the process does not wait either; here the import never ends."""
    (tmp_path / "daytona").mkdir()
    (tmp_path / "daytona" / "__init__.py").write_text(NEVER_IMPORTED)
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "DAYTONA_API_KEY": "dtn_key"}
    host = subprocess.Popen(
        [sys.executable, "-c", STARTS], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with host:
        assert host.stdout is not None
        assert host.stdout.readline() == "importing\n"
        host.send_signal(signal.SIGINT)
        try:
            _, said = host.communicate(timeout=100)
        finally:
            host.kill()
    assert said.rstrip().endswith("KeyboardInterrupt")
