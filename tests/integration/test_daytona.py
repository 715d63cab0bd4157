"""Kernels in sandboxes of an emulated Daytona on loopback, through the real SDK."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dspy
import pytest

from daytona_kernel_interp import DaytonaSandbox, KernelInterpreter
from daytona_kernel_interp.demo.script import ScriptedStep, scripted_lm
from daytona_kernel_interp.errors import SandboxFailed
from daytona_kernel_interp.interpreter.interpreter import CodeInterpreterError, FinalOutput
from daytona_kernel_interp.sandboxes.daytona import create as starting
from daytona_kernel_interp.sandboxes.daytona.probe import ProbeResult
from daytona_kernel_interp.testing import DaytonaEmulator, Fault
from daytona_kernel_interp.testing.processes import can_isolate
from tests.access import session_of
from tests.integration.daytona_service import WAIT_S, Service, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.hosts import Hosts


@pytest.fixture
def interpreter(daytona: Service) -> Iterator[KernelInterpreter]:
    with KernelInterpreter({"add": lambda a, b: a + b}) as made:
        yield made


# --- a session ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isolated", [True, False])
def test_a_key_in_the_environment_is_all_it_needs(isolated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells, state, tools, values, interrupts and SUBMIT in a sandbox, with a loopback of its own or not."""
    if isolated and not can_isolate():
        pytest.skip("`unshare -rn` does not work here")
    with DaytonaEmulator(isolated=isolated) as emulator:
        for name, value in emulator.environment().items():
            monkeypatch.setenv(name, value)
        service = Service(emulator)
        with KernelInterpreter({"add": lambda a, b: a + b}, execution_timeout=20) as interpreter:
            assert interpreter.execute("x = add(40, b=2); print(x)") == "42\n"
            assert interpreter.execute("x + len(data)", {"data": b"12"}) == 44
            assert interpreter.execute("import os; os.environ.get('DAYTONA_API_KEY')") in (None, "")
            assert interpreter.execute("SUBMIT(x)") == FinalOutput({"output": 42})
            assert service.only["id"] == interpreter.execute("os.environ['DAYTONA_SANDBOX_ID']")
        assert service.nothing_left()


def test_an_rlm_works_in_a_sandbox(daytona: Service) -> None:
    """dspy.RLM with a scripted model."""
    steps = [ScriptedStep("Look.", "n = len(text); print(n)"), ScriptedStep("Answer.", "SUBMIT(str(n))")]
    rlm: Any = dspy.RLM
    with KernelInterpreter() as interpreter, dspy.context(lm=scripted_lm(steps)):
        assert rlm("text -> answer", interpreter=interpreter)(text="x" * 1000).answer == "1000"


def test_the_relay_is_uploaded_where_it_is_missing(daytona: Service) -> None:
    """The kernel runs from the uploaded file, not from this machine's package."""
    with KernelInterpreter(sandbox=DaytonaSandbox(upload=True)) as interpreter:
        path = interpreter.execute("import daytona_kernel_interp; daytona_kernel_interp.__file__")
        assert ".zip/daytona_kernel_interp/" in path
        assert interpreter.execute("2 + 2") == 4


def test_what_a_sandbox_is_asked_for(daytona: Service) -> None:
    """Labels name the owner, automatic stop and deletion are set, and variables and threads fit the sandbox."""
    wanted = DaytonaSandbox(
        env_vars={"COLOUR": "red"}, labels={"team": "a"}, ttl_minutes=60, resume_lifetime=600, target="eu"
    )
    with KernelInterpreter(sandbox=wanted) as interpreter:
        assert interpreter.execute("import os; os.environ['COLOUR'], os.environ['OMP_NUM_THREADS']") == ("red", "1")
        made = daytona.only
        assert made["labels"]["team"] == "a"
        assert {"daytona-kernel", "daytona-kernel-machine", "daytona-kernel-process"} < set(made["labels"])
        assert made["autoDestroyAt"] is not None
        assert (made["autoStopInterval"], made["autoDeleteInterval"]) == (15, 0)
        assert not made["public"]


