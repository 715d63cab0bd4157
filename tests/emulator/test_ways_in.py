"""The interfaces of the emulator: program, pytest fixture, HTTP control, and names for child processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from daytona import Daytona, DaytonaConfig

from daytona_kernel_interp.testing import NAMES_VARIABLE, DaytonaEmulator
from tests.conformance.service import TOKEN_HEADER, hang_up

if TYPE_CHECKING:
    from .conftest import Local

PROJECT = Path(__file__).parents[2]

CHILD = """
import os, sys, httpx
from daytona import Daytona
from daytona_kernel_interp.testing import resolver, resolving
daytona = Daytona()
link = daytona.get(sys.argv[1]).get_preview_link(int(sys.argv[2]))
with resolving(resolver()):
    print(httpx.get(link.url, headers={"X-Daytona-Preview-Token": link.token}, trust_env=False).status_code)
daytona._event_dispatcher.disconnect()
"""

USER_TEST = """
pytest_plugins = ["daytona_kernel_interp.testing.plugin"]

def test_my_code(daytona_emulator):
    from daytona import Daytona
    daytona = Daytona()
    sandbox = daytona.create()
    assert sandbox.process.exec("echo hello").result == "hello\\n"
    sandbox.delete()
    daytona._event_dispatcher.disconnect()
"""


def test_program() -> None:
    """The program prints the variables for clients, serves, and ends on SIGINT with its sandboxes."""
    program = subprocess.Popen(
        [sys.executable, "-m", "daytona_kernel_interp.testing"], stdout=subprocess.PIPE, text=True, cwd=PROJECT
    )
    assert program.stdout is not None
    try:
        lines = [program.stdout.readline() for _ in range(3)]
        variables = dict(re.findall(r"^export (\w+)=(.*)$", "".join(lines), re.MULTILINE))
        headers = {"Authorization": f"Bearer {variables['DAYTONA_API_KEY']}"}
        answer = httpx.post(f"{variables['DAYTONA_API_URL']}/sandbox", json={}, headers=headers, trust_env=False)
        assert answer.status_code == 200
        assert variables[NAMES_VARIABLE] == ".preview.daytona.localhost=127.0.0.1"
    finally:
        program.send_signal(signal.SIGINT)
        assert program.wait(20) == 0
        program.stdout.close()


def test_program_on_a_port_that_is_taken(local: Local) -> None:
    """A port that is in use is reported in one line."""
    port = str(httpx.URL(local.emulator.api_url).port)
    command = [sys.executable, "-m", "daytona_kernel_interp.testing", "--port", port]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=PROJECT)
    assert ended.returncode == 2
    assert "address already in use" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_fixture(tmp_path: Path) -> None:
    """A user's test gets an emulator from the fixture, with the environment set for `Daytona()`."""
    (tmp_path / "test_user.py").write_text(USER_TEST)
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "1 passed" in ended.stdout


def test_names_in_a_child_process(local: Local) -> None:
    """One variable, beside the SDK's own two, lets a child process use previews."""
    made = local.service.server
    ended = subprocess.run(
        [sys.executable, "-c", CHILD, made.id, str(local.service.port)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={**os.environ, **local.emulator.environment()},
    )
    assert ended.stdout == "200\n", ended.stderr


def test_names_in_this_process(local: Local) -> None:
    """The resolver resolves only preview hosts."""
    host = httpx.URL(local.service.server.get_preview_link(3000).url).host
    assert local.emulator.resolve(host) == "127.0.0.1"
    assert local.emulator.resolve("example.com") is None


@pytest.mark.slow
def test_checks_of_a_service_elsewhere(local: Local) -> None:
    """The checks run against a service in another process, here this emulator."""
    some = "test_stop_and_start or test_websocket_order or test_followed_logs or test_bulk"
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/conformance", "-q", "-m", "live", "-p", "no:cacheprovider", "-k", some],
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
        cwd=PROJECT,
        env={**os.environ, **local.emulator.environment()},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "5 passed" in ended.stdout


def test_control_of_faults(local: Local) -> None:
    """Faults are added and cleared over HTTP with a key; malformed requests are refused with the reason."""
    control = f"{local.emulator.control_url}/faults"
    assert local.service.plain.post(control, json={"on": "preview"}).status_code == 401
    key = {"Authorization": f"Bearer {local.emulator.api_key}"}
    wrong = local.service.plain.post(control, json={"on": "preview", "moon": 1}, headers=key)
    assert (wrong.status_code, wrong.json()) == (400, {"message": "a fault has no 'moon'"})
    assert local.service.plain.post(control, content=b"{", headers=key).status_code == 400
    assert local.service.preview("/").status_code == 200
    fault = {"on": "preview", "status": 503, "times": None}
    assert local.service.plain.post(control, json=fault, headers=key).status_code == 200
    assert [local.service.preview("/").status_code for _ in range(2)] == [503, 503]
    assert local.service.plain.delete(control, headers=key).status_code == 200
    assert local.service.preview("/").status_code == 200


def test_control_of_sandboxes_and_time() -> None:
    """Tokens are rotated, processes killed and the clock moved over HTTP."""
    with DaytonaEmulator() as emulator:
        daytona = Daytona(DaytonaConfig(api_key=emulator.api_key, api_url=emulator.api_url))
        headers = {"Authorization": f"Bearer {emulator.api_key}"}
        with httpx.Client(base_url=emulator.control_url, headers=headers, trust_env=False) as control:
            made = daytona.create()
            before = made.get_preview_link(3000)
            assert control.post(f"/sandboxes/{made.id}/rotate-token").status_code == 200
            assert made.get_preview_link(3000).token != before.token
            assert httpx.get(before.url, headers={TOKEN_HEADER: before.token}, trust_env=False).status_code == 401
            assert control.post("/tokens/forget").status_code == 200
            assert control.post(f"/sandboxes/{made.id}/out-of-memory").status_code == 200
            assert control.post("/clock", json={"advance_s": "soon"}).status_code == 400
            assert control.post("/clock", json={"advance_s": 16 * 60}).status_code == 200
            made.refresh_data()
            assert str(made.state.value if made.state else "") in ("stopped", "stopping")
            assert control.post(f"/sandboxes/{made.id}/fly").status_code == 404
            assert control.post("/sandboxes/no-such/kill-daemon").status_code == 404
        hang_up(daytona)


def test_two_at_once() -> None:
    """Two emulators in one process are independent."""
    with DaytonaEmulator() as one, DaytonaEmulator(domain="other.localhost") as two:
        assert one.api_url != two.api_url
        for emulator, other in ((one, two), (two, one)):
            headers = {"Authorization": f"Bearer {other.api_key}"}
            assert httpx.get(f"{emulator.api_url}/sandbox", headers=headers, trust_env=False).status_code == 401
        assert two.resolve("3000-x.other.localhost") == "127.0.0.1"


def test_used_outside_its_block() -> None:
    """Use outside its block raises an error."""
    emulator = DaytonaEmulator()
    with pytest.raises(RuntimeError, match="`with` block"):
        _ = emulator.api_url
    emulator.stop()
    with emulator, pytest.raises(RuntimeError, match="runs already"):
        emulator.start()
    with pytest.raises(ValueError, match="no sandbox"), emulator:
        emulator.kill_daemon("no-such-sandbox")
