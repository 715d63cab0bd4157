"""``python -m tests.notebooks.execute [NAME...]``: run the notebooks anew and write them with what they show."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
from nbclient import NotebookClient

from tests import hermetic

if TYPE_CHECKING:
    from nbformat import NotebookNode

FOLDER = Path(__file__).parents[2] / "notebooks"
NAMES = ("01_quickstart", "02_inspect_live_state", "04_lost_connection")


def executed(name: str, folder: Path) -> NotebookNode:
    """Run a notebook in ``folder`` and return it with its outputs, without times and whatever is of this machine.

    Raises:
        CellExecutionError: If a cell fails.
    """
    notebook: NotebookNode = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    client = NotebookClient(
        notebook, timeout=100, record_timing=False, resources={"metadata": {"path": str(folder)}}, kernel_name="python3"
    )
    client.execute()
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":  # what libraries log is of one run
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


def main() -> None:
    """Run those that were named, or all."""
    with tempfile.TemporaryDirectory() as folder:
        hermetic.isolate(os.environ, Path(folder))
        del os.environ["MPLBACKEND"]
        for name in sys.argv[1:] or NAMES:
            nbformat.write(executed(name, Path(folder)), FOLDER / f"{name}.ipynb")
            print(name)


if __name__ == "__main__":
    main()
