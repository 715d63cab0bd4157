"""From a description to a relay that is about to listen; whatever fails on the way leaves no sandbox behind."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from typing import TYPE_CHECKING, Any

from ...errors import SandboxFailed
from . import labels as owner
from .api import DaytonaAPI
from .guest_archive import REQUIREMENTS, guest_archive
from .probe import ProbeResult, ServingRelay, parse_install, parse_probe
from .probe_script import FIRST_PORT
from .sandbox import RunningDaytonaSandbox, SandboxPaths, thread_variables

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from daytona import AsyncSandbox

    from . import DaytonaSandbox

log = logging.getLogger(__name__)

_OLDEST_PYTHON = (3, 10)
_CLEAN_UP_S = 5.0  # what a failed start waits for its sandbox's end
_BUSY_S = 600.0  # what is tried, in the background, to delete a sandbox that cannot be deleted yet
_cleaning: set[asyncio.Future[None]] = set()


async def start(description: DaytonaSandbox) -> RunningDaytonaSandbox:
    """Create the sandbox that is described, and start the relay in it.

    Raises:
        SandboxFailed: If that did not work; the sandbox is deleted.
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
    reading = asyncio.ensure_future(asyncio.to_thread(guest_archive))  # while the service works
    sandbox = await service.create(description, owner.labels(mark, kept=description.keep))
    made.append(sandbox.id)
    log.info("Daytona sandbox %s started", sandbox.id, extra={"progress": True})
    await reading
    running = RunningDaytonaSandbox(description, service, sandbox, sandbox.id)
    port = description.port or FIRST_PORT
    # What the answer to the look will most probably ask for is asked for beside it: each round trip counts.
    async with _run_alongside(running.preview(port)) as link:
        request = _probe_request(description, sandbox)
        probed = parse_probe(await service.prepare(sandbox, "look", description.python, **request))
        if isinstance(probed, ServingRelay):
            place = probed.paths
        else:
            session = running.new_session()
            async with _run_alongside(running.open_session(session)) as opened:
                place = await _install_guest(service, sandbox, description, probed, request)
                await opened
        preview = await (link if place.port == port else _replacement_hint(link, running.preview(place.port)))
    if isinstance(probed, ServingRelay):
        log.info("the relay in Daytona sandbox %s serves", sandbox.id)
        running.use_relay(place, probed.secret, probed.process, preview)
    else:
        await running.launch(place, session, preview)
    return running


def _probe_request(description: DaytonaSandbox, sandbox: AsyncSandbox) -> dict[str, Any]:
    """Return what ``prepare.py`` is told."""
    archive = guest_archive()
    return {
        "runtime": archive.digest,
        "runtime_file": archive.file,
        "runtime_sha256": archive.sha256,
        "wanted": REQUIREMENTS,
        "port": description.port,
        "upload": bool(description.upload),
        "take_waiting": description.python is None and not description.upload,
        "lifetime_s": description.resume_lifetime,
        "environment": thread_variables(sandbox),
    }


async def _replacement_hint(unneeded: asyncio.Future[Any], needed: Awaitable[Any]) -> Any:
    unneeded.cancel()
    return await needed


async def _install_guest(
    service: DaytonaAPI,
    sandbox: AsyncSandbox,
    description: DaytonaSandbox,
    probed: ProbeResult,
    request: dict[str, Any],
) -> SandboxPaths:
    """Bring what the sandbox has not, and return where things are."""
    archive = guest_archive()
    port = _check_python(probed, description)
    python, path = probed.python, ""
    async with contextlib.AsyncExitStack() as stack:
        if description.upload or (description.upload is None and not probed.installed):
            path = f"{probed.folder}/{archive.file}"
            if not probed.uploaded:
                log.info("uploading the relay (%d KiB)", len(archive.data) >> 10, extra={"progress": True})
                uploaded = await stack.enter_async_context(_run_alongside(_upload(sandbox, archive.data, path)))
                stack.push_async_callback(asyncio.wait_for, uploaded, None)
        if probed.missing:
            log.info("installing %s in the sandbox", " and ".join(probed.missing), extra={"progress": True})
            installed = await service.prepare(sandbox, "install", description.python, **request)
            try:
                python = parse_install(installed)
            except LookupError as error:
                raise SandboxFailed(_install_error(probed.missing, str(error), description)) from None
    folder = f"{probed.folder}/session-{secrets.token_hex(4)}"
    return SandboxPaths(python, path, folder, probed.cwd, port)


def _check_python(probed: ProbeResult, description: DaytonaSandbox) -> int:
    """Return the relay's port, if its Python will do."""
    if probed.version < _OLDEST_PYTHON:
        version = ".".join(map(str, probed.version))
        raise SandboxFailed(
            f"the Daytona sandbox has Python {version} ({probed.python}), and the kernel needs 3.10 or later: "
            "choose another image, or name its python"
        )
    if probed.port is None:
        taken = f"port {description.port} is" if description.port else "every port for the relay is"
        raise SandboxFailed(f"{taken} taken in the Daytona sandbox: choose another with DaytonaSandbox(port=...)")
    return probed.port


def _install_error(missing: tuple[str, ...], reason: str, description: DaytonaSandbox) -> str:
    why = " and the sandbox has no way out (network_block_all)" if description.network_block_all else ""
    return (
        f"{' and '.join(missing)} could not be installed in the Daytona sandbox{why}: "
        f"choose an image or snapshot that has them. It said: {reason}"
    )


async def _upload(sandbox: AsyncSandbox, data: bytes, path: str) -> None:
    from daytona import DaytonaError

    try:
        await sandbox.fs.upload_file(data, path)
    except DaytonaError as error:
        raise SandboxFailed(f"the relay could not be uploaded to the Daytona sandbox: {error}") from error


@contextlib.asynccontextmanager
async def _run_alongside(work: Any) -> Any:
    """Let ``work`` go on meanwhile; it is cancelled when the block fails."""
    task = asyncio.ensure_future(work)
    try:
        yield task
    except BaseException:  # cancellation, too, must not leave the task behind
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise


async def _clean_up(service: DaytonaAPI, mark: str, made: list[str], error: BaseException) -> None:
    """Delete what was made, whether its create answered or not.

    A sandbox that is just changing cannot be deleted yet: the caller need not wait for that.
    """
    task = asyncio.ensure_future(_remove(service, mark, made, error))
    _cleaning.add(task)
    task.add_done_callback(_cleaning.discard)
    await asyncio.wait({task}, timeout=_CLEAN_UP_S)


async def _remove(service: DaytonaAPI, mark: str, made: list[str], error: BaseException) -> None:
    try:
        if made:
            await service.delete(made[0], busy_s=_BUSY_S)
        else:
            status = getattr(error.__cause__, "status_code", None)
            answered = status is not None and 400 <= status < 500  # so what it made, if anything, is there by now
            await service.delete_failed_create(mark, sure=answered, busy_s=_BUSY_S)
    except SandboxFailed as failed:
        log.warning("%s; it ends by itself", failed)
    finally:
        await service.aclose()
