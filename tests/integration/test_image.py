"""Our image at a Daytona on loopback: built, started from, and what it spares a start."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from daytona_kernel_interp import DaytonaSandbox, KernelInterpreter, cli
from daytona_kernel_interp.testing import Fault
from daytona_kernel_interp.testing.processes import can_isolate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.daytona_service import Service

NOTHING_IS_BROUGHT = (
    Fault("toolbox", "uploadFiles", status=500, times=None),
    Fault("toolbox", "sessionExecuteCommand", status=500, times=None),
)


@pytest.fixture(scope="module")
def snapshot() -> Iterator[list[str]]:
    return []


@pytest.fixture
def built(daytona: Service, snapshot: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    """The name of a snapshot that the command line made."""
    if not snapshot:
        assert cli.main(["image", "build"]) == 0
        out, err = capfd.readouterr()
        found = re.fullmatch(r"export DAYTONA_KERNEL_SNAPSHOT=(daytona-kernel-\S+)\n", out)
        assert found is not None
        assert "building the snapshot" in err
        assert "FROM python:3.13-slim" in err  # the service's own log
        snapshot.append(found[1])
    return snapshot[0]


def test_the_image_is_enough_without_a_network(daytona: Service, built: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No upload, no install, no relay of ours: the one that the image started serves, and the first cell runs."""
    monkeypatch.setenv("DAYTONA_KERNEL_SNAPSHOT", built)
    for fault in NOTHING_IS_BROUGHT:
        daytona.emulator.fail(fault)
    with KernelInterpreter(sandbox=DaytonaSandbox(network_block_all=can_isolate())) as interpreter:
        assert interpreter.execute("1 + 1") == 2
        relay = "import os, pathlib; pathlib.Path(f'/proc/{os.getppid()}/cmdline').read_text()"
        assert "daytona_kernel_interp.guest.entrypoint" in interpreter.execute(relay)
