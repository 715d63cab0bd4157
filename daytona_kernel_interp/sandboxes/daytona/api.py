"""The requests to Daytona's service that this package makes, through the async client of its SDK.

The sync client implements its time limits by SIGALRM, or by exceptions raised in threads.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import json
import logging
import os
import random
import shlex
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...config import daytona_credential
from ...errors import SandboxFailed, SandboxGone
from ...runtime import cleanup as registry
from ...wire.backoff import delays
from . import labels as owner
from . import probe_script as prepare
from .error_text import advice, api_url, error_sentence, sdk_errors, url_error
from .snapshot_image import BuildLog, KernelImage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from daytona import AsyncDaytona, AsyncSandbox, CreateSandboxFromImageParams, CreateSandboxFromSnapshotParams, Image

    from . import DaytonaSandbox

    CreateParams = CreateSandboxFromSnapshotParams | CreateSandboxFromImageParams

log = logging.getLogger(__name__)

_REQUEST_S = 15.0
_SCRIPT_S = 300.0
_IMPORT_S = 30.0  # limit of the wait for the SDK's import before a fork
_STATE_POLL_S = (0.0, 0.3, 1.0, 2.0)  # before each search for the sandbox of a create without an answer
_BUSY_S = 30.0  # limit of another change of a sandbox's state
_LAST_S = 8.0  # to delete a busy sandbox at the end of the process; less than the process waits
_LAST_REQUEST_S, _LAST_PAUSE_S = 4.0, 0.5
_PREPARE = Path(prepare.__file__).read_text(encoding="utf-8")


@functools.cache
def begin_import() -> concurrent.futures.Future[None]:
    """Import the SDK in a daemon thread, once, and return the future of the import."""
    done: concurrent.futures.Future[None] = concurrent.futures.Future()
    done.set_running_or_notify_cancel()  # a waiting caller must not cancel the import

    def load() -> None:
        try:
            from daytona import AsyncDaytona, DaytonaError  # noqa: F401 - takes seconds
        except BaseException as error:  # whatever an import raises belongs to the caller that waits for it
            done.set_exception(error)
        else:
            done.set_result(None)

    thread = threading.Thread(target=load, name="daytona-sdk", daemon=True)
    # In a child that is forked during the import, the SDK would stay partly imported.
    os.register_at_fork(before=lambda: thread.join(_IMPORT_S))
    thread.start()
    return done


class DaytonaAPI:
    """A client of the service. Use it from one event loop, and close it."""

    def __init__(self, client: AsyncDaytona) -> None:
        self.client = client
        credential = daytona_credential()
        self._headers = {} if credential is None else credential[1]  # of blocking requests at the end of the process

    @classmethod
    async def connect(cls) -> DaytonaAPI:
        """Return a client.

        Raises:
            SandboxFailed: If there is no key, or the API's URL is invalid.
        """
        importing = begin_import()
        if not importing.done():
            log.info("importing Daytona's SDK", extra={"progress": True})
        await asyncio.wrap_future(importing)
        from daytona import AsyncDaytona, DaytonaError

        if (wrong := url_error()) is not None:
            raise SandboxFailed(wrong)
        try:
            return cls(AsyncDaytona())
        except DaytonaError as error:
            raise SandboxFailed(
                "No key for Daytona: set DAYTONA_API_KEY in the environment or in .env, "
                'or choose another sandbox, such as sandbox="local".'
            ) from error

    async def aclose(self) -> None:
        """Close every connection."""
        with contextlib.suppress(Exception):  # the client is not used again, however its end goes
            await asyncio.wait_for(self.client.close(), _REQUEST_S)  # type: ignore[no-untyped-call]

    async def create(self, description: DaytonaSandbox, labels: dict[str, str]) -> AsyncSandbox:
        """Create a sandbox, and wait until it has started.

        Raises:
            SandboxFailed: If that failed. A sandbox may exist nevertheless: see :meth:`delete_failed_create`.
        """
        from daytona import DaytonaError

        image, build = description.source_image, BuildLog()
        follow = {} if image is None else {"on_snapshot_create_logs": build}
        try:
            with image.for_sdk() if isinstance(image, KernelImage) else contextlib.nullcontext(image) as sdk_image:
                ttl_is_default = description.sdk_option("ttl_minutes") is None
                return await self._create(create_params(description, labels, sdk_image), ttl_is_default, follow)
        except (DaytonaError, ValueError) as error:  # ValueError: the SDK's models refuse an answer
            raise SandboxFailed(
                f"Daytona did not create a sandbox: {error_sentence(error)}{advice(description, error)}{build.end()}"
            ) from error

    async def _create(self, params: CreateParams, ttl_is_default: bool, follow: dict[str, BuildLog]) -> AsyncSandbox:
        from daytona import DaytonaError

        try:
            return await self.client.create(params, timeout=0, **follow)
        except DaytonaError as error:
            # Some servers or organisations may not support a limit to the whole life of a sandbox.
            if not ttl_is_default or error.status_code not in (400, 403, 422) or "ttl" not in str(error).lower():
                raise
            params.ttl_minutes = None
            return await self.client.create(params, timeout=0, **follow)

    async def get(self, sandbox_id: str) -> AsyncSandbox:
        """Return a sandbox.

        Raises:
            SandboxGone: If it does not exist.
            SandboxFailed: If the request failed.
        """
        from daytona import DaytonaError

        try:
            return await self.client.get(sandbox_id)
        except DaytonaError as error:
            if error.status_code == 404:
                raise SandboxGone("the Daytona sandbox was deleted; kernel and variables are lost") from error
            raise SandboxFailed(f"the request for the Daytona sandbox failed: {error_sentence(error)}") from error

    async def snapshot_state(self, name: str) -> str:
        """Return a snapshot's state; raise the SDK's own errors."""
        found = await self.client.snapshot.get(name)
        return str(getattr(found.state, "value", found.state))

    async def list(self, labels: dict[str, str]) -> AsyncIterator[AsyncSandbox]:
        """Yield the sandboxes with these labels."""
        from daytona import ListSandboxesQuery

        async for found in self.client.list(ListSandboxesQuery(labels=labels)):
            yield found

    async def delete_failed_create(self, start: str, *, sure: bool, busy_s: float) -> None:
        """Delete the sandbox of a create that failed, or that was cancelled before its answer.

        ``sure``: the create was answered, so one search is enough.

        Raises:
            SandboxFailed: If Daytona does not delete it.
        """
        from daytona import DaytonaError

        for delay_s in _STATE_POLL_S[:1] if sure else _STATE_POLL_S:
            await asyncio.sleep(delay_s)
            try:
                found = [made async for made in self.list({owner.START_LABEL: start})]
            except DaytonaError as error:
                if error.status_code in (401, 403):
                    return  # then the create was not allowed either
                continue
            for made in found:
                await self.end(made.id, busy_s=busy_s)
            if found:
                return

    async def end(self, sandbox_id: str, *, delete: bool = True, busy_s: float = _BUSY_S) -> None:
        """Delete a sandbox, or stop it and keep its disk. Do nothing if it does not exist.

        Raises:
            SandboxFailed: If Daytona does not do it in time.
        """
        from daytona import DaytonaError

        loop = asyncio.get_running_loop()
        deadline = loop.time() + busy_s
        waits = delays(random.random)
        while True:
            if registry.process_ending():
                return await self._end_now(sandbox_id, delete=delete)
            try:
                found = await self.client.get(sandbox_id)
                if delete:
                    await self.client.delete(found, timeout=_REQUEST_S)
                elif state_of(found) not in ("stopped", "stopping", "archived"):
                    await found.stop(timeout=_REQUEST_S)
                return
            except DaytonaError as error:
                if error.status_code in (404, 410):
                    return
                busy = "state change in progress" in str(error).lower()  # seen with 409, and with 400
                final = error.status_code in (400, 401, 403) and not busy
                if final or loop.time() > deadline:
                    what = "deleted" if delete else "stopped"
                    raise SandboxFailed(
                        f"the Daytona sandbox {sandbox_id} was not {what}: {error_sentence(error)}"
                    ) from error
            await asyncio.sleep(next(waits))

    async def _end_now(self, sandbox_id: str, *, delete: bool) -> None:
        """Delete or stop a sandbox by blocking requests, in a process that is about to end.

        The event loop has no executor then, so the SDK's calls may never finish. The pauses between attempts let the
        ends of other sandboxes proceed.
        """
        path = f"{api_url()}/sandbox/{urllib.parse.quote(sandbox_id)}"
        request = urllib.request.Request(path if delete else f"{path}/stop", method="DELETE" if delete else "POST")
        for name, value in self._headers.items():
            request.add_unredirected_header(name, value)  # a redirect must not get the key
        deadline = time.monotonic() + _LAST_S
        while not _done(request):
            if time.monotonic() > deadline:
                return
            await asyncio.sleep(_LAST_PAUSE_S)


def _done(request: urllib.request.Request) -> bool:
    """Send a blocking request; return whether there is no reason to repeat it."""
    try:
        urllib.request.urlopen(request, timeout=_LAST_REQUEST_S).close()
    except urllib.error.HTTPError as error:
        with error:
            return error.code in (401, 403, 404, 410)
    except OSError:
        return False
    return True


def state_of(sandbox: AsyncSandbox) -> str:
    """Return a sandbox's last known state."""
    return "unknown" if sandbox.state is None else str(getattr(sandbox.state, "value", sandbox.state))


