"""A recording from whatever the caller has of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from daytona_kernel_interp import Recording
from daytona_kernel_interp.recording.notebook_reader import open_run
from tests.sessions import small
from tests.transcripts import write

if TYPE_CHECKING:
    from pathlib import Path


def test_a_path_a_recording_or_a_transcript(tmp_path: Path) -> None:
    """Each gives the transcript; only a path has a name."""
    path, transcript = tmp_path / "run.ipynb", small()
    write(transcript, path)
    assert open_run(transcript) == (transcript, "the recording")
    assert open_run(Recording(transcript)) == (transcript, "the recording")
    for run in (path, str(path)):
        read, name = open_run(run)
        assert (read.facts, len(read.entries), name) == (transcript.facts, len(transcript.entries), "run.ipynb")


def test_another_object_is_refused() -> None:
    """The error names the type that was given."""
    with pytest.raises(TypeError, match="a recording is a path or a Recording, not int"):
        open_run(5)  # type: ignore[arg-type]
