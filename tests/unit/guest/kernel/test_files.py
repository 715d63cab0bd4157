"""Steps of an upload or download."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from daytona_kernel_interp.guest.kernel import files
from daytona_kernel_interp.guest.kernel.files import handle_request

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.python


def test_a_file_is_written_and_read_in_pieces(tmp_path: Path) -> None:
    """Missing folders are made; the first piece begins the file anew."""
    path = str(tmp_path / "a" / "b.bin")
    for at, data in ((0, b"older and longer"), (0, b"new "), (4, b"text")):
        assert handle_request({"do": "write", "path": path, "at": at, "data": data}) is None
    assert handle_request({"do": "read", "path": path, "at": 0, "size": 3}) == b"new"
    assert handle_request({"do": "read", "path": path, "at": 3, "size": 100}) == b" text"


def test_a_folder_is_listed_before_its_files(tmp_path: Path) -> None:
    """Folders come without a size, links to folders and pipes not at all; a file is its own list."""
    handle_request({"do": "folder", "path": str(tmp_path / "top" / "sub")})
    (tmp_path / "top" / "sub" / "x").write_bytes(b"12")
    (tmp_path / "top" / "loop").symlink_to(tmp_path / "top")
    os.mkfifo(tmp_path / "top" / "pipe")
    assert handle_request({"do": "list", "path": str(tmp_path / "top")}) == [(".", None), ("sub", None), ("sub/x", 2)]
    assert handle_request({"do": "list", "path": str(tmp_path / "top" / "sub" / "x")}) == [("", 2)]


def test_a_folder_of_too_many_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to do instead."""
    monkeypatch.setattr(files, "MAX_FILES", 3)
    for number in range(4):
        (tmp_path / str(number)).touch()
    with pytest.raises(OSError, match="more than 3 files: make an archive"):
        handle_request({"do": "list", "path": str(tmp_path)})


@pytest.mark.parametrize(
    "request_", [{}, {"do": "remove", "path": "x"}, {"do": "write", "path": "x", "at": "0", "data": b""}]
)
def test_what_is_no_request_is_refused(request_: dict[str, object]) -> None:
    """An unknown step, or one with values of other types, does nothing."""
    with pytest.raises(ValueError, match="no such request"):
        handle_request(request_)


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """A file that does not exist, and a folder in its place, are errors of the operating system."""
    with pytest.raises(FileNotFoundError):
        handle_request({"do": "list", "path": str(tmp_path / "nothing")})
    with pytest.raises(IsADirectoryError):
        handle_request({"do": "read", "path": str(tmp_path), "at": 0, "size": 1})
