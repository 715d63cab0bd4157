"""Create a sandbox and start its relay. A failure at any step leaves no sandbox behind."""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import TYPE_CHECKING

from ...errors import SandboxFailed
from ...formatting import byte_size
from . import labels as owner
from .api import DaytonaAPI, run_script
from .error_text import sdk_errors
from .guest_archive import REQUIREMENTS, guest_archive
from .probe import ProbeResult, SandboxPaths, parse_install, parse_probe
from .probe_script import FIRST_PORT
from .sandbox import RunningDaytonaSandbox, thread_variables

if TYPE_CHECKING:
    from daytona import AsyncSandbox

    from . import DaytonaSandbox

log = logging.getLogger(__name__)

_OLDEST_PYTHON = (3, 10)
_CLEAN_UP_S = 5.0  # how long a failed start waits for the end of its sandbox
_BUSY_S = 600.0  # how long the background task retries to delete a busy sandbox
_cleaning: set[asyncio.Future[None]] = set()


async def start(description: DaytonaSandbox) -> RunningDaytonaSandbox:
    """Create the sandbox that is described, and start the relay in it.

    Raises:
        SandboxFailed: If a step failed; the sandbox is deleted.
    """
    service = await DaytonaAPI.connect()
    mark = secrets.token_hex(16)
    made: list[str] = []
    starting = asyncio.ensure_future(_start(service, description, mark, made))
    try:
        done, _ = await asyncio.wait({starting}, timeout=description.effective_start_timeout)
        if not done:
            raise SandboxFailed(
                f"Daytona had not started a sandbox after {description.effective_start_timeout:g} s: "
                "try again, or give it longer with start_timeout"
            )
        return starting.result()
    except BaseException as error:  # also when the caller is cancelled, nothing is left
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await asyncio.shield(_clean_up(service, mark, made, error))
        raise


async def _start(service: DaytonaAPI, description: DaytonaSandbox, mark: str, made: list[str]) -> RunningDaytonaSandbox:
    log.info(
        "creating a Daytona sandbox%s",
        "" if description.source_image is None else "; a first build takes minutes",
        extra={"progress": True},
    )
    reading = asyncio.ensure_future(asyncio.to_thread(guest_archive))  # while the service creates the sandbox
    sandbox = await service.create(description, owner.labels(mark, kept=description.keep))
    made.append(sandbox.id)
    log.info("Daytona sandbox %s started", sandbox.id, extra={"progress": True})
    await reading
    running = RunningDaytonaSandbox(description, service, sandbox, sandbox.id)
    port = description.port or FIRST_PORT
    # Each round trip counts: request what the probe will most probably require at the same time as the probe.
    expected = asyncio.ensure_future(running.preview(port))
    request = {
        "runtime": guest_archive().digest,
        "wanted": REQUIREMENTS,
        "port": description.port,
        "upload": bool(description.upload),
        "take_waiting": description.python is None and not description.upload,
        "lifetime_s": description.resume_lifetime,
        "environment": thread_variables(sandbox),
    }
    try:
        found = parse_probe(await run_script(sandbox, "look", description.python, request))
        if isinstance(found, ProbeResult):
            found = await running.start_relay(await _install_guest(sandbox, description, found))
        preview = await (expected if found.port == port else running.preview(found.port))
    finally:
        expected.cancel()
        await asyncio.gather(expected, return_exceptions=True)
    log.info("the relay in Daytona sandbox %s is serving", sandbox.id)
    running.use_relay(found, preview)
    return running


async def _install_guest(sandbox: AsyncSandbox, description: DaytonaSandbox, probed: ProbeResult) -> SandboxPaths:
    """Upload and install what the sandbox lacks, and return the paths."""
    archive = guest_archive()
    port = check_python(probed, description)
    python, path = probed.python, ""
    if description.upload or (description.upload is None and not probed.installed):
        path = f"{probed.folder}/runtime-{archive.digest}.zip"
        log.info("uploading the relay (%s)", byte_size(len(archive.data)), extra={"progress": True})
        with sdk_errors("the relay could not be uploaded to the Daytona sandbox"):
            await sandbox.fs.upload_file(archive.data, path)
    if probed.missing:
        log.info("installing %s in the sandbox", " and ".join(probed.missing), extra={"progress": True})
        installed = await run_script(sandbox, "install", description.python, {"wanted": REQUIREMENTS})
        if "error" in installed:
            raise SandboxFailed(_install_error(probed.missing, str(installed["error"]), description))
        python = parse_install(installed)
    folder = f"{probed.folder}/session-{secrets.token_hex(4)}"
    return SandboxPaths(python=python, path=path, folder=folder, cwd=probed.cwd, port=port)


def check_python(probed: ProbeResult, description: DaytonaSandbox) -> int:
    """Return the relay's port, if the sandbox's Python is new enough."""
    if probed.version < _OLDEST_PYTHON:
        version = ".".join(map(str, probed.version))
        raise SandboxFailed(
            f"the Daytona sandbox has Python {version} ({probed.python}), and the kernel needs 3.10 or later: "
            "choose another image, or pass python="
        )
    if probed.port is None:
        taken = f"port {description.port} is" if description.port else "every port for the relay is"
        raise SandboxFailed(f"{taken} taken in the Daytona sandbox: choose another with DaytonaSandbox(port=...)")
    return probed.port


def _install_error(missing: tuple[str, ...], reason: str, description: DaytonaSandbox) -> str:
    why = " and the sandbox's network is blocked (network_block_all)" if description.network_block_all else ""
    return (
        f"{' and '.join(missing)} could not be installed in the Daytona sandbox{why}: "
        f"choose an image or snapshot that has them. Output: {reason}"
    )


async def _clean_up(service: DaytonaAPI, mark: str, made: list[str], error: BaseException) -> None:
    """Delete the sandbox of a failed start, whether or not its create was answered.

    A sandbox whose state is changing cannot be deleted yet; the caller does not wait for that.
    """
    task = asyncio.ensure_future(_remove(service, mark, made, error))
    _cleaning.add(task)
    task.add_done_callback(_cleaning.discard)
    await asyncio.wait({task}, timeout=_CLEAN_UP_S)


async def _remove(service: DaytonaAPI, mark: str, made: list[str], error: BaseException) -> None:
    try:
        if made:
            await service.end(made[0], busy_s=_BUSY_S)
        else:
            status = getattr(error.__cause__, "status_code", None)
            answered = status is not None and 400 <= status < 500  # then its sandbox, if any, exists by now
            await service.delete_failed_create(mark, sure=answered, busy_s=_BUSY_S)
    except SandboxFailed as failed:
        log.warning("%s; it stops by itself", failed)
    finally:
        await service.aclose()
