"""Tests of ``guest.kernel.journal_writer``: what a kernel records, its bounds, and text that is not yet published."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.guest.journal_files import MESSAGE_DELIMITER
from daytona_kernel_interp.guest.kernel import journal_writer as journal
from daytona_kernel_interp.guest.kernel.journal_writer import JournalWriter, PendingText
from daytona_kernel_interp.guest.relay.journal_reader import Journal
from daytona_kernel_interp.wire.journal import (
    MAX_FRAMES,
    MAX_RECORD_BYTES,
    MAX_SEGMENTS,
    JournalRecord,
    RecordKind,
    split_frames,
)
from tests.unit.guest.journals import ROOM, SMALL_SEGMENT, message, parse, pending, told, two_cells

pytestmark = pytest.mark.python


# --- what is read -------------------------------------------------------------------------------------------


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    """Frames and replies are read as they were written, in the same order."""
    writer = JournalWriter(tmp_path / "j")
    writer.cell_started("cell-\u00fc")
    writer.message_published([memoryview(b"a"), bytearray(b""), b"c" * 1000])
    writer.cell_ended("cell-\u00fc", {"status": "error", "evalue": "\udc80", "what": Path("x")}, {"m": 1})
    started, published, ended = parse(Journal(tmp_path / "j").read(None, None))
    assert started == JournalRecord(RecordKind.STARTED, "cell-\u00fc".encode())
    assert split_frames(published.payload) == [b"a", b"", b"c" * 1000]
    assert json.loads(ended.payload) == {
        "cell": "cell-\u00fc",
        "content": {"status": "error", "evalue": "\udc80", "what": "x"},
        "metadata": {"m": 1},
    }


def test_only_the_user_can_read_it(tmp_path: Path) -> None:
    """Files and folders are private, because printed text may be secret."""
    two_cells(tmp_path / "j")
    PendingText(tmp_path / "j")
    assert (tmp_path / "j").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "j").iterdir()} == {0o600}


# --- bounds -------------------------------------------------------------------------------------------------


def test_a_journal_is_bounded_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest segments are deleted. The rest is in order, after a GAP."""
    monkeypatch.setattr(journal, "SEGMENT_BYTES", SMALL_SEGMENT)
    writer = JournalWriter(tmp_path / "j")
    writer.cell_started("a")
    for number in range(500):
        writer.message_published(message(f"m{number}", 100))
        size = sum(path.stat().st_size for path in (tmp_path / "j").iterdir())
        assert size < (MAX_SEGMENTS + 1) * (SMALL_SEGMENT + 400)
    assert len(list((tmp_path / "j").iterdir())) == MAX_SEGMENTS + 1
    for cell in ("a", None):  # the id of the last cell is known although its start is gone
        words = told(tmp_path / "j", cell=cell)
        assert words[:2] == ["GAP", "CONTINUED"]
        messages = [word for word in words[1:] if word != "CONTINUED"]
        assert messages == [f"m{number}" for number in range(500 - len(messages), 500)]
        assert len(messages) > 40
    assert told(tmp_path / "j", after="m498") == ["m499"]


def test_a_huge_message_is_told_without_its_content(tmp_path: Path) -> None:
    """A huge message keeps its place by its header; its content is left out."""
    writer = JournalWriter(tmp_path / "j")
    writer.cell_started("a")
    for frames in (message("big", MAX_RECORD_BYTES), message("many") + [b""] * MAX_FRAMES):
        writer.message_published(frames)
    writer.message_published(message("next"))
    assert told(tmp_path / "j") == ["+a", "big", "many", "next"]
    kinds = [record.kind for record in parse(Journal(tmp_path / "j").read(None, None))]
    assert kinds[1:] == [RecordKind.OMITTED, RecordKind.OMITTED, RecordKind.IOPUB]
    assert told(tmp_path / "j", after="big") == ["many", "next"]


