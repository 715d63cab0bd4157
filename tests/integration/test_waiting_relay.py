"""A relay that waits for its start request, as in the sandbox image: its status file, accepted hosts, and leftovers."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import daytona_kernel_interp
from daytona_kernel_interp import KernelInterpreter, RelaySandbox
from daytona_kernel_interp.sandboxes.daytona.probe_script import ENTRYPOINTS
from tests.integration.daytona_service import until

if TYPE_CHECKING:
    from collections.abc import Iterator

ORDER = {"lifetime_s": 60, "environment": {"OMP_NUM_THREADS": "3", "HOME": "/not/taken"}, "port": 0}


class Waiting:
    """A waiting relay and its socket."""

    def __init__(self, folder: Path, module: str = "guest.relay.entrypoint") -> None:
        self.path = folder / "own" / "waiting"
        # Its log is not read: it is for users who start it manually.
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"daytona_kernel_interp.{module}"],
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "DAYTONA_KERNEL_WAITING": str(self.path)},
            stderr=subprocess.DEVNULL,
        )
        until(self.listens, "its socket")

    def listens(self) -> bool:
        """Return whether it accepts connections; the socket's file exists a moment earlier."""
        with socket.socket(socket.AF_UNIX) as made:
            return made.connect_ex(str(self.path)) == 0

    def say(self, line: bytes) -> tuple[dict[str, Any], bytes]:
        """Return the greeting and the reply to one line."""
        with socket.socket(socket.AF_UNIX) as made:
            made.settimeout(20)
            made.connect(str(self.path))
            with made.makefile("rwb") as lines:
                greeting = json.loads(lines.readline())
                lines.write(line)
                lines.flush()
                made.shutdown(socket.SHUT_WR)
                return greeting, lines.readline()


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[Waiting]:
    made = Waiting(tmp_path)
    yield made
    made.process.terminate()
    made.process.wait(20)


def test_the_first_order_is_the_one_that_counts(waiting: Waiting) -> None:
    """Malformed requests are ignored; the reply has a new secret of the relay, and then the socket is gone."""
    package = Path(daytona_kernel_interp.__file__).parent
    assert stat.S_IMODE(waiting.path.parent.stat().st_mode) == 0o700
    for noise in (b"", b"noise\n", b"[1]\n", b"x" * 100_000):
        assert waiting.say(noise) == ({"package": str(package)}, b"")
    answer = json.loads(waiting.say(json.dumps(ORDER).encode() + b"\n")[1])
    assert not waiting.path.exists()
    assert (answer["pid"], len(answer["secret"])) == (waiting.process.pid, 43)
    sandbox = RelaySandbox(f"ws://127.0.0.1:{answer['port']}", answer["secret"])
    with KernelInterpreter(sandbox=sandbox) as interpreter:
        told = interpreter.execute("import os; [os.environ[name] for name in ('OMP_NUM_THREADS', 'HOME')]")
        assert told == ["3", str(waiting.path.parent.parent)]
    waiting.process.terminate()
    assert waiting.process.wait(20) == 0
    assert not Path(answer["folder"]).exists()


def test_the_former_module_name_starts_the_same_relay(tmp_path: Path) -> None:
    """Dockerfiles that name ``guest.entrypoint`` work, and the probe finds the process of such an image."""
    waiting = Waiting(tmp_path, "guest.entrypoint")
    try:
        greeting, _ = waiting.say(b'{"end": true}\n')
        assert greeting == {"package": str(Path(daytona_kernel_interp.__file__).parent)}
        assert waiting.process.wait(20) == 0
    finally:
        waiting.process.kill()
        waiting.process.wait(20)
    assert "daytona_kernel_interp.guest.entrypoint" in ENTRYPOINTS


@pytest.mark.parametrize("how", ["an order", "SIGTERM"])
def test_one_that_is_not_needed_ends(waiting: Waiting, how: str) -> None:
    """It ends with its kernel process and leaves no socket."""
    if how == "SIGTERM":
        waiting.process.terminate()
    else:
        waiting.say(b'{"end": true}\n')
    assert waiting.process.wait(20) == 0
    assert not waiting.path.exists()
