"""The budget of a cell's output, and its streams, without a kernel."""

from __future__ import annotations

import codecs
import json
import os
import re
import tempfile
import threading
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zmq
from hypothesis import example, given
from hypothesis import strategies as st
from ipykernel.iostream import IOPubThread
from jupyter_client.session import Session

from daytona_kernel_interp.client.output_text import plain_text
from daytona_kernel_interp.guest.kernel import line_buffer as lines
from daytona_kernel_interp.guest.kernel import output
from daytona_kernel_interp.guest.kernel.output import CellStream, OutputBudget, end_cell, printable
from tests.unit import strategies

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.kernel

_NOTE = re.compile(r"\n\[\.\.\. ([\d,]+) characters left out; ([^\n]*) \.\.\.\]\n")
_TEXTS = st.lists(st.text(st.sampled_from("ab\né\U0001f600"), max_size=30), max_size=12)


def assert_adds_up(now: str, rest: str, whole: str, limit: int) -> None:
    """Check that the sent text is complete, or has the head, the exact count, and the tail."""
    if len(whole) <= limit:
        assert now + rest == whole
        return
    note = _NOTE.match(rest)
    assert note is not None
    dropped, tail = int(note[1].replace(",", "")), rest[note.end() :]
    assert len(now) + dropped + len(tail) == len(whole)
    assert len(now) + len(tail) == limit
    assert whole.startswith(now)
    assert whole.endswith(tail)


@given(limit=st.integers(0, 60), texts=_TEXTS)
@example(limit=0, texts=["hello"])
@example(limit=1, texts=["hello"])
def test_head_count_and_tail_add_up(limit: int, texts: list[str]) -> None:
    """Below the limit text is complete; above it head, count and tail are exact, for any writes."""
    with tempfile.TemporaryDirectory() as folder:
        budget = OutputBudget(limit, Path(folder), "o.txt")
        now = "".join(map(budget.admit, texts))
        assert_adds_up(now, budget.close(), "".join(texts), limit)


