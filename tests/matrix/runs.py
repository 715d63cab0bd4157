"""The environments' own test sessions, which go on while this one runs its other tests."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from tests.environments import PROJECT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.environments import Environment

_LIMIT_S = 570  # below the test's own timeout, so that what it printed until then is shown
_AT_ONCE = 2  # tests with kernels wait more than they compute


class Runs:
    """The sessions: one at a time beside the other tests, two at a time once somebody waits for one."""

    def __init__(self, environments: Sequence[Environment], folder: Path) -> None:
        self._executor = ThreadPoolExecutor(_AT_ONCE)
        self._turns = threading.Semaphore(_AT_ONCE - 1)
        self._waited_for = False
        self._processes: list[subprocess.Popen[str]] = []
        self._stopped = False
        self._runs = {e.name: self._executor.submit(self._in_turn, e, folder / e.name) for e in environments}

    def outcome(self, environment: Environment) -> tuple[int, str]:
        """Wait for an environment's tests; return their exit code and what they printed."""
        if not self._waited_for:
            self._waited_for = True
            self._turns.release()
        return self._runs[environment.name].result()

    def stop(self) -> None:
        """End what still runs, because the session was interrupted."""
        self._stopped = True
        self._turns.release(len(self._runs) + 1)
        for process in self._processes:
            _kill(process)
        self._executor.shutdown(cancel_futures=True)

    def _in_turn(self, environment: Environment, folder: Path) -> tuple[int, str]:
        with self._turns:
            return (1, "the session was interrupted") if self._stopped else self._pytest_in(environment, folder)

    def _pytest_in(self, environment: Environment, folder: Path) -> tuple[int, str]:
        options = ["-m", environment.marks, "-q", "-p", "no:cacheprovider", f"--basetemp={folder}"]
        process = subprocess.Popen(
            [environment.python, "-m", "pytest", "tests", *options],
            cwd=PROJECT,
            env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._processes.append(process)
        if self._stopped:
            _kill(process)
        try:
            output, _ = process.communicate(timeout=_LIMIT_S)
        except subprocess.TimeoutExpired:
            _kill(process)
            output, _ = process.communicate()
            output += f"\nkilled after {_LIMIT_S} s"
        return process.returncode, output


def _kill(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
