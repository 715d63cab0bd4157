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
from .api import Service, state_of
from .error_text import sentence

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from daytona import AsyncSandbox

    from . import DaytonaSandbox

log = logging.getLogger(__name__)

TOKEN_HEADER = "X-Daytona-Preview-Token"
# The preview proxy remembers for 5 s that a token was bad, and the API for 3 s what it said of one.
_REFUSED_FOR_S = 12.0
_LOOK_S = 1.0  # between looks at what became of a relay that does not answer
_REQUEST_S = 15.0
_RESUME_S = 60.0
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_RUNNING = ("started", "starting", "resuming")
_GONE = ("destroyed", "destroying")
_ENDED = ("stopped", "stopping", "archived", "archiving", "error", "build_failed")
_DELETED = "the Daytona sandbox was deleted, and kernel and variables with it"


@dataclass(frozen=True)
class Place:
    """Where things are in a sandbox."""

    python: str
    path: str  # of the runtime, for PYTHONPATH; empty: Python finds it
    folder: str  # of this session: journal, keys, kernels
    cwd: str
    port: int


@dataclass(frozen=True)
class Launched:
    """A relay, as the toolbox knows it."""

    session: str  # empty: it is a process of its own
    command: str  # then: process id, and when it started as /proc has it


class RunningDaytonaSandbox:
    """A sandbox of this process, or one taken up from a host that is gone. Lives on the I/O loop."""

    def __init__(
        self, description: DaytonaSandbox, service: Service | None, sandbox: AsyncSandbox | None, sandbox_id: str
    ) -> None:
        self.id = sandbox_id
        self._description, self._service, self._sandbox = description, service, sandbox
        self._place: Place | None = None
        self._launched: Launched | None = None
        self._address: RelayAddress | None = None
        self._owned = sandbox is not None  # its labels name this process
        self._looked_at = float("-inf")
        self._silent = False  # started, by its state, and without an answer from anything in it
        self._stopped = False
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    def take_up(cls, record: Mapping[str, Any]) -> RunningDaytonaSandbox:
        """Return the sandbox of a host that is gone, from its :meth:`record`.

        Raises:
            KeyError, TypeError, ValueError: If it is no such record.
        """
        from . import DaytonaSandbox

        described = DaytonaSandbox(keep=bool(record["keep"]), resume_lifetime=float(record["resume_lifetime"]))
        sandbox = cls(described, None, None, str(record["id"]))
        sandbox._place = Place(**record["place"])
        sandbox._launched = Launched(**record["launched"])
        sandbox._address = RelayAddress(
            str(record["url"]), str(record["secret"]), dict(record["headers"]), record["host"], _REFUSED_FOR_S
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
        """Return what :meth:`take_up` needs, besides the key in the environment."""
        assert self._place is not None
        assert self._launched is not None
        return {
            "kind": "daytona",
            "id": self.id,
            "keep": self._description.keep,
            "resume_lifetime": self._description.resume_lifetime,
            "place": asdict(self._place),
            "launched": asdict(self._launched),
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
        sandbox = await self._connected()
        try:
            await sandbox.process.create_session(session, request_timeout=_REQUEST_S)
        except Exception as error:
            if getattr(error, "status_code", None) != 409:  # a request that was repeated on the way
                raise SandboxFailed(f"no relay can be started in the Daytona sandbox: {sentence(error)}") from error

    async def preview(self, port: int) -> Any:
        """Return the address and the token of a port's preview.

        Raises:
            SandboxFailed: If Daytona gives none.
        """
        sandbox = await self._connected()
        try:
            return await sandbox.get_preview_link(port, request_timeout=_REQUEST_S)
        except Exception as error:
            raise SandboxFailed(f"Daytona gives no preview of the sandbox: {sentence(error)}") from error

    def take_relay(self, place: Place, secret: str, process: str, link: Any) -> None:
        """Take a relay that was told to serve us, and is no command of a session but a ``process``."""
        self._place, self._launched = place, Launched("", process)
        self._address = self._address_of(link, secret)

    async def launch(self, place: Place, session: str, link: Any) -> None:
        """Start a relay in a session that was opened; it is about to listen when this returns.

        Its order goes as a file in our folder there, mode 0700, which it reads and deletes: what stands in arguments or
        in the environment can be read by whatever runs in the sandbox.

        Raises:
            SandboxFailed: If it cannot be started.
        """
        from daytona import DaytonaError, SessionExecuteRequest

        sandbox = await self._connected()
        secret = secrets.token_urlsafe(32)
        order_file = f"{place.folder}-order-{secrets.token_hex(4)}.json"
        order = {
            **{"secret": secret, "port": place.port, "folder": place.folder, "cwd": place.cwd, "remove": True},
            "lifetime_s": self._description.resume_lifetime,
        }
        request = SessionExecuteRequest(command=self._command(place, order_file, sandbox), run_async=True)
        try:
            # The relay waits for its order, so that nothing here waits for anything else.
            _, begun = await _all(
                sandbox.fs.upload_file(json.dumps(order).encode("ascii") + b"\n", order_file),
                sandbox.process.execute_session_command(session, request, timeout=int(_REQUEST_S)),
            )
        except DaytonaError as error:
            raise SandboxFailed(f"no relay can be started in the Daytona sandbox: {sentence(error)}") from error
        self._place, self._launched = place, Launched(session, str(begun.cmd_id))
        self._address = self._address_of(link, secret)

    def _command(self, place: Place, order_file: str, sandbox: AsyncSandbox) -> str:
        lines = [f"export {name}=${{{name}:-{count}}}" for name, count in threads(sandbox).items()]
        if place.path:
            lines.append(f"export PYTHONPATH={shlex.quote(place.path)}${{PYTHONPATH:+:$PYTHONPATH}}")
        folder = shlex.quote(place.folder)
        lines.append(f"mkdir -p -m 700 {folder} && cd {folder} || exit")  # not where code may have left a json.py
        lines.append(f"exec {shlex.quote(place.python)} -m daytona_kernel_interp.guest.relay {shlex.quote(order_file)}")
        return f"sh -c {shlex.quote('; '.join(lines))} </dev/null"

    def _address_of(self, link: Any, secret: str) -> RelayAddress:
        url = "ws" + str(link.url).removeprefix("http").rstrip("/")
        name = urlsplit(url).hostname or ""
        host = self._description.resolve(name) if self._description.resolve is not None else preview_address(name)
        return RelayAddress(url, secret, {TOKEN_HEADER: str(link.token)}, host, _REFUSED_FOR_S)

    async def revive(self) -> RelayAddress | None:
        """Find out why the relay cannot be reached, and mend what can be.

        A relay that has ended is started again, a paused sandbox resumed; a token that has changed is taken up.

        Raises:
            SandboxGone: If the sandbox was stopped, restarted or deleted, or its relay ended before it listened.
            SandboxFailed: If Daytona cannot be asked, or the relay not be started now.
        """
        now = asyncio.get_running_loop().time()
        if self._stopped or now - self._looked_at < _LOOK_S:
            return None
        self._looked_at = now
        sandbox = await self._connected()
        await self._see_that_it_runs(sandbox)
        assert self._place is not None
        link = await self.preview(self._place.port)
        address = self._address_of(link, self.address.secret)
        if address.headers != self.address.headers:  # as after every start
            await self._see_that_kernels_live(sandbox, self._place)
        if await self._relay_ended(sandbox):
            log.info("starting the relay in Daytona sandbox %s again", self.id)
            session = self.new_session()
            await self.open_session(session)
            await self.launch(self._place, session, link)
            return self.address
        if address == self.address:
            return None
        self._address = address
        return address

    async def _see_that_it_runs(self, sandbox: AsyncSandbox) -> None:
        try:
            await sandbox.refresh_data(request_timeout=_REQUEST_S)
        except Exception as error:
            if getattr(error, "status_code", None) == 404:
                raise self._gone(_DELETED, sandbox) from error
            raise SandboxFailed(f"Daytona cannot be asked for the sandbox: {sentence(error)}") from error
        state = state_of(sandbox)
        if state in ("paused", "pausing"):
            log.info("resuming Daytona sandbox %s", self.id)
            try:
                await sandbox.start(timeout=_RESUME_S)
            except Exception as error:
                raise SandboxFailed(f"the Daytona sandbox is {state} and was not resumed: {sentence(error)}") from error
        elif state in _GONE:
            raise self._gone(_DELETED, sandbox)
        elif state in _ENDED:
            why = f" ({sandbox.error_reason})" if sandbox.error_reason else ""
            raise self._gone(f"the Daytona sandbox is {state}{why}: kernel and variables are gone", sandbox)
        elif state not in _RUNNING:  # it is resized or copied, or something else goes on that we do not know
            raise SandboxFailed(f"the Daytona sandbox is {state}, and may come back")

    def _gone(self, what: str, sandbox: AsyncSandbox) -> SandboxGone:
        # The service gives no reason. What it has is one limit for all that runs, Daytona's own daemon included.
        hint = f"; nothing in it had answered before: it may have run out of its {sandbox.memory:g} GiB of memory"
        return SandboxGone(what + (hint if self._silent else ""))

    async def _relay_ended(self, sandbox: AsyncSandbox) -> bool:
        """Whether the relay's command is over.

        Raises:
            SandboxGone: If it ended before it listened.
        """
        launched = self._launched
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
        except Exception as error:
            if getattr(error, "status_code", None) in (404, 410):
                return True  # sessions end with their sandbox, so it was restarted
            self._silent = getattr(error, "status_code", None) == 502
            raise SandboxFailed(f"the Daytona sandbox cannot be asked for its relay: {sentence(error)}") from error
        if '"port"' not in (logs.stdout or ""):
            said = (logs.stderr or logs.output or "").strip()[-1000:]
            raise SandboxGone(f"the relay in the Daytona sandbox ended with exit code {command.exit_code}: {said}")
        return True

    async def _process_ended(self, sandbox: AsyncSandbox, pid: str, started: str = "") -> bool:
        # Where there is no /proc, as in an emulator on macOS, what is known is that there is a process.
        look = f"if [ -e /proc/self/stat ]; then cat /proc/{int(pid)}/stat; else kill -0 {int(pid)} && echo '() S'; fi"
        told = await sandbox.process.exec(f"sh -c {shlex.quote(look)} </dev/null", timeout=int(_REQUEST_S))
        state, *rest = told.result.rpartition(")")[2].split() or ["Z"]
        return told.exit_code != 0 or state == "Z" or (started != "" and started not in rest)

    async def _see_that_kernels_live(self, sandbox: AsyncSandbox, place: Place) -> None:
        assert self._service is not None
        was_made = self._launched is not None and not self._launched.session
        found = await self._service.prepare(sandbox, "lives", place.python, folder=place.folder, was_made=was_made)
        if found.get("lives") is False:
            raise SandboxGone("the Daytona sandbox was restarted: kernel and variables are gone")

    async def _connected(self) -> AsyncSandbox:
        """Return the SDK's object; of a sandbox that was taken up it is fetched now."""
        if self._service is None:
            self._service = await Service.connect()
        if self._sandbox is None:
            self._sandbox = await self._service.get(self.id)
        if not self._owned:
            self._owned = True
            with contextlib.suppress(Exception):  # they only guide `gc`, which looks at sessions too
                await self._sandbox.set_labels({**self._sandbox.labels, **owner.owner()}, request_timeout=_REQUEST_S)
        return self._sandbox

    # --- the end --------------------------------------------------------------------------------------

    def lives(self) -> bool:
        """Whether it may still run: :meth:`revive` asks."""
        return not self._stopped

    async def stop(self) -> None:
        """Delete the sandbox, or stop one that is kept. Calling it again does nothing.

        A caller that is cancelled, by somebody in a hurry, does not keep it from being done.
        """
        if self._stopped:
            return
        self._stopped = True
        await registry.finish(self._end())

    async def _end(self) -> None:
        try:
            service = self._service = self._service or await Service.connect()
            await (service.stop if self._description.keep else service.delete)(self.id)
        except SandboxFailed as error:
            minutes = self._description.auto_stop_minutes
            log.warning("%s; without a host it stops by itself after %d minutes", error, minutes)
        finally:
            await self._close()

    def let_go(self) -> None:
        """Leave the sandbox to whoever takes it up; it is not stopped."""
        self._stopped = True
        self._closing = asyncio.get_running_loop().create_task(self._close())

    async def _close(self) -> None:
        service, self._service = self._service, None
        if service is not None and not registry.process_ends():
            await service.aclose()


def threads(sandbox: AsyncSandbox) -> dict[str, str]:
    """Return what tells numeric libraries how many threads to start; os.cpu_count() tells of the whole machine."""
    return dict.fromkeys(_THREADS, str(max(1, int(sandbox.cpu))))


async def _all(*work: Awaitable[Any]) -> list[Any]:
    """Do things at once; when one fails the others are cancelled."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
