"""A sandbox's processes: a home and groups of their own, and none left whatever happens."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from daytona_kernel_interp.testing import DaytonaEmulator, processes
from daytona_kernel_interp.testing.processes import Machine
from tests.conformance.service import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from daytona import Sandbox

    from .conftest import Local

ESCAPE = "setsid nohup sleep 1000 > /dev/null 2>&1 < /dev/null & echo $!"


def escaped(made: Sandbox) -> psutil.Process:
    """Start a process that leaves its session and its parent."""
    made.process.exec(f"({ESCAPE}) > pid")
    process = psutil.Process(int(made.process.exec("cat pid").result))
    assert process.is_running()
    return process


def test_home_of_its_own(local: Local) -> None:
    """Two sandboxes have two homes, where their commands begin."""
    homes = {made.get_user_home_dir() for made in (local.service.shared, local.service.server)}
    assert len(homes) == 2
    assert all(os.path.isdir(home) for home in homes)


def test_groups_of_their_own(local: Local) -> None:
    """A command is the leader of its own group."""
    pid, group = local.service.shared.process.exec(
        "python3 -c 'import os; print(os.getppid(), os.getpgrp())'"
    ).result.split()
    assert pid == group
    assert int(group) != os.getpgrp()


@pytest.mark.parametrize("end", ["stop", "delete"])
def test_none_escapes(local: Local, end: str) -> None:
    """A process that became a daemon ends with its sandbox all the same."""
    with local.service.sandbox() as made:
        process = escaped(made)
        if end == "stop":
            made.stop()
        else:
            made.delete(wait=True)
        assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_home_is_gone_after_delete(local: Local) -> None:
    """Deleting a sandbox deletes its files."""
    with local.service.sandbox() as made:
        home = made.get_user_home_dir()
        assert os.path.isdir(home)
        made.delete(wait=True)
        assert not os.path.exists(home)


def test_end_of_the_emulator(own: Callable[..., Local]) -> None:
    """When the emulator stops, nothing is left: no process and no folder."""
    emulator, service = own()
    process = escaped(service.shared)
    home = service.shared.get_user_home_dir()
    emulator.stop()
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    assert not os.path.exists(home)
    emulator.start()  # and so that the fixture finds it as it was lent
    service.api.base_url = emulator.api_url


KILLED = """
import sys
from daytona import Daytona, DaytonaConfig
from daytona_kernel_interp.testing import DaytonaEmulator
with DaytonaEmulator() as emulator:
    made = Daytona(DaytonaConfig(api_key=emulator.api_key, api_url=emulator.api_url)).create()
    made.process.exec("(setsid nohup sleep 1000 > /dev/null 2>&1 < /dev/null & echo $!) > pid")
    print(made.process.exec("cat pid").result.strip(), flush=True)
    sys.stdin.read()
"""


def test_killed_emulator() -> None:
    """Even when the emulator's own process is killed, its sandboxes end."""
    program = subprocess.Popen([sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    assert program.stdin is not None
    try:
        process = psutil.Process(int(program.stdout.readline()))
    finally:
        program.send_signal(signal.SIGKILL)
        program.wait(10)
        program.stdin.close()
        program.stdout.close()
    until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, "the end of its processes")
    folders = list(Path(tempfile.gettempdir()).glob(f"dki-daytona-{program.pid}-*"))
    assert len(folders) == 1
    with DaytonaEmulator():  # the next one tidies up
        assert not folders[0].exists()


def test_many_at_once(local: Local) -> None:
    """Many sandboxes run side by side, each with its own files."""
    made = [local.service.api.post("/sandbox", json={"labels": {"many": "1"}}).json() for _ in range(20)]
    sandboxes = [local.service.sdk.get(body["id"]) for body in made]
    for number, sandbox in enumerate(sandboxes):
        sandbox.wait_for_sandbox_start()
        sandbox.fs.upload_file(str(number).encode(), "number")
    assert [sandbox.process.exec("cat number").result for sandbox in sandboxes] == [str(n) for n in range(20)]
    for sandbox in sandboxes:
        sandbox.delete()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"generation": "older"}, "'old' or 'new'"),
        ({"busy_status": 500}, "409 or 400"),
        ({"domain": "localhost"}, "with a dot"),
    ],
)
def test_wrong_options(wrong: dict[str, object], says: str) -> None:
    """An option that is none is refused with what is wrong."""
    with pytest.raises(ValueError, match=says):
        DaytonaEmulator(**wrong)  # type: ignore[arg-type]


async def test_whoever_stops_waiting_leaves_no_answer_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request of a cancelled client receives its reply; the reply is discarded and its socket closed."""
    machine = await Machine.start(isolated=False)
    release, left = processes._let_go, []

    def seen(answer: asyncio.Future[tuple[list[str], list[int]]]) -> None:
        sockets = [(fd, os.fstat(fd).st_ino) for fd in answer.result()[1]]
        release(answer)
        left.extend([is_there(fd, inode) for fd, inode in sockets])

    def is_there(fd: int, inode: int) -> bool:
        try:
            return os.fstat(fd).st_ino == inode
        except OSError:
            return False

    monkeypatch.setattr(processes, "_let_go", seen)
    try:
        asking = asyncio.ensure_future(machine.listen())
        while not machine._lock.locked():  # noqa: ASYNC110 - it is sent by then
            await asyncio.sleep(0)
        asking.cancel()
        group, pid = (await machine._ask(["tree", str(machine.pid)]))[0]
        assert (int(group), int(pid)) == (-machine.pid, machine.pid)
        assert left == [False]
    finally:
        await machine.end()
