"""Relay, tunnel and local sandbox as processes: authentication, visibility of secrets, lifetimes."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import psutil
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from daytona_kernel_interp.client.execution_result import ExecutionAborted
from daytona_kernel_interp.errors import KernelDied, SandboxFailed, TunnelLost, WireMismatch
from daytona_kernel_interp.runtime.event_loop import io_loop
from daytona_kernel_interp.sandboxes.base import RelayAddress
from daytona_kernel_interp.sandboxes.local import LocalSandbox
from daytona_kernel_interp.tunnel.tunnel import Tunnel
from daytona_kernel_interp.wire.hello import HELLO_HEADER, SECRET_HEADER, CloseCode, HostHello
from tests.integration.driver import Driver

pytestmark = pytest.mark.kernel

HELLO = HostHello(stream="0" * 32, resume="0" * 64, kernel="", window=1).to_header()


def relay_of(driver: Driver) -> RelayAddress:
    return driver.session.sandbox.address


async def dial(address: RelayAddress, path: str, headers: dict[str, str]) -> Any:
    return await connect(f"{address.url}{path}", additional_headers=headers, proxy=None)


@pytest.mark.parametrize(
    "headers", [{}, {SECRET_HEADER: "guess"}, {SECRET_HEADER: "\u00e9".encode().decode("latin-1")}]
)
async def test_without_the_secret_nobody_attaches(driver: Driver, headers: dict[str, str]) -> None:
    """The relay responds with 401 before any other check."""
    with pytest.raises(InvalidStatus) as caught:
        await dial(relay_of(driver), "/v2/shell", {**headers, HELLO_HEADER: HELLO})
    assert caught.value.response.status_code == 401


async def test_an_unknown_channel_is_not_found(driver: Driver) -> None:
    """A path that is not a channel gets 404."""
    with pytest.raises(InvalidStatus) as caught:
        await dial(relay_of(driver), "/v2/files", {SECRET_HEADER: relay_of(driver).secret})
    assert caught.value.response.status_code == 404


@pytest.mark.parametrize(
    ("hello", "code"),
    [
        ("{}", CloseCode.BAD_HELLO),
        ("[" * 4000, CloseCode.BAD_HELLO),
        (json.dumps({"version": 99, "stream": "0" * 32, "kernel": "", "window": 1}), CloseCode.BAD_HELLO),
        (HostHello("0" * 32, "0" * 64, kernel="", window=1, known=True).to_header(), CloseCode.UNKNOWN_STREAM),
    ],
)
async def test_a_bad_hello_is_closed_with_its_code(driver: Driver, hello: str, code: CloseCode) -> None:
    """A malformed hello, another version and an unknown kernel each have a close code."""
    headers = {SECRET_HEADER: relay_of(driver).secret, HELLO_HEADER: hello}
    socket = await dial(relay_of(driver), "/v2/shell", headers)
    with pytest.raises(ConnectionClosed) as caught:
        await socket.recv()
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == code


async def test_a_broken_frame_ends_its_own_stream_only(driver: Driver) -> None:
    """Garbage on one stream closes that stream; cells of the session continue."""
    headers = {SECRET_HEADER: relay_of(driver).secret, HELLO_HEADER: HELLO}
    socket = await dial(relay_of(driver), "/v2/hb", headers)
    await socket.recv()
    await socket.send(b"\xff" * 20)
    with pytest.raises(ConnectionClosed):
        await socket.recv()
    assert await asyncio.to_thread(driver.value, "1 + 1") == 2


def test_a_relay_that_is_not_there_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed port raises SandboxFailed with the address and without the secret."""
    monkeypatch.setattr("daytona_kernel_interp.tunnel.dialer.DIAL_S", 0.1)
    with pytest.raises(SandboxFailed, match=r"ws://127\.0\.0\.1:1 cannot be reached") as caught:
        io_loop().run(Tunnel.open(RelayAddress("ws://127.0.0.1:1", "the-secret")))
    assert "the-secret" not in str(caught.value)


