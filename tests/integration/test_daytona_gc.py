"""``daytona-kernel gc``: it deletes orphaned sandboxes and no others."""

from __future__ import annotations

import io
import os
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from daytona_kernel_interp.cli import command_line as cli
from daytona_kernel_interp.errors import SandboxFailed
from daytona_kernel_interp.runtime.event_loop import io_loop
from daytona_kernel_interp.sandboxes.daytona import labels as owner
from daytona_kernel_interp.sandboxes.daytona import orphans as lost
from daytona_kernel_interp.sandboxes.daytona.api import DaytonaAPI
from daytona_kernel_interp.testing import Fault
from daytona_kernel_interp.transport.process_identity import process_start_mark
from tests.integration.daytona_service import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.integration.daytona_service import Service as Emulated

MINUTE_S = 60.0
HOUR_S = 60 * MINUTE_S
ALIVE = {"daytona-kernel": "1", **owner.owner()}
LATER = {**ALIVE, owner.PROCESS_LABEL: f"{os.getpid()}-{int(process_start_mark(os.getpid())) - 1}"}
GONE = {**ALIVE, owner.PROCESS_LABEL: "4194305-1"}  # no process has such a large id
ELSEWHERE = {**GONE, owner.MACHINE_LABEL: "0" * 16}
WITHOUT = {name: value for name, value in GONE.items() if name != owner.PACKAGE_LABEL}


@pytest.fixture
def make(daytona: Emulated) -> Iterator[Callable[..., str]]:
    """Provide a function that creates sandboxes with labels and idle times, and delete the remaining ones."""

    def made(labels: dict[str, str], idle_s: float = 0.0) -> str:
        sandbox_id = str(daytona.ask("POST", "/sandbox", {"labels": labels, "autoStopInterval": 0})["id"])
        until(lambda: state(sandbox_id) == "started", "its start")
        record = daytona.emulator.server.world.fleet.by_id(sandbox_id)
        assert record is not None
        record.last_activity_at -= idle_s
        ids.append(sandbox_id)
        return sandbox_id

    def state(sandbox_id: str) -> str:
        return str(next(item["state"] for item in daytona.sandboxes if item["id"] == sandbox_id))

    ids: list[str] = []
    yield made
    daytona.emulator.heal()
    io_loop().run(lost.delete_sandboxes(ids))


def typed(text: str, monkeypatch: pytest.MonkeyPatch, *, terminal: bool = True) -> None:
    """Set the text of standard input, and whether it is a terminal."""
    stdin = io.StringIO(text)
    monkeypatch.setattr(stdin, "isatty", lambda: terminal)
    monkeypatch.setattr("sys.stdin", stdin)


def left(daytona: Emulated) -> set[str]:
    return {item["id"] for item in daytona.sandboxes if item["state"] != "destroying"}


def test_which_sandboxes_are_lost(
    daytona: Emulated, make: Callable[..., str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orphaned: of this machine, with an ended process (also if its id was reused) or idle for an hour; no others."""
    gone, later, idle = make(GONE), make(LATER), make(ALIVE, idle_s=1.1 * HOUR_S)
    alive, elsewhere = make(ALIVE, idle_s=0.9 * HOUR_S), make(ELSEWHERE, idle_s=MINUTE_S)
    idle_elsewhere, foreign = make(ELSEWHERE, idle_s=2 * HOUR_S), make({"team": "a"}, idle_s=9 * HOUR_S)
    alike, kept = make(WITHOUT, idle_s=9 * HOUR_S), make({**GONE, owner.KEEP_LABEL: "1"}, idle_s=9 * HOUR_S)
    everything = {gone, later, idle, alive, elsewhere, idle_elsewhere, foreign, alike, kept}

    def collects(*options: str) -> set[str]:
        before = left(daytona)
        assert cli.main(["gc", "--yes", *options]) == 0
        shown = {line.split()[0] for line in capfd.readouterr().out.splitlines()[1:]}
        until(lambda: before - left(daytona) == shown, "what was shown to be deleted")
        return shown

    typed("", monkeypatch, terminal=False)
    assert cli.main(["gc"]) == 2
    assert "standard input is not a terminal that could confirm the deletion: give --yes." in capfd.readouterr().err
    typed("no\n", monkeypatch)
    assert cli.main(["gc"]) == 0
    shown = capfd.readouterr()
    assert "Delete 3? [y/N]" in shown.err
    assert {line.split()[0] for line in shown.out.splitlines()[1:]} == {gone, later, idle}
    assert left(daytona) == everything

    assert collects() == {gone, later, idle}
    assert collects() == set()
    assert collects("--older-than", "0.5") == {alive}
    assert collects("--all-owners") == {idle_elsewhere}
    assert collects("--kept") == {kept}
    assert collects("--all-owners", "--kept", "--older-than", "0.01") == {elsewhere}
    assert left(daytona) == {foreign, alike}


def test_what_is_taken_up_while_the_question_stands_is_not_deleted(
    daytona: Emulated, make: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The confirmation applies only to listed sandboxes that are still orphaned."""
    taken, other = make(GONE), make(GONE)
    typed("y\n", monkeypatch)
    read = sys.stdin.readline

    def answer() -> str:
        record = daytona.emulator.server.world.fleet.by_id(taken)
        assert record is not None
        record.labels = dict(ALIVE)
        return str(read())

    monkeypatch.setattr(sys.stdin, "readline", answer)
    assert cli.main(["gc"]) == 0
    until(lambda: left(daytona) == {taken}, "the other's end")
    assert other not in left(daytona)


def test_one_that_cannot_be_deleted_does_not_save_the_others(
    daytona: Emulated, make: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    """The error names it with the service's message."""
    stuck, other = make(GONE), make(GONE)
    daytona.emulator.fail(Fault("api", "deleteSandbox", sandbox=stuck, status=403, body='{"message": "not you"}'))
    assert cli.main(["gc", "--yes"]) == 1
    said = capfd.readouterr().err
    assert f"{stuck} was not deleted" in said
    assert "not you" in said
    until(lambda: left(daytona) == {stuck}, "the other's end")
    assert other not in left(daytona)


def test_a_wrong_clock_here_makes_nothing_old(make: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ages use the service's clock."""
    used = make(ELSEWHERE)
    later = time.time() + 5 * HOUR_S
    monkeypatch.setattr(lost, "time", SimpleNamespace(time=lambda: later))  # the emulator's is right
    (idle_s,) = (each.idle_s for each in io_loop().run(lost.find_sandboxes()) if each.id == used)
    assert idle_s is not None
    assert abs(idle_s) < 120


def test_a_service_that_does_not_filter_is_not_believed(
    make: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels are also checked by the client before a sandbox counts as its own."""
    gone, _, _ = make(GONE), make({"team": "a"}, idle_s=9 * HOUR_S), make(WITHOUT)
    listing = DaytonaAPI.list
    monkeypatch.setattr(DaytonaAPI, "list", lambda service, labels: listing(service, {}))
    assert [each.id for each in io_loop().run(lost.find_sandboxes())] == [gone]


def test_a_service_that_cannot_be_asked_is_named(
    daytona: Emulated, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has the service's address; nothing is deleted."""
    monkeypatch.setenv("DAYTONA_API_URL", "http://127.0.0.1:9/api")
    assert cli.main(["gc", "--yes"]) == 2
    assert "its API at http://127.0.0.1:9/api is unreachable" in capfd.readouterr().err
    with pytest.raises(SandboxFailed, match="cannot be read"):
        io_loop().run(lost.find_sandboxes())
