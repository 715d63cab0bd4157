"""An emulator for a module, or one of a test's own."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from daytona_kernel_interp.testing import DaytonaEmulator
    from tests.conformance.service import Service

# Both are imported where they are used: this file is read where aiohttp and the SDK are not installed.


class Local(NamedTuple):
    """An emulator and a user of it."""

    emulator: DaytonaEmulator
    service: Service


@contextlib.contextmanager
def _local(**options: Any) -> Iterator[Local]:
    from daytona_kernel_interp.testing import DaytonaEmulator
    from tests.conformance.service import Service

    with DaytonaEmulator(**options) as emulator:
        service = Service(emulator.api_url, emulator.api_key)
        try:
            yield Local(emulator, service)
        finally:
            emulator.heal()
            service.close()


@pytest.fixture(scope="module")
def shared_local() -> Iterator[Local]:
    with _local() as made:
        yield made


@pytest.fixture
def local(shared_local: Local) -> Iterator[Local]:
    """The module's emulator, with nothing planned before and after."""
    shared_local.emulator.forget_tokens()
    yield shared_local
    shared_local.emulator.heal()


@pytest.fixture
def own() -> Iterator[Callable[..., Local]]:
    """Makes emulators of the test's own, e.g. to move their clocks."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(_local(**options))
