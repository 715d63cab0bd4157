"""The quick tests on the other Pythons, the older ipykernel, and another DSPy."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.environments import ENVIRONMENTS, PROJECT, Environment, find_python

if TYPE_CHECKING:
    from pathlib import Path

_LIMIT_S = 570  # below the test's own timeout, so that what it printed until then is shown


@pytest.mark.timeout(600)
@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda environment: environment.name)
def test_quick_tests_pass_in(environment: Environment, tmp_path: Path) -> None:
    """The tests marked for this environment pass in it, and there are some."""
    if not environment.is_current():
        if find_python(environment.version) is None:
            pytest.skip(f"there is no Python {environment.version} here")
        pytest.skip("not built: run `make environments`")

    returncode, output = _pytest_in(environment, tmp_path)

    assert returncode == 0, output
    assert re.search(r"\b[1-9]\d* passed\b", output), output


def _pytest_in(environment: Environment, folder: Path) -> tuple[int, str]:
    options = ["-m", environment.marks, "-q", "-p", "no:cacheprovider", f"--basetemp={folder / 't'}"]
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
    try:
        output, _ = process.communicate(timeout=_LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        output += f"\nkilled after {_LIMIT_S} s"
    finally:
        if process.poll() is None:  # the session was interrupted
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return process.returncode, output
