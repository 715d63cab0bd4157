"""No sandbox is left, however a session ends: see ``leaks.py``, whose long run is ``make leaks``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .leaks import STUCK, run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.hosts import Hosts

# A process that was killed deletes nothing, one that let its session go shall not, and a sandbox that is still
# starting cannot be deleted.
LEFT = {"SIGKILL", "SIGKILL in a cell", "SIGKILL during the start", "detached, and nobody comes"}


@pytest.mark.timeout(240)
def test_sandboxes_are_deleted_or_end_by_themselves(
    hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once by who made it; without a host after its auto-stop; and one that never started when its time is over."""
    monkeypatch.setenv(
        "JUPYTER_RUNTIME_DIR", str(tmp_path)
    )  # dead hosts leave session files, with which others could attach
    rows = run(hosts)
    assert [(row.way, row.unlike) for row in rows if row.unlike] == []
    assert {row.way for row in rows if row.left} == LEFT | {STUCK}
    assert {row.way for row in rows if row.left_without_host} == {STUCK}
    assert sum(row.left_at_last for row in rows) == 0
    assert all(row.sessions for row in rows)
