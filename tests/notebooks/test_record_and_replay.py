"""Notebook 03 runs from top to bottom and shows what it showed when it was committed; so does its recording."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from daytona_kernel_interp import Recording, replay
from daytona_kernel_interp.playback.compare import Tolerance

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
NOTEBOOK = NOTEBOOKS / "03_record_and_replay.ipynb"
SESSION = NOTEBOOKS / "sessions" / "support.ipynb"


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_notebook_shows_what_it_showed(tmp_path: Path) -> None:
    """Run anew, every cell ends well and shows the same kinds of outputs, and the run comes to the same answer."""
    committed = nbformat.read(NOTEBOOK, as_version=4)
    shutil.copy(NOTEBOOK, tmp_path)
    notebook = nbformat.read(tmp_path / NOTEBOOK.name, as_version=4)
    NotebookClient(notebook, timeout=100, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert list(map(_kinds, notebook.cells)) == list(map(_kinds, committed.cells))
    ours = Recording.load(tmp_path / "sessions" / SESSION.name)
    theirs = Recording.load(SESSION)
    assert ours.complete
    assert [step.code for step in ours] == [step.code for step in theirs]
    assert ours.value(_answer(ours)) == theirs.value(_answer(theirs))
    assert (tmp_path / "sessions" / "support.html").stat().st_size > 50_000


def test_committed_recording_is_whole() -> None:
    """The recording beside the notebooks reads without a problem, and can be shown in every way."""
    recording = Recording.load(SESSION)
    assert list(recording.problems) == []
    assert [step.outcome.kind for step in recording][-1] == "submitted"
    assert "read_letters" in recording.to_html()
    assert recording.to_jsonl().count('"type":"iteration"') == len(recording) - 1
    assert "/root/" not in SESSION.read_text(encoding="utf-8") + NOTEBOOK.read_text(encoding="utf-8")


def test_committed_recording_replays() -> None:
    """Its cells, run again in a fresh kernel with the recorded answers of its tools and model, come to the same."""
    report = replay(SESSION, sandbox="local", tolerance=Tolerance(figures="size"))
    assert str(report) == "support.ipynb: 8 steps replayed, no divergences"


def _kinds(cell: Any) -> list[Any]:
    outputs = [output for output in cell.get("outputs", []) if output.get("name") != "stderr"]
    return [(output.output_type, sorted(output.get("data", {}))) for output in outputs]


def _answer(recording: Recording) -> Any:
    return recording[-1].outcome.value