@strategies.FEW
@given(limit=st.integers(0, 60), texts=_TEXTS)
def test_the_file_holds_the_whole_text(limit: int, texts: list[str]) -> None:
    """If text is left out, the file in the note has all text, the head included."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "o.txt"
        budget = OutputBudget(limit, Path(folder), "o.txt")
        for text in texts:
            budget.admit(text)
        note = _NOTE.match(budget.close())
        if note is not None:
            assert note[2] == f"the whole is in {path}"
            assert path.read_bytes() == "".join(texts).encode()


def test_a_long_flood_keeps_little_in_memory(tmp_path: Path) -> None:
    """The memory in use is bounded, and the count stays exact."""
    budget = OutputBudget(1000, tmp_path, "o.txt")
    texts = [f"{number:>99}\n" for number in range(5000)]
    now = ""
    tracemalloc.start()
    try:
        for count, text in enumerate(texts):
            now += budget.admit(text)
            if count % 100 == 0:
                assert tracemalloc.get_traced_memory()[0] < 200_000
    finally:
        tracemalloc.stop()
    assert_adds_up(now, budget.close(), "".join(texts), 1000)
    assert (tmp_path / "o.txt").read_text() == "".join(texts)


def test_one_huge_write_is_cut_like_many(tmp_path: Path) -> None:
    """A single large print has the same head and tail, and its file is complete."""
    budget = OutputBudget(10, tmp_path, "o.txt")
    text = "".join(map(str, range(500_000)))
    assert budget.admit(text) == "01234"
    assert_adds_up("01234", budget.close(), text, 10)
    assert (tmp_path / "o.txt").read_text() == text


def test_the_count_reads_well(tmp_path: Path) -> None:
    """The count has separators between thousands."""
    budget = OutputBudget(10, tmp_path, "o.txt")
    budget.admit("x" * 12_355)
    assert "\n[... 12,345 characters left out; " in budget.close()


def test_below_the_limit_there_is_no_file(tmp_path: Path) -> None:
    """Text within the head is sent at once, and there is no file."""
    budget = OutputBudget(100, tmp_path, "o.txt")
    assert budget.admit("a" * 50) == "a" * 50
    assert budget.close() == ""
    assert list(tmp_path.iterdir()) == []


def test_without_a_limit_everything_goes_out(tmp_path: Path) -> None:
    """Without a limit nothing is cut or kept."""
    budget = OutputBudget(None, tmp_path, "o.txt")
    text = "x" * 1_000_000
    assert budget.admit(text) == text
    assert budget.clip(text) == text
    assert budget.close() == ""
    assert list(tmp_path.iterdir()) == []


def test_closing_twice_sends_once(tmp_path: Path) -> None:
    """Both streams close the shared budget; the tail is sent once."""
    budget = OutputBudget(10, tmp_path, "o.txt")
    budget.admit("x" * 100)
    assert budget.close()
    assert budget.close() == ""


def test_late_text_is_not_lost(tmp_path: Path) -> None:
    """Text that stderr writes between the two closings is sent."""
    budget = OutputBudget(10, tmp_path, "o.txt")
    budget.admit("x" * 100)
    budget.close()
    assert budget.admit("late") + budget.close() == "late"


def test_a_file_that_cannot_be_made_does_not_break_the_cell(tmp_path: Path) -> None:
    """Without a file, head and tail are sent, and the note says so."""
    budget = OutputBudget(10, tmp_path / "nowhere", "o.txt")
    assert budget.admit("x" * 100) == "x" * 5
    assert "the whole could not be written to a file" in budget.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
@pytest.mark.parametrize("size", [100, 100_000])
def test_a_full_disk_does_not_break_the_cell(size: int) -> None:
    """With a full disk, head and tail are sent, and the note names no file."""
    budget = OutputBudget(10, Path("/dev"), "full")
    assert budget.admit("x" * size) == "x" * 5
    rest = budget.close()
    assert rest.endswith("x" * 5)
    assert "the whole is in" not in rest


@pytest.mark.parametrize("character", ["a", "é", "\U0001f600"])
def test_the_file_has_a_limit_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, character: str) -> None:
    """The file ends at its limit in bytes, and the note says that it has the first part."""
    monkeypatch.setattr(output, "SPOOL_BYTES", 4000)
    budget = OutputBudget(2, tmp_path, "o.txt")
    text = character * 10_000
    for start in range(0, len(text), 10):
        budget.admit(text[start : start + 10])
    note = budget.close()
    spooled = (tmp_path / "o.txt").read_bytes()
    assert 2000 < len(spooled) <= 4000
    assert text.encode().startswith(spooled)
    assert "the first " in note


@given(limit=st.integers(0, 40), text=st.text(max_size=120))
def test_a_displayed_text_is_cut_in_its_middle(limit: int, text: str) -> None:
    """A display within the limit is unchanged; beyond it, head, count and tail are exact."""
    budget = OutputBudget(limit, Path("/nowhere"), "o.txt")
    clipped = budget.clip(text)
    assert budget.clipped == (len(text) > limit)
    if not budget.clipped:
        assert clipped == text
        return
    half = limit // 2
    note = f"\n[... {len(text) - 2 * half:,} characters left out ...]\n"
    assert clipped == text[:half] + note + text[len(text) - half :]


def test_what_a_cell_displays_has_a_limit_together(tmp_path: Path) -> None:
    """Figures and tables are sent while there is room, then replaced by notes. Texts are cut shorter and shorter."""
    budget = OutputBudget(100, tmp_path, "o.txt", max_value_bytes=1000)
    figure = {"image/png": b"x" * 6000, "text/plain": "<Figure>"}
    assert budget.fit(figure) == figure
    assert budget.fit({"text/html": "x" * 9000, "application/json": {"a": 1}}) == {
        "application/json": {"a": 1},
        "text/plain": "[text/html left out: its 9,000 characters are more than the cell may still show]",
    }
    assert not budget.clipped
    texts = [str(budget.fit({"text/plain": "y" * 1000})["text/plain"]) for _ in range(100)]
    assert all("left out ..." in text and len(text) < 300 for text in texts)
    assert budget.clipped


def test_one_display_is_no_larger_than_a_message(tmp_path: Path) -> None:
    """A display is limited even if the cell has no limit."""
    budget = OutputBudget(None, tmp_path, "o.txt", max_value_bytes=1000)
    assert list(budget.fit({"text/html": "x" * (12 << 20)})) == ["text/html"]
    assert list(budget.fit({"text/html": "x" * (13 << 20)})) == ["text/plain"]
    assert list(OutputBudget(None, tmp_path, "o.txt").fit({"text/html": "x" * (13 << 20)})) == ["text/html"]
    assert len(str(budget.fit({"text/plain": "x" * (13 << 20)})["text/plain"])) < 5 << 20


@given(strategies.TEXTS | st.text(st.characters(exclude_categories=[])))
def test_printable_text_can_be_sent(text: str) -> None:
    """Lone surrogates are escaped, because no message carries them; all other text is unchanged."""
    result = printable(text)
    result.encode("utf-8")
    if not re.search(r"[\ud800-\udfff]", text):
        assert result == text


def test_a_surrogate_shows_as_its_escape() -> None:
    """The escape has the number of the surrogate."""
    assert printable("é\udc80") == "é\\udc80"


class LateStream:
    """A stream whose pipe still has text of a child process when the cell ends."""

    def __init__(self, name: str, budget: OutputBudget, in_pipe: str) -> None:
        self.name, self.budget = name, budget
        self.in_pipe, self.sent = in_pipe, ""

    def drain(self) -> None:
        self.sent += self.budget.admit(self.in_pipe, self.name)

    def write_unlimited(self, text: str) -> None:
        self.sent += text


def test_both_pipes_are_drained_before_the_budget_is_closed(tmp_path: Path) -> None:
    """Text in the second stream's pipe is part of the count, the tail and the file."""
    budget = OutputBudget(10, tmp_path, "whole.txt")
    head = budget.admit("a" * 20)
    streams: list[Any] = [LateStream("stdout", budget, ""), LateStream("stderr", budget, "b" * 20)]
    end_cell(streams, budget)
    assert head == "aaaaa"
    assert streams[0].sent.startswith("\n[... 30 characters left out; the whole is in ")
    assert streams[0].sent.endswith("\nbbbbb")
    assert streams[1].sent == ""
    assert (tmp_path / "whole.txt").read_text() == "a" * 20 + "b" * 20


