"""Which of our sandboxes at Daytona nobody will delete, and deleting them."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import SandboxFailed
from . import owner
from .service import Service, sentence, state_of

if TYPE_CHECKING:
    from collections.abc import Collection


@dataclass(frozen=True)
class Found:
    """A sandbox that this package made."""

    id: str
    state: str
    whose: str  # "process 123", or "another machine"
    host_lives: bool  # as far as is known
    ours: bool  # made by this user on this machine
    idle_s: float | None  # since its last activity

    def lost(self, older_than_s: float, *, all_owners: bool) -> bool:
        """Whether its process is gone, or it was idle for longer than that; of other owners only where asked."""
        if not self.ours and not all_owners:
            return False
        return not self.host_lives or (self.idle_s is not None and self.idle_s > older_than_s)


async def find(in_use: Collection[str] = ()) -> list[Found]:
    """Return the sandboxes at Daytona that this package made, the ids ``in_use`` left out of suspicion.

    Raises:
        SandboxFailed: If Daytona cannot be asked.
    """
    service = await Service.connect()
    try:
        found = []
        async for sandbox in service.list({owner.OURS: "1"}):
            labels, ours = sandbox.labels or {}, owner.is_ours(sandbox.labels or {})
            process = labels.get(owner.PROCESS, "?").partition("-")[0]
            found.append(
                Found(
                    id=sandbox.id,
                    state=state_of(sandbox),
                    whose=f"process {process}" if ours else "another machine",
                    host_lives=sandbox.id in in_use or owner.host_lives(labels),
                    ours=ours,
                    idle_s=None if sandbox.id in in_use else _age_s(sandbox.last_activity_at or sandbox.created_at),
                )
            )
        return found
    except Exception as error:
        raise SandboxFailed(f"Daytona cannot be asked for sandboxes: {sentence(error)}") from error
    finally:
        await service.aclose()


async def delete(sandbox_ids: Collection[str]) -> None:
    """Delete sandboxes.

    Raises:
        SandboxFailed: If one was not deleted; the others were not tried.
    """
    service = await Service.connect()
    try:
        for sandbox_id in sandbox_ids:
            await service.delete(sandbox_id)
    finally:
        await service.aclose()


def _age_s(stamp: str | None) -> float | None:
    if not stamp:
        return None
    try:
        then = datetime.datetime.fromisoformat(stamp.replace("Z", "+00:00"))
    except ValueError:
        return None
    if then.tzinfo is None:
        then = then.replace(tzinfo=datetime.timezone.utc)
    return (datetime.datetime.now(datetime.timezone.utc) - then).total_seconds()
