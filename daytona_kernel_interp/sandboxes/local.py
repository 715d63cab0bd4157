"""``LocalSandbox``: a child process on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import START_S
from ..errors import SandboxFailed
from ..transport.process_identity import process_alive, process_start_mark
from ..wire.keepalive import RESUME_LIFETIME_S
from .base import RelayAddress
from .option_checks import check_seconds, check_text, check_texts, refuse_options

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

# What a Python process needs to run as the same user on the same machine: no key, token, proxy or index URL.
ALLOWED_VARIABLES = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TMPDIR", "TZ"),
    *("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"),
)
_PACKAGE = Path(__file__).resolve().parent.parent
_STOP_S = 5.0


@refuse_options({"env_vars": "pass env=", "folder": "pass cwd="})
@dataclass(frozen=True)
class LocalSandbox:
    """Run the kernel in a child process on this machine, without any isolation.

    The code of the model runs as your user: it can read and change whatever you can. It is meant for development, tests
    and replay, and is never the default. Only the host's environment is kept from it: the kernel gets an allow-list of
    variables, an empty IPython folder, no startup files and no user site-packages.

    Attributes:
        python: The interpreter that runs relay and kernel; it needs ipykernel and websockets. None: the current one.
        cwd: The kernel's working folder. None: an empty one that is deleted with the sandbox.
        env: Variables of the kernel in addition to the allow-list. They are not in ``repr``.
        resume_lifetime: Seconds that relay and kernels live on without a host, for :meth:`KernelInterpreter.attach`.
    """

    python: str | None = None
    cwd: str | os.PathLike[str] | None = None
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    resume_lifetime: float = RESUME_LIFETIME_S

    def __post_init__(self) -> None:
        if self.python is not None:
            check_text("python", self.python)
        if self.cwd is not None and not isinstance(self.cwd, (str, os.PathLike)):
            raise TypeError(f"cwd must be a path, not {self.cwd!r}")
        check_texts("env", self.env)
        check_seconds("resume_lifetime", self.resume_lifetime)

    async def start(self) -> RunningLocalSandbox:
        """Start the relay.

        Raises:
            SandboxFailed: If the relay does not listen in time; the message has the end of its log.
        """
        folder = Path(tempfile.mkdtemp(prefix="daytona-kernel-"))  # mode 0700
        sandbox = RunningLocalSandbox(self, folder)
        try:
            sandbox.prepare()
            await asyncio.wait_for(sandbox.launch(), START_S)
        except BaseException as error:  # also when the caller is cancelled, nothing is left
            words = sandbox.log_tail()
            await sandbox.stop()
            if not isinstance(error, (OSError, ValueError, asyncio.TimeoutError)):
                raise
            raise SandboxFailed(
                f"the local sandbox did not start with {self.python or sys.executable}: "
                f"{str(error) or type(error).__name__}{words}"
            ) from error
        log.info("local sandbox started in %s: a child process of this one, without isolation", folder)
        return sandbox


class RunningLocalSandbox:
    """The relay process and its folder."""

    def __init__(self, description: LocalSandbox, folder: Path) -> None:
        self._description, self._folder = description, folder
        self.address: RelayAddress
        self.resume_lifetime_s = description.resume_lifetime
        self.pid, self._started = 0, ""  # of the relay, which another process may have started
        self._process: asyncio.subprocess.Process | None = None
        self._stopped = False

    @classmethod
    def adopt(cls, record: Mapping[str, Any]) -> RunningLocalSandbox:
        """Adopt the sandbox of a host that has ended, from its :meth:`record`.

        Raises:
            KeyError, TypeError, ValueError: If the record is invalid.
        """
        description = LocalSandbox(record["python"], record["cwd"], record["env"], float(record["resume_lifetime"]))
        sandbox = cls(description, Path(record["folder"]))
        sandbox.address = RelayAddress(record["url"], record["secret"])
        sandbox.pid, sandbox._started = int(record["pid"]), str(record["started"])
        return sandbox

    def record(self) -> dict[str, Any] | None:
        """Return what :meth:`adopt` needs."""
        description = self._description
        return {
            "kind": "local",
            "folder": str(self._folder),
            "python": description.python,
            "cwd": None if description.cwd is None else str(description.cwd),
            "env": dict(description.env),
            "resume_lifetime": description.resume_lifetime,
            "url": self.address.url,
            "secret": self.address.secret,
            "pid": self.pid,
            "started": self._started,
        }

    def prepare(self) -> None:
        """Create the working folder, and the folder from which the child imports this package.

        Raises:
            ValueError: If the description's working folder does not exist.
        """
        if self._description.cwd is None:
            self._work.mkdir()
        elif not self._work.is_dir():
            raise ValueError(f"its working folder {str(self._work)!r} does not exist")
        # A folder from which the child imports this package, whether or not its Python has it.
        runtime = self._folder / "runtime"
        runtime.mkdir()
        (runtime / _PACKAGE.name).symlink_to(_PACKAGE, target_is_directory=True)

    @property
    def _work(self) -> Path:
        return self._folder / "work" if self._description.cwd is None else Path(self._description.cwd).absolute()

    async def launch(self) -> None:
        """Start the relay, and wait until it listens."""
        with (self._folder / "relay.log").open("ab") as log_file:
            self._process = await asyncio.create_subprocess_exec(
                *(self._description.python or sys.executable, "-s", "-m", "daytona_kernel_interp.guest.relay"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log_file,
                cwd=self._folder,  # Python looks for modules here, so it must not be the cells' folder
                env=_environment(self._description.env, self._folder / "runtime"),
                start_new_session=True,  # Ctrl-C in a terminal must reach the host only, which then interrupts the cell
            )
        self.pid = self._process.pid
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            self._started = process_start_mark(self.pid)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        secret = secrets.token_urlsafe(32)
        request = {
            **{"secret": secret, "port": 0, "folder": str(self._folder), "cwd": str(self._work), "remove": True},
            "lifetime_s": self._description.resume_lifetime,
        }
        self._process.stdin.write(json.dumps(request).encode("ascii") + b"\n")
        self._process.stdin.close()
        line = await self._process.stdout.readline()
        if not line:
            raise ValueError(f"its relay ended with exit code {await self._process.wait()}")
        self.address = RelayAddress(f"ws://127.0.0.1:{json.loads(line)['port']}", secret)

    async def restart_relay(self) -> RelayAddress | None:
        """Start the relay again if it has ended; the new relay adopts the kernels.

        Raises:
            SandboxFailed: If it did not start.
        """
        if self._stopped or process_alive(self.pid, self._started) or not self._folder.is_dir():
            return None
        try:
            await asyncio.wait_for(self.launch(), START_S)
        except (OSError, ValueError, asyncio.TimeoutError) as error:
            raise SandboxFailed(f"the relay did not start again: {error}{self.log_tail()}") from error
        return self.address

    def may_be_alive(self) -> bool:
        """Return whether relay or kernels are running."""
        kernels = self._folder.glob("kernel-*.state")
        return process_alive(self.pid, self._started) or any(map(_process_alive, kernels))

    def log_tail(self) -> str:
        """Return the end of the relay's log, for an error message."""
        with contextlib.suppress(OSError):
            text = (self._folder / "relay.log").read_text(errors="replace").strip()
            return f"\n{text[-1000:]}" if text else ""
        return ""

    async def stop(self) -> None:
        """End the relay and its kernels, and delete the folder."""
        self._stopped = True
        if process_alive(self.pid, self._started):
            await _end_process(self.pid, self._started)
        if self._process is not None:
            await self._process.wait()
        # Not in an executor: a process that is ending has none.
        shutil.rmtree(self._folder, ignore_errors=True)

    def release(self) -> None:
        """Leave the sandbox running for a process that adopts it."""
        self._stopped = True


def _process_alive(state: Path) -> bool:
    """Return whether the kernel process of a state file is alive."""
    try:
        process = json.loads(state.read_text())
        return process_alive(int(process["pid"]), str(process["started"]))
    except (OSError, ValueError, KeyError, TypeError):
        return False


async def _end_process(pid: int, mark: str) -> None:
    """End a relay with SIGTERM; it then ends its kernels."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        for _ in range(int(_STOP_S / 0.02)):
            await asyncio.sleep(0.02)
            if process_start_mark(pid) != mark:
                return
        os.kill(pid, signal.SIGKILL)


def _environment(extra: Mapping[str, str], runtime: Path) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in ALLOWED_VARIABLES if name in os.environ}
    inherited.update({name: value for name, value in os.environ.items() if name.startswith("LC_")})
    path = os.pathsep.join(filter(None, (str(runtime), extra.get("PYTHONPATH"))))
    return {**inherited, "PYTHONNOUSERSITE": "1", **extra, "PYTHONPATH": path}
