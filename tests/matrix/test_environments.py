"""The tests that depend on Python, ipykernel or DSPy, on other versions of them; deep property tests; slow tests.

``make test`` runs the oldest combination, ``make test-matrix`` the others.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import examples
from tests.environments import ENVIRONMENTS, OLDEST, Environment, find_python

from . import runs

if TYPE_CHECKING:
    from collections.abc import Iterator

# Set by `.ci/run`, where the matrix has run before: its exit code, and the file of what it printed.
_MATRIX_EXIT, _MATRIX_LOG = "DKI_MATRIX_EXIT", "DKI_MATRIX_LOG"

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, since sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="dki-m-", ignore_cleanup_errors=True) as name:
        yield Path(name) / "t"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have one test for each session that this one is to run."""
    if "environment" not in metafunc.fixturenames:
        return
    cases = []
    matrix = metafunc.config.getoption("--matrix")
    for each in ENVIRONMENTS:
        if (each is OLDEST) != matrix:
            for part in each.parts:
                name = each.name if len(each.parts) == 1 else f"{each.name}-{part.replace(' or ', '-')}"
                cases.append(pytest.param(each, ("-m", part), id=name))
    if matrix:
        deep = ("-m", "hypothesis and not slow", f"--hypothesis-profile={examples.DEEP}")
        cases.append(pytest.param(None, deep, id="deep-properties"))
        cases.append(pytest.param(None, ("-m", "slow"), id="slow"))
    metafunc.parametrize(("environment", "options"), cases)


def test_marked_tests_pass_in(environment: Environment | None, options: tuple[str, ...], folder: Path) -> None:
    """The tests marked for this environment pass in it, and there are some. None is the environment of this test."""
    if environment is not None and not environment.is_current():
        if find_python(environment.version) is None:
            pytest.skip(f"there is no Python {environment.version} here")
        pytest.skip("not built: run `make environments`")

    python = Path(sys.executable) if environment is None else environment.python
    _passes(*runs.run(python, *options, folder=folder))


if _MATRIX_LOG in os.environ:

    def test_the_matrix_passed() -> None:
        """What ran before this session counts in its last line."""
        _passes(int(os.environ[_MATRIX_EXIT]), Path(os.environ[_MATRIX_LOG]).read_text(errors="replace"))


def _passes(returncode: int, output: str) -> None:
    assert returncode == 0, output
    assert re.search(r"\b[1-9]\d* passed\b", output), output
