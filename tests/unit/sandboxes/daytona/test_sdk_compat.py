"""Tests of ``sandboxes.daytona.sdk_compat``: each private name is still there, with the meaning that is relied on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daytona import AsyncDaytona, DaytonaConfig

from daytona_kernel_interp.sandboxes.daytona import sdk_compat

if TYPE_CHECKING:
    import pytest


async def test_the_client_has_its_default_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade that removes the name fails here, with the name."""
    client = AsyncDaytona(DaytonaConfig(api_key="key-1", api_url="http://127.0.0.1:1/api"))
    try:
        assert hasattr(client, sdk_compat.API_CLIENT), f"AsyncDaytona has no {sdk_compat.API_CLIENT} any more"
        sent = sdk_compat.default_headers(client)
        assert "Bearer key-1" in sent.values(), f"AsyncDaytona.{sdk_compat.API_CLIENT}.default_headers has no key"
        monkeypatch.delattr(client, sdk_compat.API_CLIENT)
        assert sdk_compat.default_headers(client) == {}
    finally:
        monkeypatch.undo()
        await client.close()  # type: ignore[no-untyped-call]
