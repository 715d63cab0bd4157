"""A running sandbox at Daytona: start its relay, check it, start it again, and end the sandbox."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ...config import preview_address
from ...errors import SandboxFailed, SandboxGone
from ...runtime import cleanup as registry
from ..base import RelayAddress, ServiceRefused
from . import labels as owner
from .api import DaytonaAPI, run_script, state_of
from .error_text import error_sentence, sdk_errors
from .probe import SandboxPaths, ServingRelay, parse_start

if TYPE_CHECKING:
    from collections.abc import Mapping

    from daytona import AsyncSandbox

    from . import DaytonaSandbox

log = logging.getLogger(__name__)

TOKEN_HEADER = "X-Daytona-Preview-Token"
# The preview proxy caches for 5 s that a token is invalid, and the API caches its answer for 3 s.
_REFUSED_TIMEOUT_S = 12.0
# The proxy answers each of them also when the API or the runner behind it is in trouble.
_FINAL_REFUSALS: frozenset[int] = frozenset()
_CHECK_S = 1.0  # between checks of a relay that does not answer
_REQUEST_S = 15.0
_RESUME_S = 60.0
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_RUNNING = ("started", "starting", "resuming")
_GONE = ("destroyed", "destroying")
_ENDED = ("stopped", "stopping", "archived", "archiving", "error", "build_failed")
_DELETED = "the Daytona sandbox was deleted; kernel and variables are lost"


class RunningDaytonaSandbox:
    """A sandbox that this process created, or adopted from a host that has ended. Use it on the I/O loop."""

    def __init__(
        self, description: DaytonaSandbox, service: DaytonaAPI | None, sandbox: AsyncSandbox | None, sandbox_id: str
    ) -> None:
        self.id = sandbox_id
        self._description, self._api, self._sandbox = description, service, sandbox
        self._paths: SandboxPaths
        self._process = ""  # of the relay: process id and start time from /proc; empty: unknown
        self.address: RelayAddress  # as this process reaches it
        self.resume_lifetime_s = description.resume_lifetime
        self._owned = sandbox is not None  # whether its labels name this process
        self._last_checked_at = float("-inf")
        self._preview_silent = False  # its state is started, but nothing in it answers
        self._stopped = False
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    def adopt(cls, record: Mapping[str, Any]) -> RunningDaytonaSandbox:
        """Adopt the sandbox of a host that has ended, from its :meth:`record`.

        Raises:
            KeyError, TypeError, ValueError: If the record is invalid.
        """
        from . import DaytonaSandbox

        described = DaytonaSandbox(keep=bool(record["keep"]), resume_lifetime=float(record["resume_lifetime"]))
        sandbox = cls(described, None, None, str(record["id"]))
        sandbox._paths = SandboxPaths.model_validate(record["place"])
        if not record["launched"]["session"]:  # earlier versions ran it in a toolbox session
            sandbox._process = str(record["launched"]["command"])
        sandbox.address = RelayAddress(
            str(record["url"]),
            str(record["secret"]),
            dict(record["headers"]),
            record["host"],
            _REFUSED_TIMEOUT_S,
            _FINAL_REFUSALS,
        )
        return sandbox

    @property
    def region(self) -> str:
        """The region in which it runs; an empty text if that is unknown."""
        return "" if self._sandbox is None else str(self._sandbox.target)

    def record(self) -> dict[str, Any] | None:
        """Return what :meth:`adopt` needs in addition to the key in the environment."""
        return {
            "kind": "daytona",
            "id": self.id,
            "keep": self._description.keep,
            "resume_lifetime": self._description.resume_lifetime,
            "place": self._paths.facts(),
            "launched": {"session": "", "command": self._process},
            "url": self.address.url,
            "secret": self.address.secret,
            "headers": dict(self.address.headers),
            "host": self.address.host,
        }

    # --- the relay ------------------------------------------------------------------------------------

    async def preview(self, port: int) -> RelayAddress:
        """Return the address of a port's preview, without the relay's secret.

        Raises:
            SandboxFailed: If the request failed.
        """
        sandbox = await self._sdk_sandbox()
        with sdk_errors("Daytona returned no preview of the sandbox"):
            link = await sandbox.get_preview_link(port, request_timeout=_REQUEST_S)
        url = "ws" + str(link.url).removeprefix("http").rstrip("/")
        name = urlsplit(url).hostname or ""
        host = self._description.resolve(name) if self._description.resolve is not None else preview_address(name)
        return RelayAddress(url, "", {TOKEN_HEADER: str(link.token)}, host, _REFUSED_TIMEOUT_S, _FINAL_REFUSALS)

    def use_relay(self, relay: ServingRelay, preview: RelayAddress) -> None:
        """Use a relay that is serving."""
        self._paths, self._process = relay, relay.process
        self.address = replace(preview, secret=relay.secret)

    async def start_relay(self, place: SandboxPaths) -> ServingRelay:
        """Start a relay, which adopts the kernels that an earlier one left in its folder.

        Raises:
            SandboxFailed: If it cannot be started.
        """
        sandbox = await self._sdk_sandbox()
        facts = {"lifetime_s": self._description.resume_lifetime, "environment": thread_variables(sandbox)}
        return parse_start(await run_script(sandbox, "start", place.python, {**place.facts(), **facts}))

    async def restart_relay(self) -> RelayAddress | None:
        """Determine why the relay cannot be reached, and repair it.

        Start a relay that has ended, resume a paused sandbox, and use a token that has changed. The address is
        returned if the API says that the sandbox runs and gives this very link.

        Raises:
            ServiceRefused: If the API refuses the key.
            SandboxGone: If the sandbox was stopped, restarted or deleted.
            SandboxFailed: If a request failed, or if the relay cannot be started now.
        """
        now = asyncio.get_running_loop().time()
        if self._stopped or now - self._last_checked_at < _CHECK_S:
            return None
        self._last_checked_at = now
        sandbox = await self._sdk_sandbox()
        await self._ensure_sandbox_runs(sandbox)
        preview = await self.preview(self._paths.port)
        address = replace(preview, secret=self.address.secret)
        found = await self._check_processes(sandbox, self._paths)
        # The token changes at every start of the sandbox.
        if address.headers != self.address.headers and found.get("kernels") is False:
            raise SandboxGone("the Daytona sandbox was restarted: kernel and variables are lost")
        if found.get("relay") is False:
            log.info("starting the relay in Daytona sandbox %s again", self.id)
            self.use_relay(await self.start_relay(self._paths), preview)
            return self.address
        self.address = address
        return address

    async def _ensure_sandbox_runs(self, sandbox: AsyncSandbox) -> None:
        try:
            await sandbox.refresh_data(request_timeout=_REQUEST_S)
        except Exception as error:  # the SDK passes on errors of its HTTP client
            if getattr(error, "status_code", None) == 404:
                raise self._gone_error(_DELETED, sandbox) from error
            failed = ServiceRefused if getattr(error, "status_code", None) in (401, 403) else SandboxFailed
            raise failed(f"the request for the Daytona sandbox failed: {error_sentence(error)}") from error
        state = state_of(sandbox)
        if state in ("paused", "pausing"):
            log.info("resuming Daytona sandbox %s", self.id)
            with sdk_errors(f"the Daytona sandbox is {state} and was not resumed"):
                await sandbox.start(timeout=_RESUME_S)
        elif state in _GONE:
            raise self._gone_error(_DELETED, sandbox)
        elif state in _ENDED:
            why = f" ({sandbox.error_reason})" if sandbox.error_reason else ""
            raise self._gone_error(f"the Daytona sandbox is {state}{why}: kernel and variables are lost", sandbox)
        elif state not in _RUNNING:  # such as resizing, or a state that this version does not know
            raise SandboxFailed(f"the Daytona sandbox is {state}, and may come back")

    def _gone_error(self, what: str, sandbox: AsyncSandbox) -> SandboxGone:
        # The service reports no reason. Its memory limit covers all processes, Daytona's daemon included.
        hint = f"; nothing in it had answered before: it may have run out of its {sandbox.memory:g} GiB of memory"
        return SandboxGone(what + (hint if self._preview_silent else ""))

    async def _check_processes(self, sandbox: AsyncSandbox, place: SandboxPaths) -> Mapping[str, object]:
        """Return whether the relay and any of its kernels are alive: False if not, something else if unknown."""
        facts = {"folder": place.folder, "process": self._process}
        try:
            return await run_script(sandbox, "check", place.python, facts, _REQUEST_S)
        except SandboxFailed as error:
            # When the daemon has died, the runner says 502 at first, then 400 "no IP address found".
            status = getattr(error.__cause__, "status_code", None)
            self._preview_silent = status == 502 or (status == 400 and "no IP address" in str(error.__cause__))
            raise

    async def _sdk_sandbox(self) -> AsyncSandbox:
        """Return the SDK's object; fetch that of an adopted sandbox at the first call."""
        if self._api is None:
            self._api = await DaytonaAPI.connect()
        if self._sandbox is None:
            self._sandbox = await self._api.get(self.id)
        if not self._owned:
            self._owned = True
            with contextlib.suppress(Exception):  # the labels only guide `gc`, which checks session files as well
                await self._sandbox.set_labels({**self._sandbox.labels, **owner.owner()}, request_timeout=_REQUEST_S)
        return self._sandbox

    # --- the end --------------------------------------------------------------------------------------

    def may_be_alive(self) -> bool:
        """Return whether it may be running; :meth:`restart_relay` asks the service."""
        return not self._stopped

    async def stop(self) -> None:
        """Delete the sandbox, or stop one that is kept. Further calls do nothing.

        It is completed even if the caller is cancelled.
        """
        if self._stopped:
            return
        self._stopped = True
        await registry.run_to_completion(self._end())

    async def _end(self) -> None:
        try:
            service = self._api = self._api or await DaytonaAPI.connect()
            await service.end(self.id, delete=not self._description.keep)
        except SandboxFailed as error:
            minutes = self._description.effective_auto_stop_interval
            log.warning("%s; without a host it stops by itself after %d minutes", error, minutes)
        finally:
            await self._close()

    def release(self) -> None:
        """Leave the sandbox running for a process that adopts it."""
        self._stopped = True
        self._closing = asyncio.get_running_loop().create_task(self._close())

    async def _close(self) -> None:
        service, self._api = self._api, None
        if service is not None and not registry.process_ending():
            await service.aclose()


def thread_variables(sandbox: AsyncSandbox) -> dict[str, str]:
    """Return the variables that limit the threads of numeric libraries; os.cpu_count() is that of the whole machine."""
    return dict.fromkeys(_THREADS, str(max(1, int(sandbox.cpu))))
