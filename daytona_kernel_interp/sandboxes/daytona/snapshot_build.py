"""Build a snapshot of the kernel image at Daytona."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from ...errors import SandboxFailed
from .api import DaytonaAPI
from .error_text import error_sentence
from .snapshot_image import BuildLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from .snapshot_image import KernelImage

_REQUEST_S = 15.0
_ABSENT, _UNKNOWN = "absent", "unknown"


async def build_snapshot(
    image: KernelImage,
    name: str,
    on_line: Callable[[str], None],
    *,
    cpu: int | None = None,
    memory: int | None = None,
    disk: int | None = None,
    region: str | None = None,
) -> bool:
    """Build a snapshot of the image, and return True; return False if it exists already.

    ``on_line`` receives the lines of the build log.

    Raises:
        SandboxFailed: If the build failed; the error has the end of the log, and no snapshot is left.
    """
    async with contextlib.aclosing(await DaytonaAPI.connect()) as service:
        state = await _state_of(service, name)
        if state not in (_ABSENT, _UNKNOWN):
            return _already_exists(name, state)
        from daytona import CreateSnapshotParams, Resources

        build = BuildLog(on_line)
        resources = Resources(cpu=cpu, memory=memory, disk=disk) if cpu or memory or disk else None
        try:
            with image.for_sdk() as made:
                params = CreateSnapshotParams(name=name, image=made, resources=resources, region_id=region)
                await service.client.snapshot.create(params, on_logs=build, timeout=0)
        except asyncio.CancelledError:
            if state == _ABSENT:  # an earlier snapshot of this name must not be deleted
                await asyncio.shield(_delete_snapshot(service, name))
            raise
        except Exception as error:  # the SDK passes on errors of its HTTP client and of its models, too
            status = getattr(error, "status_code", None)
            if status == 409:
                return _already_exists(name, await _state_of(service, name))
            if state == _ABSENT and (status is None or status >= 500):
                await _delete_snapshot(service, name)
            advice = build.end()
            if status == 403:
                advice = (
                    "; a key without the permission to create snapshots can still use "
                    "DaytonaSandbox(image=KernelImage())"
                )
            raise SandboxFailed(
                f"Daytona did not build the snapshot {name}: {error_sentence(error)}{advice}"
            ) from error
        return True


async def _state_of(service: DaytonaAPI, name: str) -> str:
    """Return a snapshot's state, ``_ABSENT``, or ``_UNKNOWN`` if the request failed."""
    try:
        return await service.snapshot_state(name)
    except Exception as error:  # the build reports the error itself
        return _ABSENT if getattr(error, "status_code", None) == 404 else _UNKNOWN


def _already_exists(name: str, state: str) -> bool:
    if state == "active":
        return False
    raise SandboxFailed(f"the snapshot {name} exists and is {state}: wait for it, delete it, or choose another name")


async def _delete_snapshot(service: DaytonaAPI, name: str) -> None:
    with contextlib.suppress(Exception):  # the error of the build is raised, not one of this
        await asyncio.wait_for(service.client.snapshot.delete(name), _REQUEST_S)