class PipedStream(CellStream):
    """A stream with a pipe that no thread reads."""

    pipe_fd, watches_pipe = -1, True  # properties of the base class

    def __init__(self, pipe: int) -> None:
        self.pipe_fd, self.name = pipe, "stdout"
        self._pipe_lock, self._decoder = threading.Lock(), codecs.getincrementaldecoder("utf-8")()
        self.budget = None
        self.written: list[str] = []

    def __del__(self) -> None: ...

    def write_unlimited(self, text: str, read: int = 0) -> None:
        self.written.append(text)


def test_a_pipe_is_drained_whoever_watches_it() -> None:
    """``drain`` reads what the pipe holds, without waiting for more; a divided character is joined."""
    read, write = os.pipe()
    try:
        stream, whole = PipedStream(read), ("é" * 30_000).encode()
        for piece in (whole[:-1], whole[-1:], b""):
            os.write(write, piece)
            stream.drain()
        assert "".join(stream.written) == "é" * 30_000
    finally:
        os.close(read)
        os.close(write)


def test_what_comes_after_the_end_has_a_limit_of_its_own(tmp_path: Path) -> None:
    """A thread that goes on printing has a small allowance; then one note is sent."""
    budget = OutputBudget(100_000, tmp_path, "o.txt")
    budget.admit("x")
    budget.close()
    late = "".join(budget.admit("y" * 99 + "\n") for _ in range(10_000))
    assert late.startswith(("y" * 99 + "\n") * 100)
    assert late.endswith("\n[... further output after the end of the cell is left out ...]\n")
    assert len(late) < 10_100


