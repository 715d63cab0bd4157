"""A started sandbox at Daytona: its relay launched, watched and launched again, its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import shlex
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ...config import preview_address
from ...errors import SandboxFailed, SandboxGone
from ...runtime import cleanup as registry
from ..base import RelayAddress
from . import labels as owner
from .api import DaytonaAPI, state_of
from .error_text import error_sentence

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from daytona import AsyncSandbox

    from . import DaytonaSandbox

log = logging.getLogger(__name__)

TOKEN_HEADER = "X-Daytona-Preview-Token"
# The preview proxy remembers for 5 s that a token was bad, and the API for 3 s what it said of one.
_REFUSED_TIMEOUT_S = 12.0
_CHECK_S = 1.0  # between looks at what became of a relay that does not answer
_REQUEST_S = 15.0
_RESUME_S = 60.0
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_RUNNING = ("started", "starting", "resuming")
_GONE = ("destroyed", "destroying")
_ENDED = ("stopped", "stopping", "archived", "archiving", "error", "build_failed")
_DELETED = "the Daytona sandbox was deleted, and kernel and variables with it"


@dataclass(frozen=True)
class SandboxPaths:
    """Where things are in a sandbox."""

    python: str
    path: str  # of the runtime, for PYTHONPATH; empty: Python finds it
    folder: str  # of this session: journal, keys, kernels
    cwd: str
    port: int


@dataclass(frozen=True)
class RelayCommand:
    """A relay, as the toolbox knows it."""

    session: str  # empty: it is a process of its own
    command: str  # then: process id, and when it started as /proc has it


class RunningDaytonaSandbox:
    """A sandbox of this process, or one taken up from a host that is gone. Lives on the I/O loop."""

    def __init__(
        self, description: DaytonaSandbox, service: DaytonaAPI | None, sandbox: AsyncSandbox | None, sandbox_id: str
    ) -> None:
        self.id = sandbox_id
        self._description, self._api, self._sandbox = description, service, sandbox
        self._paths: SandboxPaths | None = None
        self._relay_command: RelayCommand | None = None
        self._address: RelayAddress | None = None
        self._owned = sandbox is not None  # its labels name this process
        self._last_checked_at = float("-inf")
        self._preview_silent = False  # started, by its state, and without an answer from anything in it
        self._stopped = False
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    def adopt(cls, record: Mapping[str, Any]) -> RunningDaytonaSandbox:
        """Return the sandbox of a host that is gone, from its :meth:`record`.

        Raises:
            KeyError, TypeError, ValueError: If it is no such record.
        """
        from . import DaytonaSandbox

        described = DaytonaSandbox(keep=bool(record["keep"]), resume_lifetime=float(record["resume_lifetime"]))
        sandbox = cls(described, None, None, str(record["id"]))
        sandbox._paths = SandboxPaths(**record["place"])
        sandbox._relay_command = RelayCommand(**record["launched"])
        sandbox._address = RelayAddress(
            str(record["url"]), str(record["secret"]), dict(record["headers"]), record["host"], _REFUSED_TIMEOUT_S
        )
        return sandbox

    @property
    def address(self) -> RelayAddress:
        """Where its relay listens, seen from here."""
        assert self._address is not None
        return self._address

    @property
    def region(self) -> str:
        """Where it runs."""
        return "" if self._sandbox is None else str(self._sandbox.target)

    @property
    def resume_lifetime_s(self) -> float:
        """How long the relay waits for a host, in seconds."""
        return self._description.resume_lifetime

    def record(self) -> dict[str, Any] | None:
        """Return what :meth:`adopt` needs, besides the key in the environment."""
        assert self._paths is not None
        assert self._relay_command is not None
        return {
            "kind": "daytona",
            "id": self.id,
            "keep": self._description.keep,
            "resume_lifetime": self._description.resume_lifetime,
            "place": asdict(self._paths),
            "launched": asdict(self._relay_command),
            "url": self.address.url,
            "secret": self.address.secret,
            "headers": dict(self.address.headers),
            "host": self.address.host,
        }

    # --- the relay ------------------------------------------------------------------------------------

    @staticmethod
    def new_session() -> str:
        """Return the name for a toolbox session."""
        return f"daytona-kernel-{secrets.token_hex(4)}"

    async def open_session(self, session: str) -> None:
        """Make a toolbox session, a shell of its own for one relay."""
        sandbox = await self._sdk_sandbox()
        try:
            await sandbox.process.create_session(session, request_timeout=_REQUEST_S)
        except Exception as error:  # the SDK passes on errors of its HTTP client
            if getattr(error, "status_code", None) != 409:  # a request that was repeated on the way
                raise SandboxFailed(
                    f"no relay can be started in the Daytona sandbox: {error_sentence(error)}"
                ) from error

    async def preview(self, port: int) -> Any:
        """Return the address and the token of a port's preview.

        Raises:
            SandboxFailed: If Daytona gives none.
        """
        sandbox = await self._sdk_sandbox()
        try:
            return await sandbox.get_preview_link(port, request_timeout=_REQUEST_S)
        except Exception as error:  # the SDK passes on errors of its HTTP client
            raise SandboxFailed(f"Daytona gives no preview of the sandbox: {error_sentence(error)}") from error

    def use_relay(self, place: SandboxPaths, secret: str, process: str, link: Any) -> None:
        """Take a relay that was told to serve us, and is no command of a session but a ``process``."""
        self._paths, self._relay_command = place, RelayCommand("", process)
        self._address = self._address_of(link, secret)

    async def launch(self, place: SandboxPaths, session: str, link: Any) -> None:
        """Start a relay in a session that was opened; it is about to listen when this returns.

        Its order goes as a file in our folder there, mode 0700, which it reads and deletes: what stands in arguments or
        in the environment can be read by whatever runs in the sandbox.

        Raises:
            SandboxFailed: If it cannot be started.
        """
        from daytona import DaytonaError, SessionExecuteRequest

        sandbox = await self._sdk_sandbox()
        secret = secrets.token_urlsafe(32)
        start_file = f"{place.folder}-start-{secrets.token_hex(4)}.json"
        start_request = {
            **{"secret": secret, "port": place.port, "folder": place.folder, "cwd": place.cwd, "remove": True},
            "lifetime_s": self._description.resume_lifetime,
            "environment": thread_variables(sandbox),
        }
        request = SessionExecuteRequest(command=self._command(place, start_file), run_async=True)
        try:
            # The relay waits for its order, so that nothing here waits for anything else.
            _, started = await _gather(
                sandbox.fs.upload_file(json.dumps(start_request).encode("ascii") + b"\n", start_file),
                sandbox.process.execute_session_command(session, request, timeout=int(_REQUEST_S)),
            )
        except DaytonaError as error:
            raise SandboxFailed(f"no relay can be started in the Daytona sandbox: {error_sentence(error)}") from error
        self._paths, self._relay_command = place, RelayCommand(session, str(started.cmd_id))
        self._address = self._address_of(link, secret)

    def _command(self, place: SandboxPaths, start_file: str) -> str:
        lines = []
        if place.path:
            lines.append(f"export PYTHONPATH={shlex.quote(place.path)}${{PYTHONPATH:+:$PYTHONPATH}}")
        folder = shlex.quote(place.folder)
        lines.append(f"mkdir -p -m 700 {folder} && cd {folder} || exit")  # not where code may have left a json.py
        lines.append(f"exec {shlex.quote(place.python)} -m daytona_kernel_interp.guest.relay {shlex.quote(start_file)}")
        return f"sh -c {shlex.quote('; '.join(lines))} </dev/null"

    def _address_of(self, link: Any, secret: str) -> RelayAddress:
        url = "ws" + str(link.url).removeprefix("http").rstrip("/")
        name = urlsplit(url).hostname or ""
        host = self._description.resolve(name) if self._description.resolve is not None else preview_address(name)
        return RelayAddress(url, secret, {TOKEN_HEADER: str(link.token)}, host, _REFUSED_TIMEOUT_S)

    async def restart_relay(self) -> RelayAddress | None:
        """Find out why the relay cannot be reached, and mend what can be.

        A relay that has ended is started again, a paused sandbox resumed; a token that has changed is taken up.

        Raises:
            SandboxGone: If the sandbox was stopped, restarted or deleted, or its relay ended before it listened.
            SandboxFailed: If Daytona cannot be asked, or the relay not be started now.
        """
        now = asyncio.get_running_loop().time()
        if self._stopped or now - self._last_checked_at < _CHECK_S:
            return None
        self._last_checked_at = now
        sandbox = await self._sdk_sandbox()
        await self._ensure_sandbox_runs(sandbox)
        assert self._paths is not None
        link = await self.preview(self._paths.port)
        address = self._address_of(link, self.address.secret)
        if address.headers != self.address.headers:  # as after every start
            await self._check_kernels_alive(sandbox, self._paths)
        if await self._relay_ended(sandbox):
            log.info("starting the relay in Daytona sandbox %s again", self.id)
            session = self.new_session()
            await self.open_session(session)
            await self.launch(self._paths, session, link)
            return self.address
        if address == self.address:
            return None
        self._address = address
        return address

    async def _ensure_sandbox_runs(self, sandbox: AsyncSandbox) -> None:
        try:
            await sandbox.refresh_data(request_timeout=_REQUEST_S)
        except Exception as error:  # the SDK passes on errors of its HTTP client
            if getattr(error, "status_code", None) == 404:
                raise self._gone_error(_DELETED, sandbox) from error
            raise SandboxFailed(f"Daytona cannot be asked for the sandbox: {error_sentence(error)}") from error
        state = state_of(sandbox)
        if state in ("paused", "pausing"):
            log.info("resuming Daytona sandbox %s", self.id)
            try:
                await sandbox.start(timeout=_RESUME_S)
            except Exception as error:  # the SDK passes on errors of its HTTP client
                raise SandboxFailed(
                    f"the Daytona sandbox is {state} and was not resumed: {error_sentence(error)}"
                ) from error
        elif state in _GONE:
            raise self._gone_error(_DELETED, sandbox)
        elif state in _ENDED:
            why = f" ({sandbox.error_reason})" if sandbox.error_reason else ""
            raise self._gone_error(f"the Daytona sandbox is {state}{why}: kernel and variables are gone", sandbox)
        elif state not in _RUNNING:  # it is resized or copied, or something else goes on that we do not know
            raise SandboxFailed(f"the Daytona sandbox is {state}, and may come back")

    def _gone_error(self, what: str, sandbox: AsyncSandbox) -> SandboxGone:
        # The service gives no reason. What it has is one limit for all that runs, Daytona's own daemon included.
        hint = f"; nothing in it had answered before: it may have run out of its {sandbox.memory:g} GiB of memory"
        return SandboxGone(what + (hint if self._preview_silent else ""))

    async def _relay_ended(self, sandbox: AsyncSandbox) -> bool:
        """Whether the relay's command is over.

        Raises:
            SandboxGone: If it ended before it listened.
        """
        launched = self._relay_command
        assert launched is not None
        process = sandbox.process
        try:
            if not launched.session:
                return await self._process_ended(sandbox, *launched.command.split(" "))
            command = await process.get_session_command(launched.session, launched.command, request_timeout=_REQUEST_S)
            if command.exit_code is None:
                return False
            logs = await process.get_session_command_logs(
                launched.session, launched.command, request_timeout=_REQUEST_S
            )
        except Exception as error:  # the SDK passes on errors of its HTTP client
            if getattr(error, "status_code", None) in (404, 410):
                return True  # sessions end with their sandbox, so it was restarted
            self._preview_silent = getattr(error, "status_code", None) == 502
            raise SandboxFailed(
                f"the Daytona sandbox cannot be asked for its relay: {error_sentence(error)}"
            ) from error
        if '"port"' not in (logs.stdout or ""):
            log_text = (logs.stderr or logs.output or "").strip()[-1000:]
            raise SandboxGone(f"the relay in the Daytona sandbox ended with exit code {command.exit_code}: {log_text}")
        return True

    async def _process_ended(self, sandbox: AsyncSandbox, pid: str, started: str = "") -> bool:
        # Where there is no /proc, as in an emulator on macOS, what is known is that there is a process.
        command = (
            f"if [ -e /proc/self/stat ]; then cat /proc/{int(pid)}/stat; else kill -0 {int(pid)} && echo '() S'; fi"
        )
        reply = await sandbox.process.exec(f"sh -c {shlex.quote(command)} </dev/null", timeout=int(_REQUEST_S))
        state, *rest = reply.result.rpartition(")")[2].split() or ["Z"]
        return reply.exit_code != 0 or state == "Z" or (started != "" and started not in rest)

    async def _check_kernels_alive(self, sandbox: AsyncSandbox, place: SandboxPaths) -> None:
        assert self._api is not None
        was_made = self._relay_command is not None and not self._relay_command.session
        found = await self._api.prepare(sandbox, "lives", place.python, folder=place.folder, was_made=was_made)
        if found.get("lives") is False:
            raise SandboxGone("the Daytona sandbox was restarted: kernel and variables are gone")

    async def _sdk_sandbox(self) -> AsyncSandbox:
        """Return the SDK's object; of a sandbox that was taken up it is fetched now."""
        if self._api is None:
            self._api = await DaytonaAPI.connect()
        if self._sandbox is None:
            self._sandbox = await self._api.get(self.id)
        if not self._owned:
            self._owned = True
            with contextlib.suppress(Exception):  # they only guide `gc`, which looks at sessions too
                await self._sandbox.set_labels({**self._sandbox.labels, **owner.owner()}, request_timeout=_REQUEST_S)
        return self._sandbox

    # --- the end --------------------------------------------------------------------------------------

    def may_be_alive(self) -> bool:
        """Whether it may still run: :meth:`restart_relay` asks."""
        return not self._stopped

    async def stop(self) -> None:
        """Delete the sandbox, or stop one that is kept. Calling it again does nothing.

        A caller that is cancelled, by somebody in a hurry, does not keep it from being done.
        """
        if self._stopped:
            return
        self._stopped = True
        await registry.run_to_completion(self._end())

    async def _end(self) -> None:
        try:
            service = self._api = self._api or await DaytonaAPI.connect()
            await (service.stop if self._description.keep else service.delete)(self.id)
        except SandboxFailed as error:
            minutes = self._description.effective_auto_stop_interval
            log.warning("%s; without a host it stops by itself after %d minutes", error, minutes)
        finally:
            await self._close()

    def release(self) -> None:
        """Leave the sandbox to whoever takes it up; it is not stopped."""
        self._stopped = True
        self._closing = asyncio.get_running_loop().create_task(self._close())

    async def _close(self) -> None:
        service, self._api = self._api, None
        if service is not None and not registry.process_ending():
            await service.aclose()


def thread_variables(sandbox: AsyncSandbox) -> dict[str, str]:
    """Return what tells numeric libraries how many threads to start; os.cpu_count() tells of the whole machine."""
    return dict.fromkeys(_THREADS, str(max(1, int(sandbox.cpu))))


async def _gather(*work: Awaitable[Any]) -> list[Any]:
    """Do things at once; when one fails the others are cancelled."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:  # cancellation, too, must not leave tasks behind
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
