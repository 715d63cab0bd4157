"""A relay that was started manually, and its hosts."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from daytona_kernel_interp import KernelInterpreter, RelaySandbox
from daytona_kernel_interp.interpreter.interpreter import CodeInterpreterError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOKEN = "a-secret-of-my-own"


@pytest.fixture(params=["guest.relay", "guest"], ids=["name", "former name"])
def url(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """Provide the URL of a relay that was started manually, for each of its module names."""
    order = {"secret": TOKEN, "port": 0, "folder": str(tmp_path), "cwd": str(tmp_path), "lifetime_s": 60}
    relay = subprocess.Popen(
        [sys.executable, "-m", f"daytona_kernel_interp.{request.param}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with relay:
        assert relay.stdin is not None
        assert relay.stdout is not None
        relay.stdin.write(json.dumps(order).encode() + b"\n")
        relay.stdin.flush()
        yield f"http://127.0.0.1:{json.loads(relay.stdout.readline())['port']}"
        relay.terminate()


def test_hosts_come_and_go_and_the_relay_stays(url: str) -> None:
    """Each host gets its own kernel, which ends with the host."""
    pids = []
    for _ in range(2):
        with KernelInterpreter(sandbox=RelaySandbox(url, TOKEN)) as interpreter:
            assert interpreter.execute("'x' in globals()") == "False"
            pids.append(interpreter.execute("x = 1; import os; os.getpid()"))
    assert pids[0] != pids[1]
    with KernelInterpreter(sandbox=RelaySandbox(url, TOKEN)) as interpreter:
        code = "import subprocess; subprocess.run(['kill', '-0', str(pid)], capture_output=True).returncode"
        assert [interpreter.execute(code, {"pid": pid}) for pid in pids] == [1, 1]


def test_a_wrong_token_is_refused_at_once(url: str) -> None:
    """The error does not show the token."""
    with pytest.raises(CodeInterpreterError, match=r"cannot be reached.*401") as caught:
        KernelInterpreter(sandbox=RelaySandbox(url, "wrong-token")).start()
    assert "wrong-token" not in str(caught.value)


@pytest.mark.parametrize("url", ["localhost:1", "ftp://host", "ws://host/path", "ws://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    """One sentence describes the valid form."""
    with pytest.raises(ValueError, match="without a path"):
        RelaySandbox(url, TOKEN)