def test_a_progress_bar_counts_once(tmp_path: Path) -> None:
    """A progress bar counts in its last state, also between lines of the other stream."""
    budget, now = OutputBudget(2000, tmp_path, "o.txt"), {"stdout": "", "stderr": ""}
    for number in range(10_000):
        now["stderr"] += budget.admit(f"\r{number / 100:6.2f}%|{'#' * 80}", "stderr")
        if number % 1000 == 0:
            now["stdout"] += budget.admit(f"line {number}\n", "stdout")
    now["stderr"] += budget.admit("\n", "stderr")
    assert budget.finish("stdout") + budget.finish("stderr") + budget.close() == ""
    assert plain_text(now["stderr"]) == f" 99.99%|{'#' * 80}\n"
    assert now["stdout"] == "".join(f"line {number}\n" for number in range(0, 10_000, 1000))
    assert len(now["stderr"]) < lines.REDRAWN_CHARS + 200
    assert list(tmp_path.iterdir()) == []


def test_an_endless_line_leaves_room_for_the_others(tmp_path: Path) -> None:
    """The middle of the long line is left out with a count; the lines around it and the file are complete."""
    budget = OutputBudget(100_000, tmp_path, "o.txt")
    texts = ["before\n", *["0123456789" * 1000] * 300, "\nafter\n"]
    text = "".join(map(budget.admit, texts)) + budget.close()
    note = f"[... 2,975,000 characters of this line left out; the whole is in {tmp_path / 'o.txt'} ...]"
    half = "0123456789" * 1250
    assert text == f"before\n{half}{note}{half}\nafter\n"
    assert (tmp_path / "o.txt").read_text() == "".join(texts)


class SlowStream(CellStream):
    """Stops after its first message until it is resumed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.stopped, self.resumed = threading.Event(), threading.Event()
        super().__init__(*args, **kwargs)

    def buffered_messages(self) -> Iterator[tuple[dict[str, Any], str]]:
        for number, message in enumerate(super().buffered_messages()):
            if number == 1:
                self.stopped.set()
                self.resumed.wait(10)
            yield message


class RecordingThread(IOPubThread):
    """Records what is to be sent."""

    def __init__(self, socket: Any) -> None:
        self.sent: list[Any] = []
        super().__init__(socket)  # type: ignore[no-untyped-call]

    def _really_send(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        self.sent.append(msg)


def test_a_flush_waits_for_text_that_is_being_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """A status message that follows a flush never overtakes text which the iopub thread has taken from the buffer."""
    monkeypatch.setattr(output, "_MESSAGE_CHARS", 1)
    with zmq.Context() as context, context.socket(zmq.PUB) as socket:
        thread: Any = RecordingThread(socket)
        thread.start()
        stream = SlowStream(Session(key=b"k"), thread, "stdout", watchfd=False)
        stream.write("abc")
        first = threading.Thread(target=stream.flush)
        first.start()
        assert stream.stopped.wait(10)

        def end_the_cell() -> None:
            stream.flush()
            thread.send_multipart([b"idle"])

        last = threading.Thread(target=end_the_cell)
        last.start()
        last.join(0.3)  # without the wait in flush() it ends at once
        stream.resumed.set()
        last.join()
        first.join()
        done = threading.Event()
        thread.schedule(done.set)
        assert done.wait(10)
        thread.stop()
        thread.close()
    texts = [json.loads(frames[-1])["text"] if len(frames) > 1 else "idle" for frames in thread.sent]
    assert texts == ["a", "b", "c", "idle"]