def create_params(description: DaytonaSandbox, labels: Mapping[str, str], image: Image | str | None) -> CreateParams:
    """Return the parameters of the create request; ``image`` is the description's as the SDK takes it.

    Raises:
        SandboxFailed: If the installed SDK is too old for one of the options.
    """
    if description.params is None:
        params = _params_of_options(description, image)
    else:
        params = description.params.model_copy(deep=True)
    params.labels = {**(params.labels or {}), **labels}
    params.auto_stop_interval = description.effective_auto_stop_interval
    if params.auto_delete_interval is None and not description.keep:
        params.auto_delete_interval = 0
    if hasattr(params, "ttl_minutes"):  # not in the oldest SDKs
        params.ttl_minutes = description.effective_ttl_minutes or None
    if params.public is None:
        params.public = False
    if hasattr(params, "snapshot"):
        params.snapshot = description.snapshot_name
    return params


def _params_of_options(description: DaytonaSandbox, image: Image | str | None) -> CreateParams:
    from daytona import CreateSandboxFromImageParams, CreateSandboxFromSnapshotParams, Resources, VolumeMount

    volumes = description.volumes
    if isinstance(volumes, Mapping):
        volumes = [VolumeMount(volume_id=name, mount_path=path) for name, path in volumes.items()]
    options: dict[str, Any] = {
        "env_vars": dict(description.env_vars),
        "labels": dict(description.labels),
        "ttl_minutes": description.ttl_minutes,
        "target": description.target,
        "volumes": list(volumes),
        "network_block_all": description.network_block_all,
        "network_allow_list": description.network_allow_list,
        "domain_allow_list": description.domain_allow_list,
    }
    options = {name: value for name, value in options.items() if value}
    # The SDK's models drop a name that they do not know without an error.
    if unknown := options.keys() - CreateSandboxFromSnapshotParams.model_fields.keys():
        raise SandboxFailed(
            f"this version of Daytona's SDK has no option {', '.join(sorted(unknown))}: "
            "install a newer one with pip install --upgrade daytona"
        )
    if image is None:
        return CreateSandboxFromSnapshotParams(**options)
    resources: Any = description.resources
    if isinstance(resources, Mapping):
        resources = Resources(**resources)
    return CreateSandboxFromImageParams(image=image, resources=resources, **options)


