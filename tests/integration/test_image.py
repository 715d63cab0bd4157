"""The sandbox image at an emulated Daytona: builds, starts from it, and omitted steps of a start."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

import pytest

from daytona_kernel_interp import DaytonaSandbox, KernelImage, KernelInterpreter
from daytona_kernel_interp.cli import command_line as cli
from daytona_kernel_interp.interpreter.interpreter import CodeInterpreterError
from daytona_kernel_interp.sandboxes.daytona import create as starting
from daytona_kernel_interp.sandboxes.daytona import guest_archive as runtime
from daytona_kernel_interp.testing import Fault
from daytona_kernel_interp.testing.processes import can_isolate
from tests.integration.daytona_service import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.daytona_service import Service

NOTHING_IS_BROUGHT = (
    Fault("toolbox", "uploadFiles", status=500, times=None),
    Fault("toolbox", "sessionExecuteCommand", status=500, times=None),
)


@pytest.fixture(scope="module")
def snapshot() -> list[str]:
    """Return the name of the snapshot after its build."""
    return []


@pytest.fixture
def built(daytona: Service, snapshot: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    """Provide the name of a snapshot that the command line created."""
    if not snapshot:
        assert cli.main(["image", "build", "--cpu", "2", "--memory", "2", "--disk", "4"]) == 0
        out, err = capfd.readouterr()
        found = re.fullmatch(r"export DAYTONA_KERNEL_SNAPSHOT=(daytona-kernel-\S+)\n", out)
        assert found is not None
        assert "building the snapshot" in err
        assert "FROM python:3.13-slim" in err  # the log of the service
        (made,) = (item for item in daytona.ask("GET", "/snapshots")["items"] if item["name"] == found[1])
        assert (made["cpu"], made["mem"], made["disk"]) == (2, 2, 4)
        snapshot.append(found[1])
    return snapshot[0]


def test_the_image_is_enough_without_a_network(daytona: Service, built: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No upload, install or relay start: the relay of the image serves, and the first cell runs."""
    monkeypatch.setenv("DAYTONA_KERNEL_SNAPSHOT", built)
    for fault in NOTHING_IS_BROUGHT:
        daytona.emulator.fail(fault)
    with KernelInterpreter(sandbox=DaytonaSandbox(network_block_all=can_isolate())) as interpreter:
        assert interpreter.execute("1 + 1") == 2
        relay = "import os, pathlib; pathlib.Path(f'/proc/{os.getppid()}/cmdline').read_text()"
        assert "daytona_kernel_interp.guest.relay.entrypoint" in interpreter.execute(relay)


def test_the_image_needs_no_snapshot(daytona: Service) -> None:
    """The image is built at the create, which needs no permission to create snapshots."""
    daytona.emulator.fail(Fault("api", "createSnapshot", status=403, times=None))
    for fault in NOTHING_IS_BROUGHT:
        daytona.emulator.fail(fault)
    with KernelInterpreter(sandbox=DaytonaSandbox(image=KernelImage())) as interpreter:
        assert interpreter.execute("1 + 1") == 2


def relay_pid(interpreter: KernelInterpreter) -> int:
    pid = interpreter.execute("import os; os.getppid()")
    assert isinstance(pid, int)
    return pid


def test_the_relay_of_the_image_is_replaced_when_it_dies(daytona: Service, built: str) -> None:
    """Another relay replaces it; the kernel stays alive, and threads fit the sandbox."""
    with KernelInterpreter(sandbox=DaytonaSandbox(snapshot=built)) as interpreter:
        assert interpreter.execute("import os; os.environ['OMP_NUM_THREADS']") == "2"
        pid = relay_pid(interpreter)
        cell = f"import time; os.kill({pid}, 9); time.sleep(1); print('after'); os.getpid()"
        kernel = interpreter.execute("os.getpid()")
        assert interpreter.execute(cell) == f"after\n{kernel}"
        assert relay_pid(interpreter) != pid


def test_a_sandbox_of_the_image_that_was_restarted_is_told(daytona: Service, built: str) -> None:
    """Its entrypoint runs again and waits for a host; the new relay does not have the kernel.

    The first relay may have reported its end before.
    """
    with KernelInterpreter(sandbox=DaytonaSandbox(snapshot=built)) as interpreter:
        interpreter.execute("x = 1")
        made = daytona.only["id"]
        record = daytona.emulator.server.world.fleet.by_id(made)
        assert record is not None
        record.auto_delete = -1  # otherwise a stop deletes it
        # The host does not observe the stopped state.
        daytona.emulator.fail(Fault("api", "getSandbox", status=500, times=None))
        daytona.ask("POST", f"/sandbox/{made}/stop")
        until(lambda: record.state.value == "stopped", "the stop")
        daytona.ask("POST", f"/sandbox/{made}/start")
        until(lambda: record.state.value == "started", "the start")
        daytona.emulator.heal()
        with pytest.raises(CodeInterpreterError, match=r"was restarted|received the signal to end"):
            interpreter.execute("x")