def test_no_secret_is_to_be_seen_in_the_sandbox(interpreter: KernelInterpreter, daytona: Service) -> None:
    """Key, token and the relay's secret are not in arguments, environments or remaining files."""
    interpreter.start()
    address = session_of(interpreter).sandbox.address
    code = """
import os, pathlib
seen = []
for process in pathlib.Path("/proc").glob("[0-9]*"):
    for name in ("cmdline", "environ"):
        try:
            data = (process / name).read_bytes()
        except OSError:
            continue
        if b"daytona_kernel_interp.guest" in (process / "cmdline").read_bytes():
            seen.append(data)
for path in pathlib.Path.home().rglob("*"):
    if path.is_file() and path.suffix == ".json" and "start" in path.name:
        seen.append(path.read_bytes())
b"".join(seen).decode("latin-1")
"""
    seen = interpreter.execute(code)
    assert "daytona_kernel_interp.guest" in seen
    for secret in (address.secret, *address.headers.values(), daytona.emulator.api_key):
        assert secret not in seen
        assert secret not in repr(address)


def test_a_kept_sandbox_is_stopped_and_not_deleted(daytona: Service) -> None:
    """It has no automatic deletion, and its disk is kept."""
    with KernelInterpreter(sandbox=DaytonaSandbox(keep=True)) as interpreter:
        interpreter.execute("1")
        made = daytona.only
        assert made["autoDeleteInterval"] != 0
    until(lambda: daytona.only["state"] == "stopped", "the stop")
    daytona.ask("DELETE", f"/sandbox/{made['id']}")


# --- faults during a session --------------------------------------------------------------------------------


def relay_pid(interpreter: KernelInterpreter) -> int:
    """Return the relay's process id on this machine: it is the kernel's parent."""
    pid = interpreter.execute("import os; os.getppid()")
    assert isinstance(pid, int)
    return pid


def test_a_relay_that_is_killed_is_started_again(interpreter: KernelInterpreter) -> None:
    """The toolbox starts it again; the kernel keeps its variables, and the running cell completes normally.

    Files with names of modules in its folder have no effect.
    """
    interpreter.execute("x = 1; open('json.py', 'w').write('1 / 0')")
    pid = relay_pid(interpreter)
    cell = f"import os, time; os.kill({pid}, 9); time.sleep(1); print('after'); x"
    assert interpreter.execute(cell) == "after\n1"
    assert interpreter.execute("x + 1") == 2
    assert relay_pid(interpreter) != pid


@pytest.mark.parametrize("how", ["stop", "delete"])
def test_a_sandbox_that_goes_away_is_told_at_once(interpreter: KernelInterpreter, daytona: Service, how: str) -> None:
    """If it is stopped or deleted during a cell, one error reports that, long before the end of the resume lifetime."""
    interpreter.execute("x = 1")
    made = daytona.only["id"]
    begun, end = threading.Event(), {}
    interpreter.tools["begun"] = begun.set

    def go_away() -> None:
        begun.wait(WAIT_S)
        end[how] = daytona.ask(
            *(("POST", f"/sandbox/{made}/stop") if how == "stop" else ("DELETE", f"/sandbox/{made}"))
        )

    helper = threading.Thread(target=go_away)
    helper.start()
    with pytest.raises(CodeInterpreterError, match=r"SandboxGone: the Daytona sandbox (was deleted|is stopp)"):
        interpreter.execute("begun()\nimport time\ntime.sleep(60)")
    helper.join()
    with pytest.raises(CodeInterpreterError, match=r"inspect\(\): SandboxGone: the Daytona sandbox"):
        interpreter.inspect()


def test_a_new_token_is_taken_up(interpreter: KernelInterpreter, daytona: Service) -> None:
    """A link that breaks after a change of the token is resumed with the new one."""
    interpreter.execute("x = 1")
    emulator = daytona.emulator
    emulator.rotate_token(daytona.only["id"])
    emulator.forget_tokens()
    emulator.fail(Fault("preview", cut_after_bytes=0, times=4))
    for stream in session_of(interpreter).tunnel.streams:
        if stream.carrier.socket is not None:
            stream.carrier.socket.abort()
    assert interpreter.execute("x") == 1


