"""Tests of ``guest.relay.journal_reader``: where reading starts, and damaged or missing files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.guest.journal_files import UNREAD_BYTES
from daytona_kernel_interp.guest.kernel import journal_writer as journal
from daytona_kernel_interp.guest.kernel.journal_writer import JournalWriter, PendingText
from daytona_kernel_interp.guest.relay.journal_reader import Journal
from daytona_kernel_interp.wire.journal import JournalRecord, RecordKind, encode_record
from tests import examples
from tests.unit.guest.journals import ALL, ROOM, SMALL_SEGMENT, message, parse, pending, told, two_cells

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.python


@pytest.mark.parametrize(
    ("after", "cell", "words"),
    [
        (None, None, ALL[4:]),
        (None, "a", ALL),
        (None, "b", ALL[4:]),
        (None, "c", ["GAP", *ALL]),
        ("a1", None, ALL[2:]),
        ("b2", "a", ALL[7:]),
        ("never", "b", ["GAP", *ALL]),
        ("a", None, ["GAP", *ALL]),  # a cell's id is no message's
    ],
)
def test_a_journal_is_read_from_where_it_is_asked_for(
    tmp_path: Path, after: str | None, cell: str | None, words: list[str]
) -> None:
    """After a message, from a cell, or from the last cell; the whole journal after a GAP if the position is missing."""
    two_cells(tmp_path / "j")
    assert told(tmp_path / "j", after, cell) == words


def test_a_cell_that_ran_twice_is_read_from_its_first_start(tmp_path: Path) -> None:
    """Reading includes everything that was recorded for it."""
    writer = JournalWriter(tmp_path / "j")
    for number in (1, 2):
        writer.cell_started("a")
        writer.message_published(message(f"m{number}"))
    assert told(tmp_path / "j", cell="a") == ["+a", "m1", "+a", "m2"]
    assert told(tmp_path / "j") == ["+a", "m2"]


def test_a_journal_that_is_not_there_is_empty(tmp_path: Path) -> None:
    """Without folder or segment it reads as empty, after a GAP if a position was requested."""
    assert told(tmp_path / "none") == []
    assert told(tmp_path / "none", cell="a") == ["GAP"]
    assert Journal(tmp_path / "none").pending() == []


@given(cut=st.integers(0, 10_000))
def test_a_kernel_killed_in_mid_write_leaves_a_whole_beginning(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    """Cut at any byte, the complete records before it are read, and nothing else."""
    folder = tmp_path_factory.mktemp("j")
    two_cells(folder)
    (segment,) = folder.glob("*.seg")
    data = segment.read_bytes()
    segment.write_bytes(data[: cut % (len(data) + 1)])
    words = told(folder, cell="a")
    if words[:1] == ["GAP"]:  # the cell's start itself was cut
        words = words[1:]
    assert words == ALL[: len(words)]


@examples.at_most(60)
@given(place=st.integers(0, 10_000), garbage=st.binary(min_size=1, max_size=30))
def test_a_spoiled_journal_never_stops_the_relay(
    tmp_path_factory: pytest.TempPathFactory, place: int, garbage: bytes
) -> None:
    """Code in the sandbox may overwrite a segment: later segments are still read."""
    folder = tmp_path_factory.mktemp("j")
    two_cells(folder)
    (segment,) = folder.glob("*.seg")
    data = segment.read_bytes()
    place %= len(data)
    segment.write_bytes(data[:place] + garbage + data[place + len(garbage) :])
    (folder / "00000002.seg").write_bytes(encode_record(JournalRecord(RecordKind.STARTED, b"last")))
    for after, cell in ((None, None), ("a1", None), (None, "b")):
        assert parse(Journal(folder).read(after, cell))[-1] == JournalRecord(RecordKind.STARTED, b"last")


def test_spoiled_bytes_are_a_gap(tmp_path: Path) -> None:
    """Bytes that are not a record are reported as a GAP."""
    two_cells(tmp_path / "j")
    (segment,) = (tmp_path / "j").glob("*.seg")
    segment.write_bytes(segment.read_bytes() + b"garbage of twelve bytes and more")
    assert "GAP" in told(tmp_path / "j", cell="a")


def test_a_segment_deleted_under_the_reader_is_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer may delete the oldest segment during a read: the missing records are reported as a GAP."""
    monkeypatch.setattr(journal, "SEGMENT_BYTES", SMALL_SEGMENT)
    writer = JournalWriter(tmp_path / "j")
    for number in range(60):
        writer.message_published(message(f"m{number}", 100))
    pieces = Journal(tmp_path / "j").read("m5", None)
    first = next(pieces)
    segments = sorted((tmp_path / "j").glob("*.seg"))
    segments[1].unlink()
    records = parse(iter([first, *pieces]))
    gap = records.index(JournalRecord(RecordKind.GAP))
    assert 0 < gap < len(records) - 1


@given(data=st.binary(max_size=400), size=st.integers(0, 3 * ROOM))
def test_a_spoiled_pending_file_is_some_text_or_none(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, size: int
) -> None:
    """Code in the sandbox may write a file of any content and length: the text that is read is bounded."""
    folder = tmp_path_factory.mktemp("j")
    PendingText(folder).add("stderr", "a", "true")
    with (folder / "pending").open("r+b") as file:
        file.write(data)
        file.truncate(size)
    found = pending(folder)
    assert len(found) <= 2
    assert sum(len(text) for _, _, text in found) <= 2 * ROOM


def test_unread_output_belongs_to_the_cell_that_started_last(tmp_path: Path) -> None:
    """Bytes read from the pipe and bytes still in it follow the pending text, once, in a record of their own."""
    folder = tmp_path / "j"
    two_cells(folder)
    text = PendingText(folder)
    text.add("stdout", "a", "printed ")
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.write(write_end, b"processed, ")
    text.pipe_read_done("stdout", len(text.read_pipe("stdout", read_end, 100)))
    os.write(write_end, b"read and ")
    assert text.read_pipe("stdout", read_end, 100) == b"read and "
    os.write(write_end, "unread \u00fc".encode())
    journal = Journal(folder)
    assert journal.save_unread("stdout", read_end) == "read and unread \u00fc".encode()
    assert journal.save_unread("stderr", read_end) == b""  # a process outside the kernel's group has it open
    os.close(write_end)
    os.close(read_end)
    assert pending(folder) == [("stdout", "a", "printed "), ("stdout", "b", "read and unread \u00fc")]


def test_unread_output_is_bounded(tmp_path: Path) -> None:
    """A process that keeps the pipe open and writes on cannot hold the relay."""
    with open("/dev/zero", "rb") as endless:
        assert len(Journal(tmp_path).save_unread("stdout", endless.fileno())) <= UNREAD_BYTES + (256 << 10)
