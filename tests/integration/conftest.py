"""Sessions on real kernels, one a module: starting is the slow part."""

from __future__ import annotations

import gc
import warnings
from typing import TYPE_CHECKING

import pytest

from tests.integration.daytona_service import Service
from tests.integration.driver import Driver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daytona_kernel_interp.testing import DaytonaEmulator


@pytest.fixture(scope="module")
def shared_driver() -> Iterator[Driver]:
    driver = Driver()
    yield driver
    driver.close()


@pytest.fixture
def driver(shared_driver: Driver) -> Iterator[Driver]:
    """A session whose tools are gone after the test; its variables are not."""
    shared_driver.tools.clear()
    yield shared_driver
    shared_driver.tools.clear()


@pytest.fixture
def own_driver() -> Iterator[Driver]:
    """A session of the test's own, to be broken."""
    driver = Driver()
    yield driver
    driver.close()


@pytest.fixture(scope="module")
def emulator() -> Iterator[DaytonaEmulator]:
    from daytona_kernel_interp.testing import DaytonaEmulator  # it needs aiohttp, which is not everywhere

    with DaytonaEmulator() as made:
        yield made


@pytest.fixture
def daytona(emulator: DaytonaEmulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """An emulator that the environment names; whatever a test does, no sandbox may be left when it is over."""
    for name, value in emulator.environment().items():
        monkeypatch.setenv(name, value)
    service = Service(emulator)
    yield service
    emulator.heal()
    emulator.forget_tokens()
    try:
        service.nothing_left()
    except AssertionError:
        pytest.fail(f"it left sandboxes, deleted now where they let themselves be: {service.end_what_is_left()}")
    with warnings.catch_warnings():
        # The SDK's event socket, refused or closed while it was being opened, leaves a connection to the collector.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
