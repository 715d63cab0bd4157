"""The package's public surface and its formats are what ``expected/`` says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from daytona_kernel_interp.sandboxes.select import adopt
from daytona_kernel_interp.session.session_file import list_records
from tests.snapshots.file_formats import start_marks
from tests.snapshots.snapshots import EXPECTED, SNAPSHOTS

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_nothing_changed_unnoticed(name: str, tmp_path: Path) -> None:
    """A deliberate change is made with ``python -m tests.snapshots``, in the commit that makes it."""
    collected = SNAPSHOTS[name](tmp_path)
    assert collected.splitlines() == (EXPECTED / name).read_text(encoding="utf-8").splitlines()


def test_each_file_belongs_to_a_snapshot() -> None:
    """No snapshot outlives the function that collects it."""
    assert {path.name for path in EXPECTED.iterdir()} == set(SNAPSHOTS)


def test_a_session_file_of_the_snapshot_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Session files that an earlier program wrote are still read, and so are the sandboxes that they name."""
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    stored = json.loads((EXPECTED / "session_files.json").read_text(encoding="utf-8"))
    for name, fields in stored.items():
        (tmp_path / name).write_text(json.dumps(fields), encoding="utf-8")
    read = {record.path.name: record for record in list_records()}
    assert set(read) == set(stored)
    for name, record in read.items():
        assert {key: getattr(record, key) for key in stored[name]} == stored[name]
        with start_marks():
            assert adopt(record.sandbox).record() == record.sandbox
