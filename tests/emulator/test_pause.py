"""Sandboxes of a VM class are paused and resumed with their processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from daytona import CreateSandboxFromSnapshotParams, CreateSnapshotParams, SandboxState
from daytona.common.errors import DaytonaBadRequestError, DaytonaUnprocessableEntityError
from daytona_api_client_async import SandboxClass

if TYPE_CHECKING:
    from .conftest import Local


def test_a_paused_vm_goes_on_where_it_was(local: Local) -> None:
    """Processes are paused and stay alive, the token is unchanged, and a paused sandbox does not respond."""
    sdk = local.service.sdk
    snapshot = sdk.snapshot.create(
        CreateSnapshotParams(name="a-vm", image="python:3.12-slim", sandbox_class=SandboxClass.LINUX_VM)
    )
    made = sdk.create(CreateSandboxFromSnapshotParams(snapshot=snapshot.name))
    try:
        assert made.sandbox_class == "linux-vm"
        pid = made.process.exec("sleep 1000 > /dev/null 2>&1 & echo $!").result.strip()
        token = made.get_preview_link(3000).token
        made.pause()
        made.refresh_data()
        assert made.state == SandboxState.PAUSED
        with pytest.raises(DaytonaBadRequestError):
            made.process.exec("true")
        made.start()
        assert made.get_preview_link(3000).token == token
        assert "sleep" in made.process.exec(f"cat /proc/{pid}/comm").result
        made.pause()
    finally:
        made.delete()


def test_a_container_cannot_be_paused(local: Local) -> None:
    """A sandbox without a snapshot of a VM class cannot be paused either."""
    with pytest.raises(DaytonaUnprocessableEntityError, match="cannot be paused"):
        local.service.shared.pause()
