"""Find the sandboxes at Daytona that this package created and whose host is gone, and delete them."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import email.utils
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import SandboxFailed
from . import labels as owner
from .api import DaytonaAPI, state_of
from .error_text import api_url, sdk_errors

if TYPE_CHECKING:
    from collections.abc import Collection

    from daytona import AsyncSandbox

_REQUEST_S = 5.0


@dataclass(frozen=True)
class ManagedSandbox:
    """A sandbox at Daytona that this package created."""

    id: str
    state: str
    owner: str  # "process 123", or "another machine"
    host_lives: bool  # as far as is known
    created_here: bool  # by this user on this machine
    kept: bool  # meant to outlive its process
    idle_s: float | None  # since its last activity

    def is_orphaned(self, older_than_s: float, *, all_owners: bool = False, kept: bool = False) -> bool:
        """Return whether its process has ended, or it has been idle for longer than ``older_than_s``.

        Sandboxes of other owners, and kept ones, count only if requested.
        """
        if (
            self.state in ("destroying", "destroyed")
            or not (self.created_here or all_owners)
            or (self.kept and not kept)
        ):
            return False
        return not self.host_lives or (self.idle_s is not None and self.idle_s > older_than_s)


async def find_sandboxes(in_use: Collection[str] = ()) -> list[ManagedSandbox]:
    """Return the sandboxes at Daytona that this package created; those with ids ``in_use`` count as in use.

    Raises:
        SandboxFailed: If the request failed.
    """
    found = []
    async with contextlib.aclosing(await DaytonaAPI.connect()) as service:
        now = await asyncio.to_thread(_now)
        with sdk_errors("the list of Daytona sandboxes cannot be read"):
            async for sandbox in service.list({owner.PACKAGE_LABEL: "1"}):
                if (sandbox.labels or {}).get(owner.PACKAGE_LABEL) == "1":  # in case the service ignores the query
                    found.append(_managed(sandbox, now, sandbox.id in in_use))
    return found


def _managed(sandbox: AsyncSandbox, now: float, in_use: bool) -> ManagedSandbox:
    labels, created_here = sandbox.labels, owner.created_on_this_machine(sandbox.labels)
    process = labels.get(owner.PROCESS_LABEL, "?").partition("-")[0]
    return ManagedSandbox(
        id=sandbox.id,
        state=state_of(sandbox),
        owner=f"process {process}" if created_here else "another machine",
        host_lives=in_use or owner.host_lives(labels),
        created_here=created_here,
        kept=owner.KEEP_LABEL in labels,
        idle_s=None if in_use else _age_s(sandbox.last_activity_at or sandbox.created_at, now),
    )


async def delete_sandboxes(sandbox_ids: Collection[str]) -> None:
    """Delete sandboxes concurrently.

    Raises:
        SandboxFailed: If some were not deleted; the text names them. The others are deleted.
    """
    async with contextlib.aclosing(await DaytonaAPI.connect()) as service:
        ends = await asyncio.gather(*map(service.end, sandbox_ids), return_exceptions=True)
    failed = [end for end in ends if end is not None]
    if failed:
        raise SandboxFailed("; ".join(map(str, failed))) from failed[0]


def _now() -> float:
    """Return the time of the service's clock, to which its time stamps belong; this machine's clock may be wrong."""
    try:
        with urllib.request.urlopen(urllib.request.Request(api_url(), method="HEAD"), timeout=_REQUEST_S) as answer:
            server_date = answer.headers.get("Date")
    except urllib.error.HTTPError as error:
        with error:
            server_date = error.headers.get("Date")
    except OSError:
        server_date = None
    return time.time() if server_date is None else email.utils.parsedate_to_datetime(server_date).timestamp()


def _age_s(stamp: str | None, now: float) -> float | None:
    if not stamp:
        return None
    try:
        then = datetime.datetime.fromisoformat(stamp.replace("Z", "+00:00"))
    except ValueError:
        return None
    if then.tzinfo is None:
        then = then.replace(tzinfo=datetime.timezone.utc)
    return now - then.timestamp()
