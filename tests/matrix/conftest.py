"""Begins the environments' own test sessions beside the other tests, and tells which Pythons there were none of."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.environments import ENVIRONMENTS, missing_pythons

from .runs import Runs

if TYPE_CHECKING:
    from collections.abc import Sequence

_RUNS = pytest.StashKey[Runs]()
_FOLDER = pytest.StashKey[tempfile.TemporaryDirectory[str]]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the tests that wait for the environments come last."""
    items.sort(key=_environment_of_item)


def pytest_collection_finish(session: pytest.Session) -> None:
    wanted = {item.callspec.params["environment"] for item in _items(session.items)}
    if not wanted or session.config.option.collectonly:
        return
    folder = session.config.stash[_FOLDER] = tempfile.TemporaryDirectory(prefix="dki-m-", ignore_cleanup_errors=True)
    built = [environment for environment in ENVIRONMENTS if environment in wanted and environment.is_current()]
    session.config.stash[_RUNS] = Runs(built, Path(folder.name))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _RUNS in session.config.stash:
        session.config.stash[_RUNS].stop()
        session.config.stash[_FOLDER].cleanup()


@pytest.fixture
def runs(request: pytest.FixtureRequest) -> Runs:
    return request.config.stash[_RUNS]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _matrix_ran(terminalreporter):
        return
    if missing := missing_pythons():
        terminalreporter.section("Pythons this machine lacks")
        terminalreporter.line(f"not tested on: {', '.join(missing)}")


def _matrix_ran(reporter: pytest.TerminalReporter) -> bool:
    reports = (report for group in ("passed", "failed", "skipped") for report in reporter.getreports(group))
    return any("tests/matrix/" in report.nodeid for report in reports)


def _environment_of_item(item: pytest.Item) -> bool:
    return "tests/matrix/" in item.nodeid


def _items(items: Sequence[pytest.Item]) -> list[pytest.Function]:
    return [
        item
        for item in items
        if _environment_of_item(item) and isinstance(item, pytest.Function) and hasattr(item, "callspec")
    ]