def test_what_no_record_can_hold_does_not_spoil_the_rest(tmp_path: Path) -> None:
    """A huge reply is recorded in short, and a message with a huge header as a gap. Later records are complete."""
    writer = JournalWriter(tmp_path / "j")
    writer.cell_started("a")
    huge = "x" * (MAX_RECORD_BYTES + 1)
    writer.message_published([b"topic", MESSAGE_DELIMITER, b"signature", huge.encode()])
    writer.cell_ended("a", {"status": "error", "execution_count": 7, "ename": "E", "evalue": huge, "traceback": []}, {})
    writer.cell_started("b")
    assert told(tmp_path / "j", cell="a") == ["+a", "GAP", "-a", "+b"]
    content = json.loads(parse(Journal(tmp_path / "j").read(None, "a"))[2].payload)["content"]
    assert (content["status"], content["execution_count"], content["ename"]) == ("error", 7, "E")
    assert content["traceback"] == []


# --- faults -------------------------------------------------------------------------------------------------


def test_a_full_disk_costs_the_journal_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that finds no room is lost, without an error in the cell. A GAP precedes the next one."""
    writer = JournalWriter(tmp_path / "j")
    writer.cell_started("a")
    writer.message_published(message("m1"))
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:5]))  # as a disk does that fills up
    writer.message_published(message("m2"))
    monkeypatch.setattr(os, "open", _no_room)
    writer.message_published(message("m3"))
    monkeypatch.undo()
    writer.message_published(message("m4"))
    writer.message_published(message("m5"))
    assert told(tmp_path / "j", cell="a") == ["+a", "m1", "GAP", "CONTINUED", "m4", "m5"]


def _no_room(*args: Any, **kwargs: Any) -> int:
    raise OSError(28, "No space left on device")


def test_a_reader_beside_the_writer_sees_whole_records_in_order(tmp_path: Path) -> None:
    """A reader gets complete records from the beginning, at any time."""
    writer, count = JournalWriter(tmp_path / "j"), 3000
    writer.cell_started("a")

    def write() -> None:
        for number in range(count):
            writer.message_published(message(f"m{number}", number % 700))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        while thread.is_alive():
            words = told(tmp_path / "j", cell="a")
            assert words == ["+a", *(f"m{number}" for number in range(len(words) - 1))]
    finally:
        thread.join()
    assert len(told(tmp_path / "j", cell="a")) == count + 1


def test_threads_that_write_at_once_tear_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of many threads are complete, and those of one thread are in order."""
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 100_000)
    writer = JournalWriter(tmp_path / "j")

    def write(name: str) -> None:
        for number in range(300):
            writer.message_published(message(f"{name}{number}", 100))

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    words = told(tmp_path / "j")
    for name in "abcd":
        assert [word for word in words if word[0] == name] == [f"{name}{number}" for number in range(300)]


def test_a_forked_child_writes_nothing(tmp_path: Path) -> None:
    """A forked child's messages are published and recorded by its parent."""
    program = (
        "import os, sys; from pathlib import Path\n"
        "from daytona_kernel_interp.guest.kernel.journal_writer import JournalWriter\n"
        "writer = JournalWriter(Path(sys.argv[1]))\n"
        "writer.cell_started('parent')\n"
        "if os.fork() == 0:\n"
        "    writer.message_published([b'child'])\n"
        "    os._exit(0)\n"
        "os.wait()\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "j")], check=True, timeout=30)
    assert told(tmp_path / "j") == ["+parent"]


# --- pending text -----------------------------------------------------------------------------------------------


def test_pending_text_is_what_was_not_published(tmp_path: Path) -> None:
    """Pending text is the text that was added and not published, for each stream."""
    text = PendingText(tmp_path / "j")
    assert pending(tmp_path / "j") == []
    text.add("stdout", "a", "one ")
    text.add("stderr", "a", "oh")
    text.add("stdout", "a", "two\u00fc")
    assert pending(tmp_path / "j") == [("stdout", "a", "one two\u00fc"), ("stderr", "a", "oh")]
    text.published("stdout", 4)
    assert pending(tmp_path / "j") == [("stdout", "a", "two\u00fc"), ("stderr", "a", "oh")]
    text.published("stdout", text.end_offset("stdout"))
    text.published("stderr", 2)
    assert pending(tmp_path / "j") == []
    text.add("stderr", "b", "next")
    assert pending(tmp_path / "j") == [("stderr", "b", "next")]


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["stdout", "stderr"]), st.text(max_size=9), st.integers(0, 20)), max_size=20
    ),
    filler=st.integers(0, 40),
)
def test_pending_text_is_a_queue(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, int]], filler: int
) -> None:
    """The pending text is exact for any sequence of additions and publications, also around the end of the ring."""
    folder = tmp_path_factory.mktemp("j")
    text, held = PendingText(folder), {"stdout": b"", "stderr": b""}
    for name in held:
        text.add(name, "c", "x" * (ROOM - filler))
        text.published(name, ROOM - filler)
    for name, added, published in steps:
        text.add(name, "c", added)
        held[name] += added.encode("utf-8", "replace")
        published = min(published, len(held[name]))
        text.published(name, text.start(name) + published)
        held[name] = held[name][published:]
        assert text.end_offset(name) - text.start(name) == len(held[name])
    expected = [(name, "c", data.decode("utf-8", "replace")) for name, data in held.items() if data]
    assert pending(folder) == expected


