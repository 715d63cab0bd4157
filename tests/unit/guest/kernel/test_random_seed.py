"""Seeded random generators, in processes of their own: a test's own generators stay as they are."""

from __future__ import annotations

import subprocess
import sys

import pytest

SEED = "from daytona_kernel_interp.guest.kernel.random_seed import seed_all; seed_all(7)"
DRAW = "import numpy, random; print(random.random(), numpy.random.rand())"


def run(*lines: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], check=True, capture_output=True, text=True, timeout=60
    ).stdout


@pytest.mark.parametrize("before", ["", "import numpy.random"])
def test_generators_have_the_seed_however_numpy_is_imported(before: str) -> None:
    """numpy's generator is seeded at once where it exists, and when it is imported else; the numbers are the same."""
    assert run(before, SEED, DRAW) == run("import numpy, random", "random.seed(7); numpy.random.seed(7)", DRAW)


def test_numpy_keeps_its_own_loader() -> None:
    """Nothing of the seeding is left in the import system, nor in the module."""
    left = "import sys, numpy.random as r; print([f for f in sys.meta_path if 'daytona' in type(f).__module__],"
    assert run(SEED, f"{left} type(r.__loader__).__name__, r.__spec__.loader is r.__loader__)") == (
        "[] SourceFileLoader True\n"
    )
