"""Peculiarities of Daytona, its SDK and images that must not affect users."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from daytona_kernel_interp import DaytonaSandbox, KernelInterpreter
from daytona_kernel_interp.interpreter.interpreter import CodeInterpreterError
from daytona_kernel_interp.sandboxes.daytona.sandbox import thread_variables
from daytona_kernel_interp.testing import DaytonaEmulator, Fault, commands, sessions, world
from tests.access import session_of
from tests.integration.daytona_service import Service, until

if TYPE_CHECKING:
    from pathlib import Path

BUSY = '{"message": "Sandbox state change in progress"}'
UPLOADED = DaytonaSandbox(upload=True)


def answer(sandbox: DaytonaSandbox = UPLOADED) -> Any:
    with KernelInterpreter(sandbox=sandbox) as interpreter:
        return interpreter.execute("6 * 7")


@pytest.mark.parametrize("status", [400, 409])
def test_a_stop_is_tried_again_while_the_service_is_busy(
    daytona: Service, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A stop is retried for the observed messages of both statuses, without a log of a failure."""
    caplog.set_level(logging.WARNING, logger="daytona_kernel_interp.sandboxes")
    daytona.emulator.fail(Fault("api", "stopSandbox", status=status, body=BUSY, times=2))
    assert answer(DaytonaSandbox(keep=True)) == 42
    until(lambda: daytona.only["state"] == "stopped", "the stop")
    assert caplog.records == []
    daytona.ask("DELETE", f"/sandbox/{daytona.only['id']}")


NO_LIMITS = Fault("api", "createSandbox", status=400, body='{"message": "ttlMinutes should not exist"}')


def test_a_service_without_limits_to_whole_lives_will_do(daytona: Service) -> None:
    """A default limit is omitted if it is not supported; a requested one raises an error."""
    daytona.emulator.fail(NO_LIMITS)
    with KernelInterpreter() as interpreter:
        assert interpreter.execute("6 * 7") == 42
        assert daytona.only["autoDestroyAt"] is None
    daytona.emulator.fail(NO_LIMITS)
    with pytest.raises(CodeInterpreterError, match="ttlMinutes should not exist"):
        answer(DaytonaSandbox(ttl_minutes=60))


def test_a_users_alarm_is_left_alone(daytona: Service) -> None:
    """The SDK's sync client uses SIGALRM in the main thread; a timer of the user is not affected."""
    assert threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    timer = signal.setitimer(signal.ITIMER_REAL, 1000)
    try:
        handler = signal.getsignal(signal.SIGALRM)
        assert answer() == 42
        assert signal.getsignal(signal.SIGALRM) is handler
        assert 900 < signal.getitimer(signal.ITIMER_REAL)[0] <= 1000
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)


def test_it_starts_from_any_thread(daytona: Service) -> None:
    """In other threads the sync client would raise exceptions."""
    answers: list[Any] = []
    worker = threading.Thread(target=lambda: answers.append(answer()))
    worker.start()
    worker.join()
    assert answers == [42]


def test_a_home_that_shells_trip_over_will_do(daytona: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of the home folder may have any characters."""
    name = "a home with 'quotes', $(spaces) and *"
    monkeypatch.setattr(world.Box, "home", property(lambda box: box.folder / name))
    with KernelInterpreter(sandbox=UPLOADED) as interpreter:
        ours = interpreter.execute("import daytona_kernel_interp; daytona_kernel_interp.__file__")
        assert f"/{name}/.daytona-kernel-" in ours
        assert interpreter.execute("import os; os.getcwd()").endswith(name)


def test_a_home_that_cannot_be_used_is_not_needed(daytona: Service) -> None:
    """Uploads then go to the temporary folder."""
    with KernelInterpreter(sandbox=DaytonaSandbox(upload=True, env_vars={"HOME": "/proc/no/such/home"})) as interpreter:
        ours = interpreter.execute("import daytona_kernel_interp; daytona_kernel_interp.__file__")
        assert ours.startswith(interpreter.execute("import os; os.environ['TMPDIR']"))


def test_a_shell_of_other_rules_will_do(daytona: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default snapshot has zsh, where a pattern without a match is an error."""
    shell = tmp_path / "shell"
    shell.write_text("#!/bin/sh\nexec bash -O failglob\n")
    shell.chmod(0o700)
    for module in (commands, sessions):
        monkeypatch.setattr(module, "shell", lambda: str(shell))
    assert answer() == 42


def test_threads_are_as_many_as_the_sandbox_has_cores() -> None:
    """``os.cpu_count()`` returns the CPUs of the whole machine."""
    for cpu, count in ((1, "1"), (4, "4"), (0.5, "1")):
        found = thread_variables(SimpleNamespace(cpu=cpu))  # type: ignore[arg-type]
        assert found["OMP_NUM_THREADS"] == count
        assert set(found.values()) == {count}


def test_what_an_older_sdk_would_drop_is_told(daytona: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """It silently omits unknown options, so that the sandbox would be in another region."""
    from daytona import CreateSandboxFromSnapshotParams

    monkeypatch.delitem(CreateSandboxFromSnapshotParams.model_fields, "target")
    with pytest.raises(CodeInterpreterError, match="has no option target: install a newer one"):
        answer(DaytonaSandbox(target="eu"))


def cut(interpreter: KernelInterpreter) -> None:
    """Abort all sockets of the link."""
    for stream in session_of(interpreter).tunnel.streams:
        if stream.carrier.socket is not None:
            stream.carrier.socket.abort()


def test_old_servers_that_refuse_by_a_redirect(monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed token gets 307 to a login page; the client then uses the new one."""
    with DaytonaEmulator(generation="old", busy_status=400) as emulator:
        for name, value in emulator.environment().items():
            monkeypatch.setenv(name, value)
        service = Service(emulator)
        with KernelInterpreter() as interpreter:
            interpreter.execute("x = 42")
            emulator.rotate_token(service.only["id"])
            emulator.forget_tokens()
            cut(interpreter)
            assert interpreter.execute("x") == 42
        assert service.nothing_left()


@pytest.mark.parametrize("state", ["snapshotting", "something_new"])
def test_what_the_service_does_with_a_sandbox_is_waited_for(
    daytona: Service, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The host keeps waiting in states in which the kernel may be alive."""
    with KernelInterpreter() as interpreter:
        interpreter.execute("x = 42")
        body = json.dumps({**daytona.only, "state": state})
        headers = {"Content-Type": "application/json"}
        daytona.emulator.fail(Fault("api", "getSandbox", status=200, body=body, headers=headers))
        daytona.emulator.fail(Fault("preview", status=502))
        cut(interpreter)
        assert interpreter.execute("x") == 42
    assert "and may come back" in caplog.text


def test_a_python_that_is_nobodys_default(daytona: Service) -> None:
    """The named Python runs relay and kernel."""
    with KernelInterpreter(sandbox=DaytonaSandbox(python=sys.executable)) as interpreter:
        assert os.path.samefile(interpreter.execute("import sys; sys.executable"), sys.executable)
