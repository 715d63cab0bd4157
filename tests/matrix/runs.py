"""Test sessions in other environments and of other profiles, each run by one test of this session."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

from tests.environments import PROJECT

if TYPE_CHECKING:
    from pathlib import Path

_LIMIT_S = 1150  # below the test's own timeout, so that what it printed until then is shown
_END_S = 10  # for its kernels to end, once it is interrupted


def run(python: Path, *options: str, folder: Path) -> tuple[int, str]:
    """Run pytest on this Python; return its exit code and what it printed."""
    process = subprocess.Popen(
        [python, "-m", "pytest", "tests", "-q", "-p", "no:cacheprovider", f"--basetemp={folder}", *options],
        cwd=PROJECT,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=_LIMIT_S)
    except subprocess.TimeoutExpired:
        _end(process)
        return 1, f"{process.communicate()[0]}\nended after {_LIMIT_S} s"
    finally:  # this session may be interrupted
        _end(process)
    return process.returncode, output


def _end(process: subprocess.Popen[str]) -> None:
    """Interrupt a session that runs, so that it ends what it started; kill it if it does not."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=_END_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
