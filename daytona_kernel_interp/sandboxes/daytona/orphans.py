"""Which of our sandboxes at Daytona nobody will delete, and deleting them."""

from __future__ import annotations

import asyncio
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
from .error_text import api_url, error_sentence

if TYPE_CHECKING:
    from collections.abc import Collection


_REQUEST_S = 5.0


@dataclass(frozen=True)
class ManagedSandbox:
    """A sandbox that this package made."""

    id: str
    state: str
    owner: str  # "process 123", or "another machine"
    host_lives: bool  # as far as is known
    created_here: bool  # made by this user on this machine
    kept: bool  # shall outlive its process
    idle_s: float | None  # since its last activity

    def is_orphaned(self, older_than_s: float, *, all_owners: bool = False, kept: bool = False) -> bool:
        """Whether its process is gone, or it was idle for longer than that.

        Those of other owners, and those that shall be kept, only where asked.
        """
        if (
            self.state in ("destroying", "destroyed")
            or not (self.created_here or all_owners)
            or (self.kept and not kept)
        ):
            return False
        return not self.host_lives or (self.idle_s is not None and self.idle_s > older_than_s)


async def find_sandboxes(in_use: Collection[str] = ()) -> list[ManagedSandbox]:
    """Return the sandboxes at Daytona that this package made, the ids ``in_use`` left out of suspicion.

    Raises:
        SandboxFailed: If Daytona cannot be asked.
    """
    service = await DaytonaAPI.connect()
    try:
        found, now = [], await asyncio.to_thread(_now)
        async for sandbox in service.list({owner.PACKAGE_LABEL: "1"}):
            labels, created_here = sandbox.labels or {}, owner.created_on_this_machine(sandbox.labels or {})
            if labels.get(owner.PACKAGE_LABEL) != "1":  # should the service not have looked
                continue
            process = labels.get(owner.PROCESS_LABEL, "?").partition("-")[0]
            found.append(
                ManagedSandbox(
                    id=sandbox.id,
                    state=state_of(sandbox),
                    owner=f"process {process}" if created_here else "another machine",
                    host_lives=sandbox.id in in_use or owner.host_lives(labels),
                    created_here=created_here,
                    kept=owner.KEEP_LABEL in labels,
                    idle_s=None
                    if sandbox.id in in_use
                    else _age_s(sandbox.last_activity_at or sandbox.created_at, now),
                )
            )
        return found
    except Exception as error:  # the SDK passes on errors of its HTTP client and of its models
        raise SandboxFailed(f"Daytona cannot be asked for sandboxes: {error_sentence(error)}") from error
    finally:
        await service.aclose()


async def delete_sandboxes(sandbox_ids: Collection[str]) -> None:
    """Delete sandboxes, side by side.

    Raises:
        SandboxFailed: If some were not deleted; the text says which, and the others are.
    """
    service = await DaytonaAPI.connect()
    try:
        ends = await asyncio.gather(*map(service.delete, sandbox_ids), return_exceptions=True)
    finally:
        await service.aclose()
    failed = [end for end in ends if end is not None]
    if failed:
        raise SandboxFailed("; ".join(map(str, failed))) from failed[0]


def _now() -> float:
    """Return the time by the service's clock, to which its stamps belong; this machine's may be wrong."""
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