def test_tokens_refused_at_the_start_are_waited_for(daytona: Service) -> None:
    """A preview that refuses a good token for some seconds does not fail a start."""
    daytona.emulator.fail(Fault("preview", status=401, body='{"message": "unauthorized"}', times=5))
    with KernelInterpreter() as interpreter:
        assert interpreter.execute("1 + 1") == 2


def test_a_redirect_to_a_login_page_is_a_refusal(daytona: Service) -> None:
    """Old servers refuse with a redirect; the client sends nothing to its target."""
    elsewhere = {"Location": "http://127.0.0.1:9/login"}
    daytona.emulator.fail(Fault("preview", status=307, headers=elsewhere, times=3))
    with KernelInterpreter() as interpreter:
        assert interpreter.execute("1 + 1") == 2


# --- starts that fail ---------------------------------------------------------------------------------------


def failure(sandbox: DaytonaSandbox | None = None) -> str:
    """Return the error text of a start that must fail."""
    with pytest.raises(CodeInterpreterError) as caught:
        KernelInterpreter(sandbox=sandbox or DaytonaSandbox()).start()
    return str(caught.value)


def test_a_start_that_takes_too_long_says_so(daytona: Service) -> None:
    """After the timeout, the created sandbox is deleted."""
    daytona.emulator.fail(Fault("toolbox", "executeCommand", hang=True))
    assert "after 1 s" in failure(DaytonaSandbox(start_timeout=1))