def test_a_relay_of_another_version_is_named(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error for a host of another wire version has both versions."""
    monkeypatch.setattr("daytona_kernel_interp.wire.hello.HostHello.to_header", lambda _: json.dumps({"version": 1}))
    with pytest.raises(WireMismatch, match="speaks wire version 1, this side 2"):
        io_loop().run(Tunnel.open(relay_of(driver)))


@pytest.mark.parametrize("line", [b'{"id": []}\n', b"[]\n", b"\xff\n", b"x" * (1 << 20) + b"xx"])
async def test_a_hostile_relay_fails_the_session_and_nothing_else(line: bytes) -> None:
    """Any bytes of a relay on its stream end a request with an error, not with an endless wait."""
    from websockets.asyncio.server import ServerConnection, serve

    from daytona_kernel_interp.wire.frames import Frame, FrameType, encode
    from daytona_kernel_interp.wire.hello import RelayHello

    async def hostile(connection: ServerConnection) -> None:
        await connection.send(encode(Frame(FrameType.HELLO, 0, 0, RelayHello("b", 1 << 20).to_payload())))
        await connection.recv()  # the request
        for start in range(0, len(line), 1 << 18):
            await connection.send(encode(Frame(FrameType.DATA, start, 0, line[start : start + (1 << 18)])))
        await connection.close()

    async with serve(hostile, "127.0.0.1", 0, compression=None) as server:
        port = server.sockets[0].getsockname()[1]
        tunnel = await Tunnel.open(RelayAddress(f"ws://127.0.0.1:{port}", "s"))
        with pytest.raises(TunnelLost):
            await asyncio.wait_for(tunnel.signal("k", "interrupt"), 20)
        await tunnel.aclose()


def test_secrets_show_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    """The relay's secret and the kernel's key are in no log, repr, environment of the kernel or command line."""
    caplog.set_level(logging.DEBUG)
    driver = Driver()
    try:
        _look_for_secrets(driver, caplog)
    finally:
        driver.close()


def _look_for_secrets(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    address = relay_of(driver)
    key = json.loads(driver.session.kernel.connection_file.read_text())["key"]
    shown = repr(address) + repr(LocalSandbox(env={"TOKEN": "hush"}))
    shown += json.dumps(driver.value("import os; dict(os.environ)"))
    for process in psutil.Process().children(recursive=True):
        shown += " ".join(process.cmdline())
    shown += caplog.text
    for secret in (address.secret, key, "hush"):
        assert secret not in shown


def test_files_with_keys_are_the_users_alone(driver: Driver) -> None:
    """Connection file and sockets are in a folder that other users cannot enter."""
    folder = driver.session.kernel.connection_file.parent
    assert folder.stat().st_mode & 0o077 == 0


def test_the_kernel_sees_an_allow_listed_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A key, a startup file and an IPython configuration of the host have no effect in the kernel."""
    startup = tmp_path / "startup.py"
    startup.write_text("planted = 'by PYTHONSTARTUP'")
    profile = tmp_path / "ipython" / "profile_default"
    (profile / "startup").mkdir(parents=True)
    (profile / "startup" / "00.py").write_text("planted = 'by IPython'")
    (profile / "ipython_config.py").write_text("c.InteractiveShellApp.exec_lines = ['planted = 1']")
    (tmp_path / "sitecustomize.py").write_text("import builtins; builtins.planted = 'by sitecustomize'")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted")
    monkeypatch.setenv("DAYTONA_API_KEY", "dtn-planted")
    monkeypatch.setenv("PYTHONSTARTUP", str(startup))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    driver = Driver(LocalSandbox(env={"WANTED": "yes"}))
    try:
        environment = driver.value("import os; dict(os.environ)")
        assert environment["WANTED"] == "yes"
        assert "planted" not in json.dumps(environment)
        assert driver.value("'planted' in dir(__builtins__) or 'planted' in globals()") is False
        child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import os; print(os.environ)'])"
        assert "planted" not in driver.text(child + ";")
        relay = psutil.Process(driver.value("import os; os.getppid()"))
        assert "planted" not in json.dumps(relay.environ())
    finally:
        driver.close()


@pytest.mark.parametrize(
    ("code", "exit_code", "words"),
    [
        ("import os; os._exit(3)", 3, "exit code 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9, "signal SIGKILL"),
        ("import ctypes; ctypes.string_at(0)", -11, "signal SIGSEGV"),
    ],
)
def test_a_kernels_death_is_told_with_its_output(own_driver: Driver, code: str, exit_code: int, words: str) -> None:
    """If a kernel dies in a cell, the error has the cause and the published output; the next cell is refused."""
    own_driver.tools["note"] = lambda: None  # its reply proves that the print before it has left the process
    with pytest.raises(ExecutionAborted) as caught:
        own_driver.run(f"print('before')\nnote()\n{code}")
    assert isinstance(caught.value.error, KernelDied)
    assert caught.value.error.exit_code == exit_code
    assert words in str(caught.value)
    assert caught.value.cell.text() == "before\n"
    with pytest.raises(KernelDied):
        own_driver.run("1")


def test_code_that_nothing_interrupts_costs_the_kernel(own_driver: Driver) -> None:
    """For native code that never checks signals, the kernel is killed, and the error reports that."""
    with pytest.raises(
        ExecutionAborted, match="nothing stopped the code, so the kernel was killed; all variables are lost"
    ):
        own_driver.run("import collections, itertools; collections.deque(itertools.repeat(0), maxlen=0)", timeout_s=0.3)


def test_nothing_outlives_a_killed_host(tmp_path: Path) -> None:
    """After the resume lifetime of a killed host, relay, kernel, its children and the folder are gone."""
    script = tmp_path / "host.py"
    script.write_text(
        textwrap.dedent(
            """
            import json, sys, threading
            from daytona_kernel_interp.sandboxes.local import LocalSandbox
            from tests.integration.driver import Driver
            driver = Driver(LocalSandbox(resume_lifetime=1))
            pids = driver.value("import os, subprocess; c = subprocess.Popen(['sleep', '300']); "
                                "[os.getppid(), os.getpid(), c.pid, os.environ['DAYTONA_KERNEL_FOLDER']]")
            print(json.dumps(pids), flush=True)
            threading.Event().wait()
            """
        )
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    host = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root}
    )
    assert host.stdout is not None
    with host:
        *pids, folder = json.loads(host.stdout.readline())
        processes = [psutil.Process(pid) for pid in pids]
        assert Path(folder).exists()
        host.kill()
    _, alive = psutil.wait_procs(processes, timeout=15)
    assert not alive
    assert not Path(folder).exists()


def test_closing_ends_every_process_and_removes_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After aclose() there is no process, no socket and no folder left."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    driver = Driver()
    pids = driver.value(
        "import os, subprocess; c = subprocess.Popen(['sleep', '300']); [os.getppid(), os.getpid(), c.pid]"
    )
    processes = [psutil.Process(pid) for pid in pids]
    driver.close()
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(("dk-", "daytona-kernel-"))] == []


