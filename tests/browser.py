"""A browser of this machine's, without a window and away from every network. Never one that is downloaded."""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def program() -> str | None:
    """Return the path of a Chromium, or None if there is none on PATH."""
    return next((path for name in NAMES if (path := shutil.which(name)) is not None), None)


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Run the browser; where there is none, or no driver for one, the test is skipped."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    path = program()
    if path is None:
        pytest.skip(f"needs a browser: none of {', '.join(NAMES)} is on PATH (`make browser` installs one)")
    with playwright.sync_playwright() as driver:
        # Inside containers Chromium's own sandbox has no user namespace; the pages are files that these tests wrote.
        running = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            yield running
        finally:
            running.close()
