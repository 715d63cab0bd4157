"""The quick tests on the other Pythons, the older ipykernel, and another DSPy."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.environments import ENVIRONMENTS, Environment, find_python

if TYPE_CHECKING:
    from .runs import Runs


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
