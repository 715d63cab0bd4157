"""The cells of a notebook, and the names that notebooks get. More of it: tests/integration/test_recording.py."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given

from daytona_kernel_interp.errors import RecordingError
from daytona_kernel_interp.recording import markdown
from daytona_kernel_interp.recording.model import Entry, Outcome, SessionFacts
from daytona_kernel_interp.recording.notebook_json import joined, json_text
from daytona_kernel_interp.recording.notebook_reader import read
from daytona_kernel_interp.recording.notebook_writer import NotebookWriter, entry_cells
from daytona_kernel_interp.recording.value_store import folder_of
from tests.unit.transcripts import BEGAN, transcripts

if TYPE_CHECKING:
    from pathlib import Path

    from daytona_kernel_interp.recording.model import Transcript

FACTS = SessionFacts("abcd", BEGAN, "Local")


def entry(index: int, code: str, kind: str = "ok") -> Entry:
    """Return an entry without a result."""
    outcome = Outcome("raised", "error", error="KeyError", text="") if kind == "ok" else Outcome("unfinished", "ok")
    return Entry(index, f"id-{index}", code, BEGAN, outcome)


@given(transcript=transcripts())
def test_the_cell_below_an_entry(transcript: Transcript) -> None:
    """The Markdown cell below a code cell has the summary of calls, answer and ending, and is left out if empty."""
    for one in transcript.entries:
        _, *below = entry_cells(one, None, [], {}, {"a": "`b`\n"})
        text = markdown.cell_summary(one, {"a": "`b`\n"}, is_dspys_own=markdown.is_dspys_own(one))
        assert [joined(json.loads(json_text(cell))["source"]) for cell in below] == ([text] if text else [])


def test_the_notebook_is_whole_after_each_write(tmp_path: Path) -> None:
    """A reader finds every entry that was written; an unfinished one is replaced by the next."""
    writer = NotebookWriter(tmp_path / "run.ipynb", FACTS)
    writer.put(entry(0, "a"), (), over=True)
    writer.put(entry(1, "b", "unfinished"), (), over=False)
    seen = read(writer.path)
    assert [(one.code, one.outcome.kind) for one in seen.entries] == [("a", "raised"), ("b", "unfinished")]
    assert (seen.complete, seen.problems) == (False, ())
    writer.put(entry(1, "b"), (), over=True)
    writer.close(complete=True)
    seen = read(writer.path)
    assert [(one.code, one.outcome.kind) for one in seen.entries] == [("a", "raised"), ("b", "raised")]
    assert (seen.complete, seen.problems) == (True, ())
    assert not folder_of(writer.path).exists()


def test_a_second_writer_gets_another_name(tmp_path: Path) -> None:
    """Two sessions of a process that ask for one name write two files."""
    writers = [NotebookWriter(tmp_path / "run.ipynb", FACTS) for _ in range(2)]
    for writer in writers:
        writer.close(complete=True)
    assert [writer.path.name for writer in writers] == ["run.ipynb", "run-2.ipynb"]


def test_a_file_that_is_no_recording_stays(tmp_path: Path) -> None:
    """A file with other content is not overwritten, and one sentence says so."""
    path = tmp_path / "notes.ipynb"
    path.write_text("notes")
    with pytest.raises(RecordingError, match="is no recording"):
        NotebookWriter(path, FACTS)
    assert path.read_text() == "notes"
