"""No sandbox is left for any end of a session: see ``leaks.py``, whose long run is ``make leaks``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .leaks import STUCK, run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.hosts import Hosts

# A killed process deletes no sandbox, a detached one must not, and a starting sandbox cannot be deleted.
LEFT = {"SIGKILL", "SIGKILL in a cell", "SIGKILL during the start", "detached, and nobody comes"}


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_sandboxes_are_deleted_or_end_by_themselves(
    hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host deletes it at once; without a host its auto-stop does; a failed start ends after its time to live."""
    # Dead hosts leave session files, with which other processes could attach.
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    rows = run(hosts)
    assert [(row.way, row.unlike) for row in rows if row.unlike] == []
    assert {row.way for row in rows if row.left} == LEFT | {STUCK}
    assert {row.way for row in rows if row.left_without_host} == {STUCK}
    assert sum(row.left_at_last for row in rows) == 0
    assert all(row.sessions for row in rows)
