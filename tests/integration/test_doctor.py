"""``daytona-kernel doctor``: each check, and its advice when it fails."""

from __future__ import annotations

import contextlib
import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from daytona_kernel_interp import DaytonaSandbox
from daytona_kernel_interp.cli import command_line as cli
from daytona_kernel_interp.cli import doctor
from daytona_kernel_interp.runtime.event_loop import io_loop
from daytona_kernel_interp.sandboxes.daytona import sandbox as running
from daytona_kernel_interp.sandboxes.daytona.api import DaytonaAPI as OurService
from daytona_kernel_interp.testing import Fault

if TYPE_CHECKING:
    from tests.integration.daytona_service import Service


def test_the_doctor_goes_all_the_way(daytona: Service, capfd: pytest.CaptureFixture[str]) -> None:
    """All checks pass, most with a duration; with an unknown snapshot the checks end there, with advice."""
    assert cli.main(["doctor", "--snapshot", "daytona-small"]) == 0
    lines = capfd.readouterr().out.splitlines()
    timed = ["API", "snapshot", "sandbox", "preview", "WebSocket", "kernel", "cell"]
    names = ["key", "API", "clock", "snapshot", "sandbox", "region", *timed[3:], "versions"]
    assert [line.split()[:2] for line in lines] == [["ok", what] for what in names]
    assert [line.split()[1] for line in lines if re.search(r"\d m?s  ", line)] == timed
    assert cli.main(["doctor", "--snapshot", "nowhere"]) == 1
    lines = capfd.readouterr().out.splitlines()
    assert lines[-2].split()[:2] == ["FAILED", "snapshot"]
    assert "`daytona-kernel image build` makes one" in lines[-1]


def failed(**options: Any) -> list[tuple[str, str]]:
    """Return name and advice of each failed check."""
    return [(check.name, check.advice) for check in doctor.run_checks(DaytonaSandbox(**options)) if check.advice]


def test_the_doctor_names_what_is_wrong_with_the_key(daytona: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong key, no key, and an address without a server each have their advice."""
    monkeypatch.setenv("DAYTONA_API_KEY", "dtn_wrong")
    ((what, advice),) = failed()
    assert what == "API"
    assert "does not accept the key" in advice
    monkeypatch.setenv("DAYTONA_API_URL", "http://127.0.0.1:9/api")
    ((what, advice),) = failed()
    assert what == "API"
    assert "check DAYTONA_API_URL, proxy and network" in advice
    monkeypatch.delenv("DAYTONA_API_KEY")
    ((what, advice),) = failed()
    assert what == "key"
    assert "set DAYTONA_API_KEY" in advice


QUOTA = '{"message": "Total CPU limit exceeded"}'


@pytest.mark.parametrize(
    ("fault", "wrong", "words"),
    [
        (Fault("api", "listSandboxes", status=403), "API", "give it that permission"),
        (Fault("api", "listSandboxes", status=503), "API", "Daytona or a proxy in front of it fails"),
        (Fault("api", "listSandboxes", status=429), "API", "too many requests"),
        (
            Fault("api", "createSandbox", status=403, body=QUOTA),
            "sandbox",
            "CPU limit",
        ),
        (Fault("start", error="no room"), "sandbox", "no room"),
        (Fault("preview", status=401, times=None, body="no"), "preview", "does not accept the sandbox's token"),
        (Fault("preview", status=403, times=None, body="no"), "preview", "policy for previews"),
        (Fault("preview", status=502, times=None), "preview", "nothing listens in the sandbox"),
        (Fault("preview", status=418, times=None, body="tea"), "preview", "answers in its place"),
        (Fault("preview", refuse=True, times=None), "preview", "cannot be reached from here"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_the_doctor_says_what_to_do(
    daytona: Service, monkeypatch: pytest.MonkeyPatch, fault: Fault, wrong: str, words: str
) -> None:
    """Each failure ends the checks with one sentence of advice, and no sandbox is left."""
    monkeypatch.setattr(running, "_REFUSED_TIMEOUT_S", 0.5)
    daytona.emulator.fail(fault)
    ((what, advice),) = failed()
    assert what == wrong
    assert words in advice


def test_the_doctor_sees_websockets_that_do_not_pass(daytona: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """If plain requests pass and WebSockets do not, the advice names the proxy."""

    async def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("did not receive a valid HTTP response")

    monkeypatch.setattr(doctor, "connect_socket", refuse)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.org")
    ((what, advice),) = failed()
    assert what == "WebSocket"
    assert "HTTPS_PROXY is set" in advice


def test_the_doctor_goes_on_where_it_can(daytona: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong clock and another region are reported, and the checks continue."""
    monkeypatch.setenv("DAYTONA_TARGET", "mars")
    monkeypatch.setattr(running.RunningDaytonaSandbox, "region", "us")
    checks = list(doctor.run_checks(now=lambda: time.time() + 3600))
    assert [check.name for check in checks if check.advice] == ["clock", "region"]
    assert "set this machine's clock" in checks[2].advice
    assert checks[-1].name == "versions"


def test_the_doctor_tells_a_snapshot_that_cannot_be_used(daytona: Service) -> None:
    """An inactive snapshot and one whose build failed each have their advice."""

    async def states() -> dict[str, str]:
        service = await OurService.connect()
        try:
            snapshots = service.client.snapshot
            await snapshots.create(CreateSnapshotParams(name="resting", image="debian:12"), timeout=0)
            resting = await snapshots.get("resting")
            with contextlib.suppress(Exception):
                await snapshots.create(CreateSnapshotParams(name="broken", image=bad), timeout=0)
        finally:
            await service.aclose()
        return {"resting": resting.id}

    from daytona import CreateSnapshotParams, Image

    daytona.emulator.fail_builds_with("no-such-file")
    bad = Image.base("debian:12").run_commands("cat no-such-file")
    daytona.ask("POST", f"/snapshots/{io_loop().run(states())['resting']}/deactivate")
    for name, words in (("resting", "activate it at Daytona"), ("broken", "delete it, and make one")):
        ((what, advice),) = failed(snapshot=name)
        assert what == "snapshot"
        assert words in advice