@pytest.mark.parametrize("wanted", [{"upload": True}, {"python": "python3"}, {"port": 4321}], ids=str)
def test_a_relay_that_does_not_suit_is_ended(daytona: Service, built: str, wanted: dict[str, Any]) -> None:
    """The host starts another relay, uploaded on request; for a port alone it uses the image's relay."""
    with KernelInterpreter(sandbox=DaytonaSandbox(snapshot=built, **wanted)) as interpreter:
        listed = interpreter.execute(PROCESSES)
        assert isinstance(listed, list)
        assert len(listed) == 1
        assert ("guest.relay.entrypoint" in listed[0]) == ("port" in wanted)


PROCESSES = """
import os, pathlib
lines, home = [], os.environ["HOME"]
for process in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        words = (process / "cmdline").read_text().split("\\0")
        if "-m" in words and f"HOME={home}" in (process / "environ").read_text().split("\\0"):
            lines.append(" ".join(words))
    except OSError:
        pass
[line for line in lines if "guest" in line and "kernel_app" not in line]
"""


def test_a_relay_of_another_version_is_not_used(daytona: Service, built: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a snapshot of an older package, the host uploads its own relay."""
    older = runtime.guest_archive()
    monkeypatch.setattr(starting, "guest_archive", lambda: dataclasses.replace(older, digest="0" * 16))
    with KernelInterpreter(sandbox=DaytonaSandbox(snapshot=built)) as interpreter:
        listed = interpreter.execute(PROCESSES)
        assert isinstance(listed, list)
        assert [("guest.relay.entrypoint" in line) for line in listed] == [False]


# --- builds -------------------------------------------------------------------------------------------------


@pytest.fixture
def names(daytona: Service) -> Callable[[], list[str]]:
    return lambda: [item["name"] for item in daytona.ask("GET", "/snapshots")["items"]]


def test_a_snapshot_that_is_there_is_used(daytona: Service, built: str, capfd: pytest.CaptureFixture[str]) -> None:
    """The same recipe is not built twice."""
    assert cli.main(["image", "build"]) == 0
    out, err = capfd.readouterr()
    assert built in out
    assert "The snapshot existed already" in err


def test_a_failed_build_shows_its_end_and_leaves_nothing(
    daytona: Service, names: Callable[[], list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    """The error has the last lines of the log, and no snapshot remains."""
    before = names()
    daytona.emulator.fail_builds_with("no-such-package")
    assert cli.main(["image", "build", "--package", "no-such-package", "--name", "bad"]) == 1
    error = capfd.readouterr().err.partition("daytona-kernel: ")[2]
    assert "did not build the snapshot bad" in error
    assert "no-such-package' returned a non-zero code" in error.partition("The last lines of its build:")[2]
    assert max(map(len, error.splitlines())) < 500  # although the Dockerfile has complete files in it
    assert names() == before


def test_a_snapshot_that_was_there_before_is_not_deleted(
    daytona: Service, names: Callable[[], list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    """A failed build does not delete an existing snapshot of that name, also if Daytona does not report it."""
    assert cli.main(["image", "build", "--name", "precious"]) == 0
    before = names()
    daytona.emulator.fail(Fault("api", "createSnapshot", status=502, times=None))
    assert cli.main(["image", "build", "--name", "precious"]) == 0
    daytona.emulator.fail(Fault("api", "getSnapshot", status=403, times=1))
    assert cli.main(["image", "build", "--name", "precious"]) == 1
    assert "did not build the snapshot precious" in capfd.readouterr().err
    assert names() == before


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault("api", "createSnapshot", status=403), "can still use DaytonaSandbox(image=KernelImage())"),
        (Fault("api", "createSnapshot", status=401), "does not accept the key in DAYTONA_API_KEY"),
        (Fault("api", "createSnapshot", status=502, after=True), "did not build the snapshot other"),
    ],
    ids=["no right", "no key", "an answer that was lost"],
)
def test_a_snapshot_that_cannot_be_made_is_told(
    daytona: Service,
    names: Callable[[], list[str]],
    capfd: pytest.CaptureFixture[str],
    fault: Fault,
    words: str,
) -> None:
    """There is one sentence, and no snapshot is left."""
    before = names()
    daytona.emulator.fail(fault)
    assert cli.main(["image", "build", "--name", "other"]) == 1
    assert words in capfd.readouterr().err
    assert names() == before


def test_a_build_without_a_key_is_told(
    daytona: Service, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Key and packages are checked before any request."""
    assert cli.main(["image", "build", "--package", "-r evil.txt"]) == 2
    assert "packages must be requirements" in capfd.readouterr().err
    monkeypatch.delenv("DAYTONA_API_KEY")
    assert cli.main(["image", "build"]) == 2
    assert "No key for Daytona: set DAYTONA_API_KEY" in capfd.readouterr().err
