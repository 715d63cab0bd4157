"""A sandbox whose disk is full: it costs the journal and the file of complete output, never the kernel."""

from __future__ import annotations

import subprocess
import tempfile
from typing import TYPE_CHECKING

import pytest

from .driver import Driver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.kernel

FILL = """
import os, tempfile
try:
    with open(os.path.join(tempfile.gettempdir(), "large"), "wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
except OSError as error:
    print(error.strerror)
"""


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put the folders of sandboxes on a disk of a few megabytes."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", tmp_path], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("this user may not mount a file system")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_costs_the_journal_and_not_the_kernel(tmp_path: Path) -> None:
    """After a cell that fills the disk, prints, displays, values and variables work; the text says what is missing."""
    driver = Driver()
    try:
        assert driver.run("kept = 1\n" + FILL.replace("tempfile.gettempdir()", repr(str(tmp_path)))).cell.text() == (
            "No space left on device\n"
        )
        text = driver.run("for number in range(60_000):\n    print('line', number)").cell.text()
        assert text.startswith("line 0\n")
        assert text.endswith("line 59999\n")
        assert "could not be written" in text
        assert driver.value("import sys; sys.stderr.write('x' * 300_000); kept") == 1
        driver.run(f"import os; os.unlink({str(tmp_path / 'large')!r})")
        assert driver.value("kept") == 1
    finally:
        driver.close()
