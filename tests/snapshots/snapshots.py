"""The list of snapshots: file name and the function that returns its text, given an empty folder to work in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.snapshots.command_line import bad_input, help_texts
from tests.snapshots.error_texts import error_texts
from tests.snapshots.file_formats import golden_files, kernelspecs, recording, session_files
from tests.snapshots.public_api import public_api
from tests.snapshots.wheel import wheel
from tests.snapshots.wire_bytes import wire_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

EXPECTED = Path(__file__).parent / "expected"
SNAPSHOTS: dict[str, Callable[[Path], str]] = {
    "public_api.txt": public_api,
    "cli_help.txt": help_texts,
    "cli_bad_input.txt": bad_input,
    "error_texts.txt": error_texts,
    "wheel.txt": wheel,
    "wire_bytes.txt": wire_bytes,
    "golden_files.txt": golden_files,
    "recording.txt": recording,
    "session_files.json": session_files,
    "kernelspecs.json": kernelspecs,
}
