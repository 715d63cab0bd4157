"""Read a notebook that is not a recording as steps to run: its code cells with their saved outputs."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..client.outputs import CellError
from ..errors import RecordingError
from .model import Entry, Outcome, SessionFacts, Transcript
from .notebook_json import joined, output_from_json
from .value_store import MemoryStore

if TYPE_CHECKING:
    import os

    from ..client.outputs import Output

_START_TIME = datetime.fromtimestamp(0, timezone.utc)


def read_plain_notebook(path: str | os.PathLike[str]) -> Transcript:
    """Return the code cells of any Python notebook as steps, without running them.

    Raises:
        RecordingError: If the file cannot be read, or the notebook is in another language.
    """
    import nbformat

    try:
        document: Any = nbformat.read(Path(path), as_version=4)
    except OSError as error:
        raise RecordingError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # nbformat raises errors of many kinds for a file that is no notebook
        raise RecordingError(f"{path} is no notebook: {type(error).__name__}.") from error
    language = document.metadata.get("kernelspec", {}).get("language", "python")
    if language != "python":
        raise RecordingError(f"{path} is a notebook in {language}; only Python notebooks can be run.")
    entries: list[Entry] = []
    problems: list[str] = []
    for cell in document.cells:
        if cell.cell_type != "code" or not joined(cell.source).strip():
            continue
        number = len(entries)
        outputs: list[Output] = []
        for data in cell.get("outputs", ()):
            try:
                outputs.append(without_traceback(output_from_json(data)))
            except (TypeError, ValueError, LookupError, AttributeError):
                problems.append(f"An output of step {number} cannot be read.")
        entries.append(
            Entry(number, "", joined(cell.source), _START_TIME, Outcome("unfinished", "unknown"), outputs=outputs)
        )
    return Transcript(SessionFacts("", _START_TIME, ""), entries, MemoryStore(), complete=False, problems=problems)


def without_traceback(output: Output) -> Output:
    """Return an output; an error without its traceback, which each front end formats in its own way."""
    return CellError(output.name, output.message, "") if isinstance(output, CellError) else output