async def run_script(
    sandbox: AsyncSandbox, do: str, python: str | None, facts: Mapping[str, object], timeout_s: float = _SCRIPT_S
) -> dict[str, Any]:
    """Run ``probe_script.py`` in the sandbox, and return its answer.

    Raises:
        SandboxFailed: If the sandbox has no Python, or the script printed no answer.
    """
    candidates = " ".join(shlex.quote(name) for name in ([python] if python else ["python3", "python"]))
    request = shlex.quote(json.dumps({"do": do, **facts}))
    # Not in a folder in which cells may have written a json.py.
    enter = f"cd {shlex.quote(str(facts['folder']))} 2>/dev/null; " if "folder" in facts else ""
    script = (
        f'{enter}for python in {candidates}; do if command -v "$python" >/dev/null 2>&1; then '
        f'exec "$python" -c {shlex.quote(_PREPARE)} {request}; fi; done; echo no python here; exit 127'
    )
    with sdk_errors("the Daytona sandbox is not usable"):
        # Not the image's shell: zsh would read some of this differently.
        done = await sandbox.process.exec(f"sh -c {shlex.quote(script)} </dev/null", timeout=int(timeout_s))
    for line in reversed(done.result.splitlines()):
        if line.startswith(prepare.MARK):
            with contextlib.suppress(ValueError, RecursionError):
                if isinstance(answer := json.loads(line[len(prepare.MARK) :]), dict):
                    return answer
    if done.exit_code == 127:
        named = repr(python) if python else "Python"
        raise SandboxFailed(f"the Daytona sandbox has no {named}: choose an image or snapshot that has one")
    raise SandboxFailed(f"the Daytona sandbox could not be prepared: {done.result.strip()[-1000:]}")
