"""The quick tests on the other Pythons, the older ipykernel, and another DSPy."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.environments import ENVIRONMENTS, PROJECT, Environment, find_python

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_LIMIT_S = 570  # below the test's own timeout, so that what it printed until then is shown
_AT_ONCE = 2  # tests with kernels wait more than they compute


class Runs:
    """The environments' own test sessions, two at a time, begun by the first test that needs one."""

    def __init__(self, environments: Sequence[Environment], folder: Path) -> None:
        self._executor = ThreadPoolExecutor(_AT_ONCE)
        self._processes: list[subprocess.Popen[str]] = []
        self._stopped = False
        self._runs = {e.name: self._executor.submit(self._pytest_in, e, folder / e.name) for e in environments}

    def outcome(self, environment: Environment) -> tuple[int, str]:
        """Wait for an environment's tests; return their exit code and what they printed."""
        return self._runs[environment.name].result()

    def stop(self) -> None:
        """End what still runs, because the session was interrupted."""
        self._stopped = True
        for process in self._processes:
            _kill(process)
        self._executor.shutdown(cancel_futures=True)

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


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    wanted = {
        item.callspec.params["environment"]
        for item in request.session.items
        if hasattr(item, "callspec") and "environment" in item.callspec.params
    }
    runs = Runs([e for e in ENVIRONMENTS if e in wanted and e.is_current()], tmp_path_factory.mktemp("m"))
    yield runs
    runs.stop()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda environment: environment.name)
def test_quick_tests_pass_in(environment: Environment, runs: Runs) -> None:
    """The tests marked for this environment pass in it, and there are some."""
    if not environment.is_current():
        if find_python(environment.version) is None:
            pytest.skip(f"there is no Python {environment.version} here")
        pytest.skip("not built: run `make environments`")

    returncode, output = runs.outcome(environment)

    assert returncode == 0, output
    assert re.search(r"\b[1-9]\d* passed\b", output), output
