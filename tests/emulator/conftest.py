"""Fixtures with an emulator per module or per test."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from daytona_kernel_interp.testing import DaytonaEmulator
    from tests.conformance.service import Service

# Both are imported in functions, because this file is also imported without aiohttp and the SDK.


class Local(NamedTuple):
    """An emulator and a client of it."""

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
    """Provide the module's emulator without planned faults."""
    shared_local.emulator.forget_tokens()
    yield shared_local
    shared_local.emulator.heal()


@pytest.fixture
def own() -> Iterator[Callable[..., Local]]:
    """Provide a function that starts emulators for one test, e.g. to move their clocks."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(_local(**options))
