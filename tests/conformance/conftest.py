"""The services of the checks: the emulator (with and without network namespaces), and the real one with ``-m live``."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from .service import Service

# The emulator and the SDK are imported in functions, because this file is also imported without them.

REAL_URL = "https://app.daytona.io/api"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "service" not in metafunc.fixturenames:
        return
    from daytona_kernel_interp.testing.processes import can_isolate

    where: list[object] = ["shared", *(["isolated"] if can_isolate() else [])]
    expression = str(metafunc.config.getoption("markexpr", default=""))
    if re.search(r"(?<!not )\blive\b", expression):
        live = (pytest.mark.live("DAYTONA_API_KEY"), pytest.mark.timeout(600))
        where.append(pytest.param("real", marks=live))
    metafunc.parametrize("service", where, indirect=True, scope="session")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Add the fact and its source to the report of a failed check."""
    report = yield
    mark = item.get_closest_marker("fact")
    if mark is not None and report.failed:
        text, known = mark.args
        report.sections.append(("the fact", f"{text}\nknown from: {known.value}"))
    return report


@pytest.fixture(scope="session")
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    from daytona_kernel_interp.testing import DaytonaEmulator, resolver, resolving

    from .service import Service

    if request.param == "real":
        # The resolver resolves names only if the environment refers to an emulator in another process.
        with resolving(resolver()):
            made = Service(os.environ.get("DAYTONA_API_URL") or REAL_URL, os.environ["DAYTONA_API_KEY"])
            yield made
            made.close()
        return
    with DaytonaEmulator(isolated=request.param == "isolated") as emulator:
        made = Service(emulator.api_url, emulator.api_key)
        yield made
        made.close()
