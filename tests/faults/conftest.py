"""A session behind a proxy for each test, so that link faults affect only one test."""

from __future__ import annotations

from logging import WARNING
from typing import TYPE_CHECKING

import pytest

from daytona_kernel_interp.sandboxes.local import LocalSandbox
from daytona_kernel_interp.wire.keepalive import LinkTimings
from tests.integration.driver import Driver

from .proxy import Proxy
from .sandbox import ThroughProxy

if TYPE_CHECKING:
    from collections.abc import Iterator

# A dead link is noticed as by default, only sooner.
TIMES = LinkTimings(keepalive_s=0.25, dead_after_s=1.0, idle_keepalive_s=2.0, resume_lifetime_s=3.0)

# For links that are to live beside much work, where a machine with other work may be late by a second.
PATIENT = LinkTimings(keepalive_s=0.75, dead_after_s=3.0, idle_keepalive_s=2.0, resume_lifetime_s=60.0)


@pytest.fixture(autouse=True)
def _no_complaints(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test whose event loop has an unhandled exception."""
    yield
    complaints = [r.getMessage() for r in caplog.get_records("call") if r.name == "asyncio" and r.levelno > WARNING]
    assert complaints == []


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as proxy:
        yield proxy


@pytest.fixture
def driver(proxy: Proxy) -> Iterator[Driver]:
    """Its host gives up after 3 s without a link, its relay does not."""
    driver = Driver(ThroughProxy(proxy, LocalSandbox(resume_lifetime=60)), TIMES)
    yield driver
    driver.close()


@pytest.fixture
def patient_driver(proxy: Proxy) -> Iterator[Driver]:
    """The same, but its link counts as dead later, and its host does not give up soon."""
    driver = Driver(ThroughProxy(proxy, LocalSandbox(resume_lifetime=60)), PATIENT)
    yield driver
    driver.close()
