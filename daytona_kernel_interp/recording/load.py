"""Open a recording from its path, a ``Recording`` or a transcript."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol, TypeAlias

from . import notebook_reader as notebook
from .model import Transcript


class HasTranscript(Protocol):
    """An object with a transcript: a ``Recording`` or the report of a replay."""

    @property
    def transcript(self) -> Transcript:
        """The recorded session."""


RecordingSource: TypeAlias = "str | os.PathLike[str] | Transcript | HasTranscript"


def open_run(run: RecordingSource) -> tuple[Transcript, str]:
    """Return the transcript of a recording, and its name for messages.

    Raises:
        RecordingError: If the file cannot be read.
        TypeError: If ``run`` is neither a path nor a recording.
    """
    if isinstance(run, Transcript):
        return run, "the recording"
    if isinstance(found := getattr(run, "transcript", None), Transcript):
        return found, "the recording"
    if isinstance(run, (str, os.PathLike)):
        return notebook.read(run), Path(run).name
    raise TypeError(f"a recording is a path or a Recording, not {type(run).__name__}")
