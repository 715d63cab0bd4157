"""The page of a recorded session: how large it is, how long it takes to make, and to open in a browser."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from daytona_kernel_interp.page.html import to_html
from tests import browser, sessions

_STEPS = 200
_LOADED = "performance.getEntriesByType('navigation')[0].loadEventEnd"


def run(quick: bool) -> str:
    """Measure, and return the table."""
    session = sessions.long(_STEPS)
    to_html(session, "warm up")  # imports jinja2, pygments and mistune
    begin = time.perf_counter()
    page = to_html(session, "long.ipynb")
    made_s = time.perf_counter() - begin
    size_mb = len(page.encode()) / 1e6
    opened_s = _open(page, 2 if quick else 5)
    calls = sum(len(entry.calls) for entry in session.entries)
    lines = [
        f"| page of a session of {_STEPS} steps and {calls:,} calls | measured | target | |",
        "|---|---|---|---|",
        _line("size without figures", size_mb, "MB", 5),
        f"| made in | {made_s:.1f} s | | |",
    ]
    if opened_s is None:
        lines.append(f"| opened in Chromium | none of {', '.join(browser.NAMES)} is here | <= 2 s | not measured |")
    else:
        lines.append(_line("opened in Chromium (load event, median)", opened_s, "s", 2))
    return "\n".join(lines)


def _open(page: str, rounds: int) -> float | None:
    """Return the seconds from navigation to the load event; None where there is no browser."""
    if browser.program() is None:
        return None
    with tempfile.TemporaryDirectory() as folder, browser.browser() as running:
        path = Path(folder) / "page.html"
        path.write_text(page, encoding="utf-8")
        times = []
        for _ in range(rounds):
            tab = running.new_page(viewport={"width": 1300, "height": 900})
            tab.goto(path.as_uri())
            times.append(float(tab.evaluate(_LOADED)) / 1000)
            tab.close()
    return statistics.median(times)


def _line(what: str, measured: float, unit: str, limit: float) -> str:
    verdict = "reached" if measured <= limit else "**missed**"
    return f"| {what} | {measured:.1f} {unit} | <= {limit:g} {unit} | {verdict} |"
