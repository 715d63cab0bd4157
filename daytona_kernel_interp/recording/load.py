"""What a caller may name a recording by: its path, a ``Recording``, or a transcript."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol, TypeAlias

from . import notebook_reader as notebook
from .model import Transcript


class HasTranscript(Protocol):
    """A loaded recording, or the report of a replay."""

    @property
    def transcript(self) -> Transcript:
        """The recorded session."""


RecordingSource: TypeAlias = "str | os.PathLike[str] | Transcript | HasTranscript"


def open_run(run: RecordingSource) -> tuple[Transcript, str]:
    """Return a recording's transcript, and what to call it in texts.

    Raises:
        RecordingError: If it cannot be read.
        TypeError: If it is nothing that names one.
    """
    if isinstance(run, Transcript):
        return run, "the recording"
    if isinstance(found := getattr(run, "transcript", None), Transcript):
        return found, "the recording"
    if isinstance(run, (str, os.PathLike)):
        return notebook.read(run), Path(run).name
    raise TypeError(f"a recording is named by its path, or is a Recording; {type(run).__name__} is neither")
