"""The notebooks for readers run from top to bottom, and are committed as ``tests.notebooks.execute`` writes them.

Where they run is the environment's to say: two of them run on the local sandbox, and one, unchanged, at Daytona.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from daytona_kernel_interp.testing import Fault
from tests.integration.daytona_service import Service

from .execute import FOLDER, NAMES, executed

if TYPE_CHECKING:
    from pathlib import Path

    from daytona_kernel_interp.testing import DaytonaEmulator

pytest_plugins = ["daytona_kernel_interp.testing.plugin"]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", [name for name in NAMES if name != "04_lost_connection"])
def test_a_notebook_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cell fails, on the local sandbox; what it shows is of the kinds that were committed."""
    _run(name, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_notebook_runs_at_daytona(
    daytona_emulator: DaytonaEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a key in the environment and nothing else changed: its connections are cut there, and no sandbox is left."""
    service = Service(daytona_emulator)
    daytona_emulator.fail(Fault("start", delay_s=0.01))  # harmless; its use shows that a sandbox was started
    _run("04_lost_connection", tmp_path, monkeypatch)
    assert list(daytona_emulator.server.world.faults) == []
    service.nothing_left()


def _run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MPLBACKEND", raising=False)
    notebook = executed(name, folder)
    committed = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert [_kinds(cell) for cell in notebook.cells] == [_kinds(cell) for cell in committed["cells"]]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_committed_clean(name: str) -> None:
    """With outputs and a figure, without times, folders of a machine, or errors."""
    text = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert all(cell["metadata"] == {} and cell["execution_count"] is not None for cell in cells)
    kinds = [kind for cell in cells for kind in _kinds(cell)]
    assert any("image/png" in data for _, data in kinds)
    assert "error" not in [kind for kind, _ in kinds]
    assert not any(path in text for path in ("/root", "/home/", "/tmp/"))


def _kinds(cell: Any) -> list[tuple[str, list[str]]]:
    return [(output["output_type"], sorted(output.get("data", {}))) for output in cell.get("outputs", [])]