def test_what_the_user_has_to_mend_is_told_in_a_sentence(daytona: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, a wrong key, an unknown snapshot, no quota, no Python, no API, no Daytona there, no address."""
    said = failure(DaytonaSandbox(snapshot="nowhere"))
    assert "Snapshot nowhere not found" in said
    assert "build one with `daytona-kernel image build`" in said
    assert "the Daytona sandbox has no 'python9'" in failure(DaytonaSandbox(python="python9"))
    quota = '{"message": "Total memory limit exceeded. Maximum allowed: 10GiB."}'
    daytona.emulator.fail(Fault("api", "createSandbox", status=403, body=quota))
    said = failure()
    assert "a limit of the organisation is reached" in said
    assert "Total memory limit exceeded" in said
    daytona.emulator.fail(Fault("api", "createSandbox", status=200, body="<html>a login page</html>"))
    assert "sent an answer that is not the API's: check DAYTONA_API_URL" in failure()
    monkeypatch.setenv("DAYTONA_API_URL", "app.daytona.io")
    assert "DAYTONA_API_URL must be a URL such as" in failure()
    monkeypatch.setenv("DAYTONA_API_URL", daytona.emulator.api_url)
    monkeypatch.setenv("DAYTONA_API_KEY", "dtn_wrong")
    assert "does not accept the key in DAYTONA_API_KEY" in failure()
    monkeypatch.setenv("DAYTONA_API_URL", "http://127.0.0.1:9/api")
    assert "its API at http://127.0.0.1:9/api is unreachable" in failure()
    monkeypatch.delenv("DAYTONA_API_KEY")
    assert "No key for Daytona: set DAYTONA_API_KEY" in failure()


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Provide a Python without installed packages."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return str(folder / "bin" / "python")


def test_a_python_without_packages_and_pip_is_told(daytona: Service, bare_python: str) -> None:
    """Without pip and uv, the image must have the missing packages."""
    said = failure(DaytonaSandbox(python=bare_python, env_vars={"PATH": "/usr/bin:/bin"}))
    assert "ipykernel and websockets could not be installed" in said
    assert "it has neither pip nor uv" in said


@pytest.mark.skipif(shutil.which("uv", path=str(Path(sys.executable).parent)) is None, reason="uv is not beside Python")
def test_packages_that_cannot_be_fetched_are_told(daytona: Service, bare_python: str) -> None:
    """The sandbox's network is blocked: the error has the installer's output."""
    nowhere = "http://127.0.0.1:9"
    env = {"UV_INDEX_URL": nowhere, "UV_DEFAULT_INDEX": nowhere, "UV_HTTP_TIMEOUT": "1", "UV_NO_CACHE": "1"}
    said = failure(DaytonaSandbox(python=bare_python, env_vars={**env, "UV_HTTP_RETRIES": "0"}, network_block_all=True))
    assert "the sandbox's network is blocked (network_block_all)" in said
    assert "127.0.0.1:9" in said


def test_a_sandbox_without_a_way_out_works_where_nothing_is_missing(daytona: Service) -> None:
    """With network_block_all, toolbox and preview still work."""
    if not can_isolate():
        pytest.skip("`unshare -rn` does not work here")
    with KernelInterpreter(sandbox=DaytonaSandbox(network_block_all=True)) as interpreter:
        assert interpreter.execute("1 + 1") == 2


def take_port() -> socket.socket:
    """Occupy a port of this machine's loopback that previews can access."""
    for port in range(5000, 6000):
        try:
            return socket.create_server(("127.0.0.1", port))
        except OSError:
            continue
    raise AssertionError("no port is free")


def test_a_port_that_is_taken_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A requested port in use is an error; otherwise another one is selected."""
    with DaytonaEmulator(isolated=False) as emulator, take_port() as taken:
        port = taken.getsockname()[1]
        for name, value in emulator.environment().items():
            monkeypatch.setenv(name, value)
        said = failure(DaytonaSandbox(port=port))
        assert f"port {port} is taken in the Daytona sandbox: choose another with DaytonaSandbox(port=...)" in said
        assert Service(emulator).nothing_left()


def test_an_old_python_is_told() -> None:
    """The error has its version and the remedy."""
    found = ProbeResult(
        python="python3",
        version=(3, 8),
        missing=(),
        installed=False,
        folder="/f",
        cwd="/",
        port=4290,
    )
    with pytest.raises(SandboxFailed, match=r"has Python 3\.8 .* needs 3\.10"):
        starting.check_python(found, DaytonaSandbox())


def test_a_sandbox_without_a_python_is_told(daytona: Service, tmp_path: Path) -> None:
    """Without a Python under any name, the start fails and the sandbox is deleted."""
    for name in ("sh", "cat"):
        (tmp_path / name).symlink_to(shutil.which(name) or "")
    said = failure(DaytonaSandbox(env_vars={"PATH": str(tmp_path)}))
    assert "the Daytona sandbox has no Python: choose an image or snapshot that has one" in said


def test_a_failed_build_shows_the_end_of_its_log(daytona: Service) -> None:
    """The error has the last lines of the build log."""
    from daytona import Image

    daytona.emulator.fail_builds_with("no-such-package")
    image = Image.base("python:3.12-slim").pip_install("no-such-package")
    said = failure(DaytonaSandbox(image=image))
    assert "no-such-package" in said
    assert "returned a non-zero code" in said


def test_a_snapshot_named_in_the_environment_is_used(daytona: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """DAYTONA_KERNEL_SNAPSHOT names the default."""
    monkeypatch.setenv("DAYTONA_KERNEL_SNAPSHOT", "daytona-medium")
    with KernelInterpreter() as interpreter:
        interpreter.start()
        assert daytona.only["snapshot"] == "daytona-medium"


# --- another host -------------------------------------------------------------------------------------------

HOST = """
import sys, time
from daytona_kernel_interp import KernelInterpreter
interpreter = KernelInterpreter()
interpreter.execute("x = 42")
print(interpreter.session_id, flush=True)
interpreter.execute("import time; time.sleep(1); print('went on')")
"""


def test_a_session_whose_host_was_killed_is_taken_up(daytona: Service, hosts: Hosts) -> None:
    """This process attaches: the running cell has ended with its output, and the sandbox's labels name this process."""
    host = hosts.start(HOST, daytona.emulator.environment())
    session = host.line()
    host.send_signal(signal.SIGKILL)
    host.wait()
    with KernelInterpreter.attach(session) as interpreter:
        assert interpreter.execute("x") == 42
        assert str(os.getpid()) in daytona.only["labels"]["daytona-kernel-process"]
