"""The atomic file: complete at every instant, at a cost that does not grow with the file."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.recording import atomic_file as growing
from daytona_kernel_interp.recording.atomic_file import AtomicFile, read_file

if TYPE_CHECKING:
    from pathlib import Path

WAYS = ("exchange", "links", "copies")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what the file system supports: exchanging names, hard links, or neither."""
    if request.param != "exchange":
        monkeypatch.setattr(growing, "_exchange", lambda folder, one, other: False)
    if request.param == "copies":

        def no_links(*_: Any, **__: Any) -> None:
            raise PermissionError("no hard links here")

        monkeypatch.setattr(os, "link", no_links)
    return str(request.param)


def test_it_is_whole_after_each_put(way: str, tmp_path: Path) -> None:
    """The file has all committed text in order and the last tail, also a shorter one; no spare copy is left."""
    file = AtomicFile(tmp_path / "run.ipynb")
    for number in range(6):
        file.put(f"{number},", "end" * (6 - number))
        expected = "".join(f"{one}," for one in range(number + 1)) + "end" * (6 - number)
        assert (tmp_path / "run.ipynb").read_text() == expected
    file.close()
    assert os.listdir(tmp_path) == ["run.ipynb"]


@given(pieces=st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9)), min_size=1, max_size=8))
def test_any_pieces_and_ends(pieces: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    """The file has all committed text and the last tail."""
    path = tmp_path_factory.mktemp("grow") / "run.ipynb"
    file = AtomicFile(path)
    for committed, tail in pieces:
        file.put(committed, tail)
    file.close()
    assert path.read_bytes() == ("".join(committed for committed, _ in pieces) + pieces[-1][1]).encode()


def test_a_seen_file_is_never_written_to(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write never goes to the visible file, so that a kill cannot damage it."""
    path = tmp_path / "run.ipynb"
    file = AtomicFile(path)
    file.put("[0", "]")
    write, seen = os.pwrite, []

    def watched(descriptor: int, data: Any, at: int) -> int:
        assert os.fstat(descriptor).st_ino != os.stat(path).st_ino
        json.loads(path.read_text())
        half = write(descriptor, bytes(data)[: len(data) // 2 or 1], at)  # and read in the middle of the write
        seen.append(json.loads(path.read_text()))
        return half

    monkeypatch.setattr(os, "pwrite", watched)
    for number in range(1, 5):
        file.put(f",{number}", "]")
    file.close()
    assert json.loads(path.read_text()) == [0, 1, 2, 3, 4]
    assert [len(values) for values in seen if len(values) == 4], "it was read between two writes"


def _save(what: str, path: Path) -> None:
    """Change a notebook as other programs do."""
    if what == "deleted":
        path.unlink()
    elif what == "overwritten":  # as JupyterLab does
        path.write_text("saved elsewhere, and longer than it was")
    else:
        same = what == "replaced by one of its length"
        (path.parent / "new").write_text("?" * path.stat().st_size if same else "saved elsewhere")
        (path.parent / "new").rename(path)


@pytest.mark.parametrize("what", ["replaced", "replaced by one of its length", "overwritten", "deleted"])
def test_somebody_else_s_file_in_its_place(way: str, what: str, tmp_path: Path) -> None:
    """After another program saved or deleted the notebook, the next put writes all of it again."""
    path = tmp_path / "run.ipynb"
    file = AtomicFile(path)
    file.put("0", "|")
    file.put("1", "|")
    for number in range(2, 8):
        if number != 4:  # twice in a row, for both copies, and after an undisturbed put
            _save(what, path)
        file.put(str(number), "|")
        assert path.read_text() == "".join(map(str, range(number + 1))) + "|"
    file.close()
    assert os.listdir(tmp_path) == ["run.ipynb"]


def test_an_edit_of_the_same_length(way: str, tmp_path: Path) -> None:
    """A letter that is changed in place does not damage the file; whether the change stays is not defined."""
    path = tmp_path / "run.ipynb"
    file = AtomicFile(path)
    for number in range(8):
        file.put(f"{number},", "|")
        if number == 2:
            with path.open("r+b") as seen:
                seen.write(b"9")
        assert path.read_text()[1:] == ("".join(f"{one}," for one in range(number + 1)) + "|")[1:]
    file.close()


def test_what_is_cut_off_under_the_writer_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When one copy is deleted and the other truncated before it is copied, put raises an error."""
    path = tmp_path / "run.ipynb"
    file = AtomicFile(path)
    file.put("0", "|")
    path.unlink()
    read = os.pread

    def emptied(descriptor: int, size: int, at: int) -> bytes:
        os.truncate(path, 0)
        return read(descriptor, size, at)

    monkeypatch.setattr(os, "pread", emptied)
    with pytest.raises(OSError, match="another program truncated it"):
        file.put("1", "|")
    file.close()


def test_a_folder_that_is_renamed_is_still_written_to(way: str, tmp_path: Path) -> None:
    """A file in a renamed folder is still written."""
    folder = tmp_path / "before"
    folder.mkdir()
    file = AtomicFile(folder / "run.ipynb")
    file.put("0", "|")
    folder.rename(tmp_path / "after")
    file.put("1", "|")
    file.put("2", "|")
    file.close()
    assert (tmp_path / "after" / "run.ipynb").read_text() == "012|"


def test_each_piece_is_written_twice_however_many_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of bytes written grows linearly with the file."""
    written: list[int] = []
    write = os.pwrite

    def counted(descriptor: int, data: Any, at: int) -> int:
        written.append(len(data))
        return write(descriptor, data, at)

    monkeypatch.setattr(os, "pwrite", counted)
    file = AtomicFile(tmp_path / "run.ipynb")
    for _ in range(500):
        file.put("x" * 1000, "end")
    file.close()
    assert sum(written) < 2.1 * 500 * 1000


def test_a_reader_that_is_overtaken_reads_again(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader whose copy becomes the spare copy and is written to still returns a complete document."""
    path = tmp_path / "run.ipynb"
    file = AtomicFile(path)
    file.put("[0", ",9,9,9]")
    overtaken: list[bytes] = []

    class Slow:
        """A file that is read half before and half after two calls of put."""

        def __init__(self, path: Path, _: str) -> None:
            self._file = path.open("rb")

        def __enter__(self) -> Slow:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def fileno(self) -> int:
            return self._file.fileno()

        def read(self) -> bytes:
            if overtaken:
                return self._file.read()
            os.lseek(self.fileno(), 0, os.SEEK_SET)
            half = os.read(self.fileno(), 4)
            for number in (1, 2):
                file.put(f",{number}", "]")
            overtaken.append(half + self._file.read())
            return overtaken[0]

    monkeypatch.setattr(growing, "open", Slow, raising=False)
    as_it_was = [0, 9, 9, 9]  # with a new file for each put, the reader's open file does not change
    assert json.loads(read_file(path)) == (as_it_was if way == "copies" else [0, 1, 2])
    file.close()
