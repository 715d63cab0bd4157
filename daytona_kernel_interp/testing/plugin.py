"""A pytest plugin with one fixture, ``daytona_emulator``.

Name it in a ``conftest.py``: ``pytest_plugins = ["daytona_kernel_interp.testing.plugin"]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .emulator import DaytonaEmulator

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def daytona_emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[DaytonaEmulator]:
    """Run an emulator for one test, with the environment set so that ``Daytona()`` finds it."""
    with DaytonaEmulator() as emulator:
        for name, value in emulator.environment().items():
            monkeypatch.setenv(name, value)
        yield emulator