def test_pending_text_is_bounded(tmp_path: Path) -> None:
    """Text beyond the room is ignored and damages no other stream; published text makes room."""
    text = PendingText(tmp_path / "j")
    text.add("stderr", "a", "safe")
    text.add("stdout", "a", "x" * (ROOM - 1))
    text.add("stdout", "a", "yy")
    text.add("stdout", "a", "z")  # behind a hole
    assert text.end_offset("stdout") == ROOM - 1
    text.add("stdout", "a", "z")
    assert text.end_offset("stdout") == ROOM
    assert pending(tmp_path / "j")[1] == ("stderr", "a", "safe")
    text.published("stdout", ROOM - 1)
    text.add("stdout", "a", "y")
    assert pending(tmp_path / "j")[0] == ("stdout", "a", "zy")


def test_text_is_pending_until_its_message_is_in_the_journal(tmp_path: Path) -> None:
    """A crash between a message's record and the note that it is published neither repeats nor loses text."""
    folder = tmp_path / "j"
    text = PendingText(folder)
    writer = JournalWriter(folder, text)
    writer.cell_started("a")
    text.add("stdout", "a", "printed")
    end = text.end_offset("stdout")
    text.add("stdout", "a", "\n")
    text.begin_publish("stdout", end)
    assert pending(folder) == [("stdout", "a", "printed\n")]
    writer.message_published(message("m1"))
    assert pending(folder) == [("stdout", "a", "\n")]
    segment = folder / "00000001.seg"
    os.truncate(segment, segment.stat().st_size - 1)  # the message was not written in whole, so it was not sent
    assert pending(folder) == [("stdout", "a", "printed\n")]


def test_only_the_thread_that_announced_a_text_publishes_it(tmp_path: Path) -> None:
    """A message of another thread, or a later one of the same thread, does not publish an announced text."""
    folder = tmp_path / "j"
    text = PendingText(folder)
    writer = JournalWriter(folder, text)
    text.add("stdout", "a", "one")
    text.begin_publish("stdout", text.end_offset("stdout"))
    other = threading.Thread(target=writer.message_published, args=(message("display"),))
    other.start()
    other.join()
    assert pending(folder) == [("stdout", "a", "one")]
    writer.message_published(message("m1"))
    assert pending(folder) == []
    text.add("stdout", "a", "two")
    writer.message_published(message("status"))
    assert pending(folder) == [("stdout", "a", "two")]


@pytest.mark.parametrize("cell", ["\u00fc" * 100, "x" * 500, "\udc80", ""])
def test_a_cell_of_any_name_does_no_harm(tmp_path: Path, cell: str) -> None:
    """The id of a cell, which a client chooses, is cut to its room."""
    text = PendingText(tmp_path / "j")
    text.add("stdout", cell, "abc")
    text.published("stdout", 1)
    text.add("stdout", cell, "d")
    ((_, _, left),) = pending(tmp_path / "j")
    assert left == "bcd"


def test_pending_text_outlives_a_killed_process(tmp_path: Path) -> None:
    """Pending text can be read after SIGKILL."""
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from daytona_kernel_interp.guest.kernel.journal_writer import PendingText\n"
        "PendingText(Path(sys.argv[1])).add('stdout', 'a', 'last words')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "j")], check=False, timeout=30)
    assert done.returncode == -signal.SIGKILL
    assert pending(tmp_path / "j") == [("stdout", "a", "last words")]