def test_a_second_jupyter_client_can_join(driver: Driver) -> None:
    """An unmodified jupyter_client reads the session's variables through the tunnel, heartbeat included."""
    driver.run("shared = 'from the session'")
    client = BlockingKernelClient()
    client.load_connection_file(str(driver.session.kernel.connection_file))
    client.start_channels()
    try:
        client.wait_for_ready(timeout=20)
        reply = client.execute_interactive("", user_expressions={"x": "shared"}, timeout=20)
        assert reply["content"]["user_expressions"]["x"]["data"]["text/plain"] == "'from the session'"
        assert client.hb_channel.is_beating()
    finally:
        client.stop_channels()
    assert driver.run("pass").background_output == ""


@pytest.mark.parametrize(
    ("sandbox", "words"),
    [
        (LocalSandbox(python="/nonexistent/python"), "did not start with /nonexistent/python"),
        (LocalSandbox(cwd="/nonexistent"), "working folder '/nonexistent' does not exist"),
        (LocalSandbox(python=sys.executable, env={"PYTHONHOME": "/nonexistent"}), "its relay ended with exit code"),
    ],
)
def test_a_sandbox_that_cannot_start_says_why(sandbox: LocalSandbox, words: str) -> None:
    """One sentence names the request and the reason."""
    with pytest.raises(SandboxFailed, match=words):
        io_loop().run(sandbox.start())
