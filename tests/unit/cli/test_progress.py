"""Progress of a long start or build: a status line on a terminal, plain lines in a file."""

from __future__ import annotations

import io
import logging
import threading
from typing import TYPE_CHECKING

from daytona_kernel_interp.cli import progress

if TYPE_CHECKING:
    import pytest

LOG = logging.getLogger("daytona_kernel_interp.sandboxes.daytona.create")


class Screen(io.StringIO):
    """A terminal or a file; ``until`` waits for a text."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal, self._written = terminal, threading.Condition()

    def isatty(self) -> bool:
        return self._terminal

    def write(self, text: str) -> int:
        with self._written:
            self._written.notify_all()
            return super().write(text)

    def until(self, text: str) -> None:
        with self._written:
            assert self._written.wait_for(lambda: text in self.getvalue(), 20)


def test_a_terminal_shows_what_the_log_said_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest progress record is shown in one line, which is cleared; the logger is restored."""
    monkeypatch.setattr(progress, "_TICK_S", 0.01)
    screen, package = Screen(terminal=True), logging.getLogger("daytona_kernel_interp")
    before = package.level
    with progress.show_start_progress(screen):
        screen.until("starting ... 0:00")
        LOG.info("creating a Daytona sandbox", extra={"progress": True})
        LOG.info("a record that reports no progress")
        screen.until("creating a Daytona sandbox ... 0:00")
    assert "\n" not in screen.getvalue()
    assert "no progress" not in screen.getvalue()
    assert screen.getvalue().endswith("\r\x1b[K")
    assert (package.level, package.handlers) == (before, [])


def test_a_file_gets_nothing_of_a_start_and_the_lines_of_a_build() -> None:
    """A file gets no control characters and no status line."""
    screen = Screen(terminal=False)
    with progress.show_start_progress(screen):
        LOG.info("creating a Daytona sandbox", extra={"progress": True})
    assert screen.getvalue() == ""
    with progress.Progress("building", screen) as shown:
        shown.line("Step 1/3")
    assert screen.getvalue() == "Step 1/3\n"


def test_lines_stand_above_the_one_that_tells_the_time() -> None:
    """On a terminal, log lines are written above the status line."""
    screen = Screen(terminal=True)
    with progress.Progress("building", screen) as shown:
        shown.line("Step 1/3")
    assert screen.getvalue() == "\r\x1b[KStep 1/3\nbuilding ... 0:00\r\x1b[K"
