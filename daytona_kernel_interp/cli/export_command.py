"""What ``daytona-kernel export`` does: a recorded session as a page, or as lines for another program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RecordingError

if TYPE_CHECKING:
    import argparse


class ExportError(Exception):
    """A session cannot be exported; the text is one sentence."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("notebook", type=Path, metavar="RUN.ipynb", help="what KernelInterpreter(record=...) wrote")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--html", action="store_const", const=".html", dest="kind", help="one page, to be looked at")
    kind.add_argument(
        "--jsonl", action="store_const", const=".jsonl", dest="kind", help="lines that the visualizer of rlm reads"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="PATH", help="where to (else beside the notebook)")


def export(notebook: Path, kind: str, output: Path | None) -> tuple[Path, list[str]]:
    """Write ``notebook`` as ``kind``, ``".html"`` or ``".jsonl"``, and return where to, and what could not be read.

    Raises:
        ExportError: If the notebook is no recording, or nothing can be written.
    """
    from ..recording.recording import Recording

    target = notebook.with_suffix(kind) if output is None else output
    if target.exists() and notebook.exists() and target.samefile(notebook):
        raise ExportError(f"{target} is the recording itself: name another file with -o.")
    try:
        recording = Recording.load(notebook)
        if kind == ".html":
            recording.to_html(target, title=notebook.name)
        else:
            recording.to_jsonl(target)
    except (RecordingError, ImportError) as error:
        raise ExportError(str(error)) from error
    except OSError as error:
        raise ExportError(f"{target} cannot be written: {error.strerror}.") from error
    return target, list(recording.problems)
