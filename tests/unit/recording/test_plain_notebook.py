"""Notebooks that are no recordings, as steps to run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import nbformat
import pytest

from daytona_kernel_interp.client.outputs import CellError, StreamText
from daytona_kernel_interp.errors import RecordingError
from daytona_kernel_interp.recording.notebook_reader import read_plain_notebook

if TYPE_CHECKING:
    from pathlib import Path

v4: Any = nbformat.v4


def saved(path: Path, cells: list[Any], **metadata: Any) -> Path:
    """Write a notebook with ``cells``."""
    nbformat.write(v4.new_notebook(cells=cells, metadata=metadata), path)
    return path


def test_code_cells_are_steps(tmp_path: Path) -> None:
    """Code cells with their outputs are steps; Markdown and empty cells are left out, and an error has no traceback."""
    failed = v4.new_output("error", ename="KeyError", evalue="'a'", traceback=["one", "two"])
    cells = [
        v4.new_markdown_cell("# Title"),
        v4.new_code_cell("print(1)", outputs=[v4.new_output("stream", name="stdout", text="1\n")]),
        v4.new_code_cell(" "),
        v4.new_code_cell("{}['a']", outputs=[failed]),
    ]
    transcript = read_plain_notebook(saved(tmp_path / "plain.ipynb", cells))
    assert [(entry.index, entry.code) for entry in transcript.entries] == [(0, "print(1)"), (1, "{}['a']")]
    assert [list(entry.outputs) for entry in transcript.entries] == [
        [StreamText("stdout", "1\n")],
        [CellError("KeyError", "'a'", "")],
    ]
    assert (transcript.complete, transcript.problems) == (False, [])


@pytest.mark.parametrize(
    ("text", "why"),
    [(None, "cannot be read: No such file"), ("hello", "is no notebook: NotJSONError")],
)
def test_what_is_no_notebook_is_refused(tmp_path: Path, text: str | None, why: str) -> None:
    """One sentence says why a file cannot be read."""
    path = tmp_path / "plain.ipynb"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RecordingError, match=why):
        read_plain_notebook(path)


def test_another_language_is_refused(tmp_path: Path) -> None:
    """Only Python can be run."""
    spec = {"name": "ir", "display_name": "R", "language": "R"}
    with pytest.raises(RecordingError, match="is a notebook in R; only Python notebooks can be run"):
        read_plain_notebook(saved(tmp_path / "plain.ipynb", [], kernelspec=spec))
