"""The log of a sandbox kernel whose relay does not answer."""

from __future__ import annotations

import asyncio
import logging

import pytest

from daytona_kernel_interp import LocalSandbox
from daytona_kernel_interp.errors import TunnelLost
from daytona_kernel_interp.jupyter.provisioner import SandboxKernel


class Silent:
    """A tunnel whose relay does not answer, or is lost."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    async def signal(self, *_: str) -> None:
        if self._error is not None:
            raise self._error
        await asyncio.Event().wait()

    async def aclose(self) -> None:
        pass


@pytest.mark.parametrize(("error", "why"), [(None, "no reply"), (TunnelLost("the relay is gone"), "the relay is gone")])
async def test_why_a_kernel_is_not_interrupted(
    error: Exception | None, why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The program's log gets one sentence, and the program goes on."""
    monkeypatch.setattr("daytona_kernel_interp.jupyter.provisioner.DIAL_S", 0.01)
    session = SandboxKernel(LocalSandbox(), logging.getLogger("test"))
    try:
        monkeypatch.setattr(session, "_tunnel", Silent(error))
        await session.signal("interrupt")
    finally:
        await session.aclose()
    assert [record.getMessage() for record in caplog.records] == [
        f"The kernel could not be reached to interrupt it: {why}."
    ]
