"""``LocalSandbox``: a child process on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SandboxFailed
from ..settings import START_S
from .base import RelayAddress

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

# What a Python process needs to run as the same user on the same machine: no key, token, proxy or index address.
ALLOWED_VARIABLES = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TMPDIR", "TZ"),
    *("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"),
)
_PACKAGE = Path(__file__).resolve().parent.parent
_STOP_S = 5.0


@dataclass(frozen=True)
class LocalSandbox:
    """Run the kernel in a child process on this machine, without any isolation.

    The code of the model runs as you: it can read and change whatever you can. It is meant for development, tests and
    replay, and is never chosen silently. What it does keep away is the host's environment: the kernel sees an
    allow-list of variables, an empty IPython folder, no startup files and no user site-packages.

    Attributes:
        python: The interpreter that runs relay and kernel; it needs ipykernel and websockets. None: this one.
        cwd: The kernel's working folder. None: an empty one, deleted in the end.
        env: Variables to set for the kernel, besides the allow-list. They do not show in ``repr``.
    """

    python: str | None = None
    cwd: str | os.PathLike[str] | None = None
    env: Mapping[str, str] = field(default_factory=dict, repr=False)

    async def start(self) -> RunningLocalSandbox:
        """Start the relay.

        Raises:
            SandboxFailed: If the relay does not listen in time; its last words are in the message.
        """
        folder = Path(tempfile.mkdtemp(prefix="daytona-kernel-"))  # mode 0700
        sandbox = RunningLocalSandbox(folder)
        try:
            await asyncio.wait_for(sandbox.launch(self), START_S)
        except (OSError, ValueError, asyncio.TimeoutError) as error:
            words = sandbox.last_words()
            await sandbox.stop()
            raise SandboxFailed(
                f"the local sandbox did not start with {self.python or sys.executable}: "
                f"{str(error) or type(error).__name__}{words}"
            ) from error
        except BaseException:
            await sandbox.stop()
            raise
        log.info("local sandbox started in %s: a child process of this one, without isolation", folder)
        return sandbox


class RunningLocalSandbox:
    """The relay's process and its folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        self._address: RelayAddress | None = None

    @property
    def address(self) -> RelayAddress:
        """Where its relay listens."""
        assert self._address is not None
        return self._address

    @property
    def pid(self) -> int:
        """The relay's process id."""
        assert self._process is not None
        return self._process.pid

    async def launch(self, description: LocalSandbox) -> None:
        """Start the relay and wait until it listens."""
        work = Path(description.cwd) if description.cwd is not None else self._folder / "work"
        if description.cwd is None:
            work.mkdir()
        elif not work.is_dir():
            raise ValueError(f"its working folder {str(work)!r} does not exist")
        with (self._folder / "relay.log").open("wb") as log_file:
            self._process = await asyncio.create_subprocess_exec(
                *(description.python or sys.executable, "-s", "-m", "daytona_kernel_interp.guest"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log_file,
                cwd=work,
                env=_environment(description.env, self._lend_package()),
                start_new_session=True,  # Ctrl-C in a terminal is for the host, which then interrupts the cell
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        secret = secrets.token_urlsafe(32)
        order = {"secret": secret, "port": 0, "folder": str(self._folder), "cwd": str(work), "remove": True}
        self._process.stdin.write(json.dumps(order).encode("ascii") + b"\n")
        line = await self._process.stdout.readline()
        if not line:
            raise ValueError(f"its relay ended with exit code {await self._process.wait()}")
        self._address = RelayAddress(f"ws://127.0.0.1:{json.loads(line)['port']}", secret)

    def _lend_package(self) -> Path:
        """Return a folder in which the child finds this very package, installed for its Python or not."""
        runtime = self._folder / "runtime"
        runtime.mkdir()
        (runtime / _PACKAGE.name).symlink_to(_PACKAGE, target_is_directory=True)
        return runtime

    def last_words(self) -> str:
        """Return the end of the relay's log, to append to an error."""
        with contextlib.suppress(OSError):
            text = (self._folder / "relay.log").read_text(errors="replace").strip()
            return f"\n{text[-1000:]}" if text else ""
        return ""

    async def stop(self) -> None:
        """End the relay by closing its standard input, and delete the folder."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), _STOP_S)
            except asyncio.TimeoutError:
                process.kill()
                await process.wait()
        # Not in an executor: when the process is ending there is none any more.
        shutil.rmtree(self._folder, ignore_errors=True)


def _environment(extra: Mapping[str, str], runtime: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ALLOWED_VARIABLES if name in os.environ}
    kept.update({name: value for name, value in os.environ.items() if name.startswith("LC_")})
    path = os.pathsep.join(filter(None, (str(runtime), extra.get("PYTHONPATH"))))
    return {**kept, "PYTHONNOUSERSITE": "1", **extra, "PYTHONPATH": path}
