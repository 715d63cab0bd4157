"""Private names of Daytona's SDK, and nothing else. ``test_sdk_compat`` names one that an upgrade has removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from daytona import AsyncDaytona

API_CLIENT = "_api_client"  # of AsyncDaytona: the generated client, which has the headers of every request


def default_headers(client: AsyncDaytona) -> Mapping[str, str]:
    """Return the headers of every request, the key among them; empty if this SDK does not have the name."""
    return getattr(getattr(client, API_CLIENT, None), "default_headers", {})
