"""Tells at the end of a session which Pythons the matrix did without."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.environments import missing_pythons

if TYPE_CHECKING:
    import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _matrix_ran(terminalreporter):
        return
    if missing := missing_pythons():
        terminalreporter.section("Pythons this machine lacks")
        terminalreporter.line(f"not tested on: {', '.join(missing)}")


def _matrix_ran(reporter: pytest.TerminalReporter) -> bool:
    reports = (report for group in ("passed", "failed", "skipped") for report in reporter.getreports(group))
    return any("tests/matrix/" in report.nodeid for report in reports)
