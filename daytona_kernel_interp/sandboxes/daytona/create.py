"""From a description to a relay that is about to listen; whatever fails on the way leaves no sandbox behind."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from typing import TYPE_CHECKING, Any

from ...errors import SandboxFailed
from . import labels as owner
from .api import Service
from .guest_archive import WANTED, runtime
from .probe import Found, Serving, parse_install, parse_look
from .probe_script import FIRST_PORT
from .sandbox import Place, RunningDaytonaSandbox, threads

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from daytona import AsyncSandbox

    from . import DaytonaSandbox

log = logging.getLogger(__name__)

_OLDEST_PYTHON = (3, 10)
_CLEAN_UP_S = 5.0  # what a failed start waits for its sandbox's end
_BUSY_S = 600.0  # what is tried, in the background, to delete a sandbox that cannot be deleted yet
_cleaning: set[asyncio.Future[None]] = set()


async def start(wanted: DaytonaSandbox) -> RunningDaytonaSandbox:
    """Create the sandbox that is described, and start the relay in it.

    Raises:
        SandboxFailed: If that did not work; the sandbox is deleted.
    """
    service = await Service.connect()
    mark = secrets.token_hex(16)
    made: list[str] = []
    begun = asyncio.ensure_future(_start(service, wanted, mark, made))
    try:
        done, _ = await asyncio.wait({begun}, timeout=wanted.start_timeout_s)
        if not done:
            raise SandboxFailed(
                f"Daytona had not started a sandbox after {wanted.start_timeout_s:g} s: "
                "try again, or give it longer with start_timeout"
            )
        return begun.result()
    except BaseException as error:
        begun.cancel()
        await asyncio.gather(begun, return_exceptions=True)
        await asyncio.shield(_clean_up(service, mark, made, error))
        raise


async def _start(service: Service, wanted: DaytonaSandbox, mark: str, made: list[str]) -> RunningDaytonaSandbox:
    log.info("creating a Daytona sandbox%s", "" if wanted.image is None else "; a first build takes minutes")
    reading = asyncio.ensure_future(asyncio.to_thread(runtime))  # while the service works
    sandbox = await service.create(wanted, owner.labels(mark, kept=wanted.keep))
    made.append(sandbox.id)
    log.info("Daytona sandbox %s started", sandbox.id)
    await reading
    running = RunningDaytonaSandbox(wanted, service, sandbox, sandbox.id)
    port = wanted.port or FIRST_PORT
    # What the answer to the look will most probably ask for is asked for beside it: each round trip counts.
    async with _together(running.preview(port)) as link:
        order = _order(wanted, sandbox)
        found = parse_look(await service.prepare(sandbox, "look", wanted.python, **order))
        if isinstance(found, Serving):
            place = found.place
        else:
            session = running.new_session()
            async with _together(running.open_session(session)) as opened:
                place = await _equip(service, sandbox, wanted, found, order)
                await opened
        preview = await (link if place.port == port else _instead(link, running.preview(place.port)))
    if isinstance(found, Serving):
        log.info("the relay in Daytona sandbox %s serves", sandbox.id)
        running.take_relay(place, found.secret, found.process, preview)
    else:
        await running.launch(place, session, preview)
    return running


def _order(wanted: DaytonaSandbox, sandbox: AsyncSandbox) -> dict[str, Any]:
    """Return what ``prepare.py`` is told."""
    ours = runtime()
    return {
        "runtime": ours.digest,
        "runtime_file": ours.file,
        "runtime_sha256": ours.sha256,
        "wanted": WANTED,
        "port": wanted.port,
        "upload": bool(wanted.upload),
        "take_waiting": wanted.python is None and not wanted.upload,
        "lifetime_s": wanted.resume_lifetime,
        "environment": threads(sandbox),
    }


async def _instead(unneeded: asyncio.Future[Any], needed: Awaitable[Any]) -> Any:
    unneeded.cancel()
    return await needed


async def _equip(
    service: Service, sandbox: AsyncSandbox, wanted: DaytonaSandbox, found: Found, order: dict[str, Any]
) -> Place:
    """Bring what the sandbox has not, and return where things are."""
    ours = runtime()
    port = _usable(found, wanted)
    python, path = found.python, ""
    async with contextlib.AsyncExitStack() as stack:
        if wanted.upload or (wanted.upload is None and not found.installed):
            path = f"{found.folder}/{ours.file}"
            if not found.uploaded:
                log.info("uploading the relay (%d KiB)", len(ours.data) >> 10)
                uploaded = await stack.enter_async_context(_together(_upload(sandbox, ours.data, path)))
                stack.push_async_callback(asyncio.wait_for, uploaded, None)
        if found.missing:
            log.info("installing %s in the sandbox", " and ".join(found.missing))
            installed = await service.prepare(sandbox, "install", wanted.python, **order)
            try:
                python = parse_install(installed)
            except LookupError as error:
                raise SandboxFailed(_uninstallable(found.missing, str(error), wanted)) from None
    folder = f"{found.folder}/session-{secrets.token_hex(4)}"
    return Place(python, path, folder, found.cwd, port)


def _usable(found: Found, wanted: DaytonaSandbox) -> int:
    """Return the relay's port, if its Python will do."""
    if found.version < _OLDEST_PYTHON:
        version = ".".join(map(str, found.version))
        raise SandboxFailed(
            f"the Daytona sandbox has Python {version} ({found.python}), and the kernel needs 3.10 or later: "
            "choose another image, or name its python"
        )
    if found.port is None:
        taken = f"port {wanted.port} is" if wanted.port else "every port for the relay is"
        raise SandboxFailed(f"{taken} taken in the Daytona sandbox: choose another with DaytonaSandbox(port=...)")
    return found.port


def _uninstallable(missing: tuple[str, ...], said: str, wanted: DaytonaSandbox) -> str:
    why = " and the sandbox has no way out (network_block_all)" if wanted.network_block_all else ""
    return (
        f"{' and '.join(missing)} could not be installed in the Daytona sandbox{why}: "
        f"choose an image or snapshot that has them. It said: {said}"
    )


async def _upload(sandbox: AsyncSandbox, data: bytes, path: str) -> None:
    from daytona import DaytonaError

    try:
        await sandbox.fs.upload_file(data, path)
    except DaytonaError as error:
        raise SandboxFailed(f"the relay could not be uploaded to the Daytona sandbox: {error}") from error


@contextlib.asynccontextmanager
async def _together(work: Any) -> Any:
    """Let ``work`` go on meanwhile; it is cancelled when the block fails."""
    task = asyncio.ensure_future(work)
    try:
        yield task
    except BaseException:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise


async def _clean_up(service: Service, mark: str, made: list[str], error: BaseException) -> None:
    """Delete what was made, whether its create answered or not.

    A sandbox that is just changing cannot be deleted yet: the caller need not wait for that.
    """
    task = asyncio.ensure_future(_remove(service, mark, made, error))
    _cleaning.add(task)
    task.add_done_callback(_cleaning.discard)
    await asyncio.wait({task}, timeout=_CLEAN_UP_S)


async def _remove(service: Service, mark: str, made: list[str], error: BaseException) -> None:
    try:
        if made:
            await service.delete(made[0], busy_s=_BUSY_S)
        else:
            status = getattr(error.__cause__, "status_code", None)
            answered = status is not None and 400 <= status < 500  # so what it made, if anything, is there by now
            await service.remove_made(mark, sure=answered, busy_s=_BUSY_S)
    except SandboxFailed as failed:
        log.warning("%s; it ends by itself", failed)
    finally:
        await service.aclose()
