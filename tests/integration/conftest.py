"""Sessions on real kernels, one a module: starting is the slow part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.driver import Driver

if TYPE_CHECKING:
    from collections.abc import Iterator


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
