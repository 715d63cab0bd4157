"""``DaytonaEmulator``: an emulated Daytona on loopback for the duration of a ``with`` block."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import psutil

from ..runtime.event_loop import LoopThread
from .names import NAMES_VARIABLE, Resolver, resolver, resolving
from .processes import can_isolate
from .server import HOST, Server
from .world import Options, World

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from .faults import Fault

T = TypeVar("T")

DOMAIN = "preview.daytona.localhost"
_FOLDER = "dki-daytona-"
_DOMAIN = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+")


class DaytonaEmulator:
    """An emulator of Daytona on loopback for the unmodified ``daytona`` SDK; its sandboxes are child processes.

    Sandboxes run as the current user, with separate home folders and without isolation of files: run only trusted code.

    Args:
        port: The port to listen on, on 127.0.0.1; 0 takes a free one.
        api_key: The key to accept; a new one if not given.
        isolated: Whether each sandbox gets a network namespace; None: where ``unshare -rn`` works.
        generation: Whether a refusal has the form of ``old`` servers (307) or of ``new`` ones (401).
        token_caches: Whether the preview proxy remembers, as the service's does, for 2 min that a token is good
            and for 5 s that one is bad.
        busy_status: How a change during another one is refused: 409, or 400 as was seen too.
        domain: The domain of preview hosts.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        api_key: str | None = None,
        isolated: bool | None = None,
        generation: Literal["old", "new"] = "new",
        token_caches: bool = True,
        busy_status: Literal[400, 409] = 409,
        domain: str = DOMAIN,
    ) -> None:
        if isolated and not can_isolate():
            raise ValueError("isolated=True needs Linux and `unshare -rn`, which does not work here")
        if generation not in ("old", "new"):
            raise ValueError(f"generation is 'old' or 'new', not {generation!r}")
        if busy_status not in (400, 409):
            raise ValueError(f"busy_status is 409 or 400, not {busy_status!r}")
        if not _DOMAIN.fullmatch(domain):
            raise ValueError(f"domain is a name with a dot in lower case, not {domain!r}")
        self.api_key = api_key or f"dtn_{secrets.token_hex(32)}"
        self._port = port
        self.options = Options(
            isolated=can_isolate() if isolated is None else isolated,
            domain=domain,
            generation=generation,
            token_caches=token_caches,
            busy_status=busy_status,
        )
        self._running: tuple[LoopThread, Server] | None = None
        self._closing = contextlib.ExitStack()

    def __repr__(self) -> str:
        return f"<DaytonaEmulator {self.api_url if self._running else 'not started'}>"

    def __enter__(self) -> DaytonaEmulator:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start serving. Until :meth:`stop`, clients in this process can resolve its preview hosts."""
        if self._running is not None:
            raise RuntimeError("this emulator runs already")
        with contextlib.ExitStack() as stack:
            _sweep()
            folder = Path(tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-"))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            loop = LoopThread("daytona-emulator")
            stack.callback(loop.stop)
            server = loop.run(_make(self.options, folder))
            server.world.keys[self.api_key] = secrets.token_hex(8)
            stack.callback(lambda: loop.run(server.close()))
            loop.run(server.start(self._port))
            self._running = loop, server
            stack.enter_context(resolving(self.resolve))
            self._closing = stack.pop_all()

    def stop(self) -> None:
        """Stop all sandboxes and the server. Further calls do nothing."""
        self._closing.close()
        self._running = None

    @property
    def api_url(self) -> str:
        """The value for ``DAYTONA_API_URL`` or ``DaytonaConfig.api_url``."""
        return f"http://{self.server.world.address}/api"

    @property
    def control_url(self) -> str:
        """The URL to set faults and the clock over HTTP; see ``testing/control.py``."""
        return f"http://{self.server.world.address}/control"

    @property
    def isolated(self) -> bool:
        """Whether each sandbox has a network namespace of its own."""
        return self.options.isolated

    @property
    def resolve(self) -> Resolver:
        """A resolver for preview hosts: a callable that gives an address, or None for other names."""
        return resolver(self.environment())

    def environment(self) -> dict[str, str]:
        """Return the environment variables for a child process that uses this emulator."""
        return {
            "DAYTONA_API_KEY": self.api_key,
            "DAYTONA_API_URL": self.api_url if self._running else "",
            NAMES_VARIABLE: f".{self.options.domain}={HOST}",
        }

    def add_organization(self) -> str:
        """Return an API key of a new organisation, which has no access to the first one's sandboxes."""
        key = f"dtn_{secrets.token_hex(32)}"
        self._call(lambda: self.server.world.keys.update({key: secrets.token_hex(8)}))
        return key

    def fail(self, fault: Fault) -> None:
        """Add a fault to the plan."""
        self._call(lambda: self.server.world.faults.add(fault))

    def heal(self) -> None:
        """Remove all planned faults."""
        self._call(self.server.world.faults.clear)

    def fail_builds_with(self, text: str) -> None:
        """Make the build of every Dockerfile fail at the step that contains ``text``."""
        self._call(lambda: self.server.world.images.fails.append(text))

    def advance(self, seconds: float) -> None:
        """Move the clock forward and wait until all timers due by then have run."""
        self._run(self.server.world.advance(seconds))

    def out_of_memory(self, sandbox_id: str) -> None:
        """Kill all processes of a sandbox. Its state is ``started`` for 150 s, then ``stopped`` without a reason."""
        self._do(sandbox_id, "out-of-memory")

    def kill_daemon(self, sandbox_id: str) -> None:
        """Kill all processes of a sandbox; its state stays ``started``."""
        self._do(sandbox_id, "kill-daemon")

    def rotate_token(self, sandbox_id: str) -> None:
        """Replace a sandbox's preview token; the old one is refused after it leaves the proxy's cache."""
        self._do(sandbox_id, "rotate-token")

    def forget_tokens(self) -> None:
        """Empty the preview proxy's caches."""
        self._call(self.server.previews.forget)

    @property
    def server(self) -> Server:
        """The running server, for tests that check its state; use it on the emulator's loop."""
        if self._running is None:
            raise RuntimeError("this emulator is not running; use it in a `with` block")
        return self._running[1]

    def _do(self, sandbox_id: str, what: str) -> None:
        server = self.server
        record = server.world.fleet.by_id(sandbox_id)
        if record is None:
            raise ValueError(f"there is no sandbox {sandbox_id!r}")
        self._run(server.control.act(record, what))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        assert self._running is not None
        return self._running[0].run(work)

    def _call(self, work: Callable[[], T]) -> T:
        async def on_the_loop() -> T:
            return work()

        return self._run(on_the_loop())


def _sweep() -> None:
    """Delete the folders of killed emulators, whose processes have ended but whose files remain."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*-*"):
        pid = folder.name.removeprefix(_FOLDER).partition("-")[0]
        with contextlib.suppress(OSError):
            if pid.isdigit() and folder.lstat().st_uid == os.getuid() and not psutil.pid_exists(int(pid)):
                shutil.rmtree(folder, ignore_errors=True)


async def _make(options: Options, folder: Path) -> Server:
    return Server(World(options, folder))
