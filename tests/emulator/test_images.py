"""Images and snapshots in the emulator: builds, their logs, and entrypoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from daytona import CreateSandboxFromImageParams, CreateSnapshotParams, Image
from daytona.common.errors import DaytonaError

from daytona_kernel_interp.testing.model import Act
from tests.conformance.service import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Local


def test_build_log_of_a_sandbox(local: Local) -> None:
    """The SDK's callback receives every step, including skipped ones."""
    lines: list[str] = []
    image = Image.base("python:3.12-slim").run_commands("echo built").workdir("/work")
    made = local.service.sdk.create(CreateSandboxFromImageParams(image=image), on_snapshot_create_logs=lines.append)
    text = "\n".join(lines)
    assert "FROM python:3.12-slim" in text
    assert "RUN echo built" in text
    assert "left out" in text
    assert made.process.exec("basename $PWD").result == "work\n"
    made.delete()


def test_build_that_fails(local: Local) -> None:
    """A failed build has the state ``build_failed`` and names the step."""
    local.emulator.fail_builds_with("no-such-package")
    image = Image.base("python:3.12-slim").pip_install("no-such-package")
    with pytest.raises(DaytonaError, match=r"(?i)build_failed"):
        local.service.sdk.create(CreateSandboxFromImageParams(name="unbuilt", image=image))
    body = local.service.api.get("/sandbox/unbuilt").json()
    assert body["state"] == "build_failed"
    assert "no-such-package" in body["errorReason"]
    assert local.service.api.delete("/sandbox/unbuilt").status_code == 200
    with pytest.raises(DaytonaError, match="no-such-package"):
        local.service.sdk.snapshot.create(CreateSnapshotParams(name="unbuilt", image=image))


def test_entrypoint_runs_at_each_start(local: Local) -> None:
    """An image's entrypoint is session `entrypoint`, runs again after a stop, and has a log."""
    image = Image.base("python:3.12-slim").entrypoint(["sh", "-c", "echo run >> runs; echo said; exec sleep 1000"])
    made = local.service.sdk.create(CreateSandboxFromImageParams(image=image))

    def runs() -> str:
        return str(made.process.exec("cat runs 2> /dev/null").result)

    until(lambda: runs() == "run\n", "the entrypoint")
    session = made.process.get_entrypoint_session()
    (command,) = session.commands or []
    assert (session.session_id, command.id, command.exit_code) == ("entrypoint", "entrypoint_command", None)
    assert made.process.get_entrypoint_logs().stdout == "said\n"
    assert "entrypoint" not in {known.session_id for known in made.process.list_sessions()}
    made.stop()
    made.start()
    until(lambda: runs() == "run\nrun\n", "the entrypoint's second run")
    made.delete()


def test_entrypoint_may_end_by_itself(local: Local) -> None:
    """A stop sends SIGTERM to the entrypoint first; a forced stop kills it at once."""
    script = "trap 'echo asked >> asked; exit 0' TERM; echo ready >> ready; while :; do sleep 0.05; done"
    image = Image.base("python:3.12-slim").entrypoint(["sh", "-c", script])
    made = local.service.sdk.create(CreateSandboxFromImageParams(image=image))
    for force, asked in ((False, "asked\n"), (True, "asked\n")):
        until(lambda: made.process.exec("cat ready").exit_code == 0, "the trap to be set")
        made.process.exec("rm ready")
        made.stop(force=force)
        made.start()
        assert made.process.exec("cat asked").result == asked
    made.delete()


def test_snapshot_of_a_sandbox(local: Local) -> None:
    """A sandbox's files are copied to a snapshot, and from there to new sandboxes."""
    made = local.service.shared
    made.fs.upload_file(b"from the first", "state/file.txt")
    answer = local.service.api.post(f"/sandbox/{made.id}/snapshot", json={"name": "copied", "includeMemory": False})
    assert answer.status_code == 200
    snapshot = local.service.sdk.snapshot.get("copied")
    assert snapshot.source_sandbox_id == made.id
    with local.service.sandbox(snapshot="copied") as copy:
        assert copy.fs.download_file("state/file.txt") == b"from the first"
        copy.fs.upload_file(b"changed", "state/file.txt")
    assert made.fs.download_file("state/file.txt") == b"from the first"


def test_inactive_snapshot(local: Local) -> None:
    """An inactive snapshot cannot be used until it is activated."""
    made = local.service.sdk.snapshot.create(CreateSnapshotParams(name="resting", image="debian:12"))
    assert local.service.api.post(f"/snapshots/{made.id}/deactivate").status_code == 204
    with pytest.raises(DaytonaError, match="inactive"):
        local.service.sdk.create(local.service.params(snapshot="resting"))
    local.service.sdk.snapshot.activate(made)
    with local.service.sandbox(snapshot="resting") as sandbox:
        assert sandbox.snapshot == "resting"
    for answer in (
        local.service.api.post("/snapshots", json={"name": "resting", "imageName": "debian:12"}),
        local.service.api.post("/snapshots", json={"name": "nothing"}),
        local.service.api.delete("/snapshots/daytona-small"),
        local.service.api.delete("/snapshots/no-such-snapshot"),
    ):
        assert answer.status_code in (400, 403, 404, 409)


def test_broken_sandbox_recovers(own: Callable[..., Local]) -> None:
    """``recover`` ends a recoverable error."""
    emulator, service = own()
    with service.sandbox() as made:
        record = emulator.server.world.fleet.by_id(made.id)
        assert record is not None
        made.stop()
        change = emulator.server.world.fleet.begin(record, Act.START, 0.0)
        emulator.server.world.fleet.fail(record, change, 0.0, "a disk was full", recoverable=True)
        made.refresh_data()
        assert made.error_reason == "a disk was full"
        made.recover()
        assert made.process.exec("echo back").result == "back\n"
