"""The kernel's stdout and stderr: bounded per cell, complete in a file, safe for any character.

Theory of operation
-------------------
A model's cell may print a gigabyte, redraw a progress bar ten thousand times, print one line without an end, or start
child processes that write to file descriptors 1 and 2 directly. The host needs the beginning at once and the end when
the cell is over, and no output may be lost silently. Text takes this way::

    print() ---------> CellStream.write --> OutputBudget.admit --+--> OutStream's buffer --> iopub, every 20 ms
                             ^                                   |          |
    fd 1, 2 --> pipe --> reader thread, drain()                  |          +--> PendingText, until the journal has it
                                                                 +--> tail in memory, sent by end_cell()
                                                                 +--> file output-N.txt

*One budget per cell.* ``OutputBudget`` allows ``limit_chars`` for both streams together. The first half goes out live.
Of what follows only the last half is kept. ``end_cell`` sends a note with the count of the characters between, and then
that tail. A cell within its limit is sent as it is. As soon as text exceeds the first half, all of the cell's text goes
to a file, up to ``SPOOL_BYTES``; the note names the file.

*Lines.* A redrawn line counts in its last state, and the middle of a very long line is left out (``line_buffer``): one
line must not use the room of all the others. The file gets the lines as a terminal shows them, in full.

*Displays* are cut apart from printed text: a text beyond the limit in its middle, a representation that is too large
(a figure, an HTML table) is replaced by a sentence.

*After the cell.* The budget stays in place when the cell has ended. Threads and child processes that print on have a
small allowance, then one note. The next cell brings its own budget.

*Child processes.* ipykernel reads the pipe behind 1 and 2 in a thread. At the end of a cell that thread may not have
run yet, so ``drain`` reads what the pipe holds at that moment, under the same lock. It stops at the number of bytes
that were there at the start: a background process that prints without pause would hold the cell's end back for ever.

Forked children write to the pipe, too (``forked``).

*Order.* A stream that is written to publishes first what the other one holds, up to ``_TURNS`` times in a cell, and
each print reads first what child processes have written. What a child writes to both of its streams has no order.

*Death of the process.* Text in a buffer dies with the kernel. ``write_unlimited`` therefore adds it to ``PendingText``
first, in memory that outlives the process, and ``publish_buffered`` removes it when the journal has the message. What
child processes write to stderr is also saved for the relay, which quotes the end of it when the kernel dies. The pipes
are FIFOs of which the relay has a read end, too: it saves what this process had not read, such as the message of a C
library that then aborts.

``CellStream`` replaces ipykernel's ``OutStream`` through ``IPKernelApp.outstream_class``. A wrapper around
``stream.write`` would not last: IPython swaps that method around every cell.
"""

from __future__ import annotations

import array
import codecs
import fcntl
import io
import json
import os
import select
import termios
import threading
from typing import TYPE_CHECKING, Any

from jupyter_client.jsonutil import json_default
from jupyter_client.session import json_packer

from ..journal_files import PIPE_READ_BYTES, STDERR_BYTES, pipe_path
from .forked import ChildOutput
from .ipykernel_compat import HookedOutStream
from .line_buffer import LongLineLimiter, RedrawBuffer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from .journal_writer import PendingText

_to_json = json.dumps  # as it is before any cell: code may replace it
_CHILD_OUTPUT = ChildOutput()
SPOOL_BYTES = 256 << 20  # of the file with a cell's complete text
_TURNS = 2_000  # changes between stdout and stderr of a cell that keep their order; each takes half a millisecond
_NO_ORDER = ("\n", " ")  # what print() writes after the values: the values have waited for the child processes
_NO_BYTES = bytes(4)  # what FIONREAD says of an empty pipe
_LATE_CHARS = 10_000  # of threads and child processes after the cell's end
_LINE_CHARS = 10_000  # a line may have this many, or a quarter of the limit if that is more
_MESSAGE_CHARS = 2 << 20  # of one message; the host closes the connection at a message that is too large
_CLIP_CHARS = 4 << 20  # of an error's text if the cell has no limit
# Of figures and tables. Less than what the host allows a message to exceed the largest value by.
_RICH_CHARS = 12 << 20
_RICH_PER_TEXT = 160  # characters of all figures and tables of a cell, per character of its limit
_SHOWN_CHARS = 200  # of each display's text, even if the cell has used its limit


class OutputBudget:
    """The room that one cell's output has left, and the text that waits for the cell's end.

    Both streams share one budget, so the text is cut in one place. Any thread may write.
    """

    def __init__(self, limit_chars: int | None, folder: Path, name: str, max_value_bytes: int | None = None) -> None:
        self._limit = limit_chars
        self._shown_left = limit_chars
        self._rich_left = None if limit_chars is None else _RICH_PER_TEXT * limit_chars
        self._largest = None if max_value_bytes is None else max_value_bytes + _RICH_CHARS
        self._head_left = limit_chars // 2 if limit_chars is not None else 0
        self._head_chars = self._head_left
        self._tail_chars = limit_chars - self._head_left if limit_chars is not None else 0
        self._tail: list[str] = []
        self._tail_size = 0
        self._dropped = 0
        self._path = folder / name
        self._spool: Any = None
        self._spooled = 0
        self._spool_full = self._spool_failed = False
        self._recorded: list[str] = []  # text before the file is opened; the file begins with it
        self._recorded_size = 0
        self._lines: dict[str, tuple[RedrawBuffer, LongLineLimiter]] = {}  # by stream name
        self._late_left: int | None = None  # characters after the cell's end; None before it
        self._lock = threading.RLock()  # a signal handler may print in the middle of a print
        self.clipped = False  # whether a displayed text was cut
        self.turns_left = _TURNS  # of the two streams

    def admit(self, text: str, stream: str = "") -> str:
        """Return the part of ``text`` to send now; the rest waits for :meth:`close`."""
        if self._limit is None:
            return text
        with self._lock:
            if self._late_left is not None:
                return self._admit_late(text)
            redraws, long_lines = self._lines_of(stream)
            settled = redraws.feed(text)
            self._record(settled)
            out = self._count(long_lines.feed(settled))
            return out + redraws.current_state() if redraws.pending and self._head_left else out

    def finish(self, stream: str) -> str:
        """Return the text to send of a stream's unfinished line, because the cell has ended."""
        with self._lock:
            if stream not in self._lines:
                return ""
            redraws, long_lines = self._lines.pop(stream)
            settled = redraws.finish()
            self._record(settled)
            return self._count(long_lines.feed(settled) + long_lines.finish())

    def close(self) -> str:
        """Return the note on the text left out, and the tail. Later text has an allowance of its own."""
        with self._lock:
            if self._late_left is None and self._limit is not None:
                self._late_left = min(self._limit, _LATE_CHARS)
            self._close_spool()
            self._recorded = []
            if not self._tail:
                return ""
            tail = "".join(self._tail)
            dropped = self._dropped + max(0, len(tail) - self._tail_chars)
            tail = tail[max(0, len(tail) - self._tail_chars) :]
            self._tail, self._tail_size, self._dropped = [], 0, 0
            return f"\n[... {dropped:,} characters left out; {self._complete_note()} ...]\n{tail}" if dropped else tail

    def _admit_late(self, text: str) -> str:
        if not self._late_left:
            return ""
        out = text[: self._late_left]
        self._late_left -= len(out)
        return out if self._late_left else f"{out}\n[... further output after the end of the cell is left out ...]\n"

    def _lines_of(self, stream: str) -> tuple[RedrawBuffer, LongLineLimiter]:
        if stream not in self._lines:
            assert self._limit is not None
            longest = max(_LINE_CHARS, self._limit // 4)
            long_lines = LongLineLimiter(longest if longest < self._limit else None, self._note_on_a_line)
            self._lines[stream] = (RedrawBuffer(), long_lines)
        return self._lines[stream]

    def _count(self, text: str) -> str:
        now, rest = text[: self._head_left], text[self._head_left :]
        self._head_left -= len(now)
        if rest:
            self._keep_tail(rest)
        return now

    def clip(self, text: str, limit: int | None = None) -> str:
        """Return a displayed text. If it exceeds ``limit``, or else the cell's limit, its middle is left out."""
        most = limit if limit is not None else _CLIP_CHARS if self._limit is None else self._limit
        if len(text) <= most:
            return text
        self.clipped = True
        head, tail = text[: most // 2], text[len(text) - most // 2 :]
        return f"{head}\n[... {len(text) - len(head) - len(tail):,} characters left out ...]\n{tail}"

    def fit(self, data: Mapping[str, object]) -> dict[str, object]:
        """Return the representations of a display to send, by MIME type. A large one is cut, or replaced by a note."""
        kept: dict[str, object] = {}
        texts = [str(data["text/plain"])] if "text/plain" in data else []
        for mime, content in data.items():
            size = _size(content)
            if mime == "text/plain":
                continue
            if (self._largest is not None and size > self._largest) or (
                self._rich_left is not None and size > self._rich_left
            ):
                texts.append(f"[{mime} left out: its {size:,} characters are more than the cell may still show]")
                continue
            self._rich_left = None if self._rich_left is None else self._rich_left - size
            kept[mime] = content
        if texts:
            left = None if self._limit is None or self._shown_left is None else max(_SHOWN_CHARS, self._shown_left)
            text = self.clip("\n".join(texts), None if left is None else min(left, self._limit or 0))
            kept["text/plain"] = text
            self._shown_left = None if left is None else left - len(text)
        return kept

    def _note_on_a_line(self, left_out: int) -> str:
        self._write_spool("")
        return f"[... {left_out:,} characters of this line left out; {self._complete_note()} ...]"

    def _record(self, text: str) -> None:
        """Keep ``text`` for the file, or write it there once the cell exceeds its head."""
        self._recorded_size += len(text)
        if self._spool is None and not self._spool_failed and self._recorded_size <= self._head_chars:
            self._recorded.append(text)
        else:
            self._write_spool(text)

    def _keep_tail(self, text: str) -> None:
        self._tail.append(text)
        self._tail_size += len(text)
        if self._tail_size > 2 * self._tail_chars + PIPE_READ_BYTES:
            joined = "".join(self._tail)
            self._dropped += len(joined) - self._tail_chars
            self._tail = [joined[len(joined) - self._tail_chars :]]
            self._tail_size = self._tail_chars

    def _write_spool(self, text: str) -> None:
        try:
            if self._spool is None:
                self._spool = self._path.open("wb")
                self._write_pieces("".join(self._recorded))
                self._recorded = []
            self._write_pieces(text)
        except (OSError, ValueError):
            # A full disk, or a write after the file was closed, must not fail the cell.
            self._spool_failed = True

    def _write_pieces(self, text: str) -> None:
        # In pieces: encoding a string of 1 GB at once takes another 1 GB.
        for start in range(0, len(text), 1 << 20):
            piece = text[start : start + (1 << 20)].encode("utf-8", "replace")
            if self._spool_full or self._spooled + len(piece) > SPOOL_BYTES:
                self._spool_full = True
                return
            self._spooled += self._spool.write(piece)

    def _close_spool(self) -> None:
        if self._spool is not None:
            try:
                self._spool.close()  # writes what the file object has buffered
            except OSError:
                self._spool_failed = True

    def _complete_note(self) -> str:
        if self._spool is None or self._spool_failed:
            return "the whole could not be written to a file"
        if self._spool_full:
            return f"the first {SPOOL_BYTES >> 20} MB are in {self._path}"
        return f"the whole is in {self._path}"


class StreamBuffer(io.BufferedIOBase):
    """The ``buffer`` of a text stream: bytes written to it are decoded and written to the stream."""

    def __init__(self, stream: CellStream) -> None:
        super().__init__()
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self.name, self.mode = stream.name, "wb"

    @property
    def raw(self) -> StreamBuffer:
        """The buffer itself: there is no other below it."""
        return self

    def write(self, data: Any) -> int:
        """Write bytes; a character may be divided between two writes."""
        if isinstance(data, str):
            raise TypeError("a bytes-like object is required, not 'str'")
        with memoryview(data) as view:
            text, size = self._decoder.decode(view.tobytes()), view.nbytes
        self._stream.write(text)
        return size

    def writable(self) -> bool:
        """Return True."""
        return True

    def flush(self) -> None:
        """Send the text of the stream."""
        self._stream.flush()

    def close(self) -> None:
        """Send the text of the stream and stay open, as the stream does: a ``TextIOWrapper`` closes its buffer."""
        self.flush()

    def fileno(self) -> int:
        """Return the file descriptor of the stream."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """Return False."""
        return False


class CellStream(HookedOutStream):
    """``OutStream`` with a budget per cell, and with three defects corrected.

    Lone surrogates are escaped: ipykernel's JSON packer raises an error for them, and the output is lost. Output of
    child processes is decoded across reads: ipykernel cuts every 1000 bytes, also within a character. A flush with an
    empty buffer does not wait for the iopub thread.
    """

    flush_interval = 0.02
    # What code expects of a text file. ``errors`` names what is done with characters that UTF-8 does not have.
    mode, errors, newlines, line_buffering, write_through = "w", "backslashreplace", None, False, False
    pending: PendingText | None = None  # text not published yet, in case the process dies
    siblings: Sequence[CellStream] = ()  # both streams of the kernel, this one included
    _writer = 0  # the thread that is writing text into the buffer
    reading = False  # whether text that was read from the pipe is not in the buffer yet
    pipe_folder: Path | None = None  # of the FIFOs that are used as pipes

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.budget: OutputBudget | None = None
        self.cell = ""  # msg_id of the running or last cell
        self._pipe_lock: Any = threading.RLock()
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._pending_lock: Any = threading.RLock()
        self._pending_text_end = 0  # position up to which text was taken out of the buffer
        self._publishing = False  # whether the iopub thread is turning buffered text into messages
        self._pid = os.getpid()
        super().__init__(*args, **kwargs)
        self.buffer = StreamBuffer(self)

    @property
    def in_child(self) -> bool:
        """Whether this is a forked child, whose text the parent reads from the pipe."""
        return os.getpid() != self._pid and self.watches_pipe

    def reconfigure(self, **options: object) -> None:
        """Send the text so far, as a text file does, and change nothing: any text can be written."""
        unknown = options.keys() - {"encoding", "errors", "newline", "line_buffering", "write_through"}
        if unknown:
            raise TypeError(f"{min(unknown)!r} is an invalid keyword argument for reconfigure()")
        self.flush()

    def fileno(self) -> int:
        """Return file descriptor 1 or 2: what is written there belongs to the cell's output."""
        return self.redirected_fd

    def write(self, string: str) -> int:
        """Write ``string`` within the cell's budget. The return value always counts all of it."""
        if not isinstance(string, str):
            raise TypeError(f"write() argument must be str, not {type(string).__name__}")
        if self.in_child:
            _CHILD_OUTPUT.write(self.redirected_fd, string)
        else:
            if self.siblings and string not in _NO_ORDER:
                self._keep_order()
            self._write_admitted(string)
        return len(string)

    def _keep_order(self) -> None:
        """Let what child processes have written come before what is written next."""
        for stream in self.siblings:
            # Each print comes here, so this is two system calls and no lock if there is nothing to read.
            if stream.reading or fcntl.ioctl(stream.pipe_fd, termios.FIONREAD, _NO_BYTES) != _NO_BYTES:
                stream.drain()

    def _end_turn_of_others(self) -> None:
        """Publish what the other stream holds, so that it comes before what is written here."""
        for stream in self.siblings:
            if stream is not self and stream.has_unpublished:
                if self.budget is None:
                    stream.flush()
                elif self.budget.turns_left:
                    self.budget.turns_left -= 1
                    stream.flush()

    def _write_admitted(self, string: str, read: int = 0) -> None:
        text = printable(string)
        if self.siblings:
            self._end_turn_of_others()
        if self.budget is not None:
            text = self.budget.admit(text, self.name)
        self.write_unlimited(text, read)

    def close(self) -> None:
        """Send the buffered text and stay open: the stream belongs to the kernel, not to the cell."""
        self.flush()

    def flush(self) -> None:
        """Send the buffered text. Messages in the iopub thread's queue keep their order without a wait.

        While the iopub thread still makes messages of text that it has taken from the buffer, this waits: a status
        message queued meanwhile would overtake them, and the text would arrive after its cell's end. In a signal
        handler that has interrupted a write this does nothing: the iopub thread waits for the end of that write.
        """
        if self.in_child:
            _CHILD_OUTPUT.flush(self.redirected_fd)
        elif (self.has_unpublished or self._publishing) and self._writer != threading.get_ident():
            super().flush()

    def write_unlimited(self, text: str, read: int = 0) -> None:
        """Write ``text`` past the budget: the note on the text left out, and the tail.

        ``read`` bytes from the pipe are no longer unread: they are in ``text``, or the budget keeps them.
        """
        if self.pending is not None and os.getpid() == self._pid:
            this_thread = threading.get_ident()
            with self._pending_lock:
                # Python runs no signal handler before this line: it calls nothing.
                interrupted, self._writer = self._writer, this_thread
                try:
                    if text:
                        self.pending.add(self.name, self.cell, text)
                    if read:  # at once: between the two the process might die and the text appear twice
                        self.pending.pipe_read_done(self.name, read)
                    if text:
                        super().write(text)
                finally:
                    self._writer = interrupted
        elif text:
            super().write(text)

    def buffered_messages(self) -> Iterator[tuple[dict[str, Any], str]]:
        """Clear the buffer and yield its text in messages of a bounded size."""
        pending = self.pending if os.getpid() == self._pid else None
        end = 0 if pending is None else pending.start(self.name)
        for parent, data in super().buffered_messages():
            for start in range(0, len(data), _MESSAGE_CHARS):
                piece = data[start : start + _MESSAGE_CHARS]
                if pending is not None:
                    end += len(piece.encode("utf-8", "replace"))
                    pending.begin_publish(self.name, min(end, self._pending_text_end))
                yield parent, piece

    def swap_buffers(self) -> Any:
        """Return the buffers, and note the position where their text ends."""
        if self.pending is None or os.getpid() != self._pid:
            return super().swap_buffers()
        with self._pending_lock:
            self._pending_text_end = self.pending.end_offset(self.name)
            return super().swap_buffers()

    def publish_buffered(self) -> None:
        """Publish the buffered text. Then the journal has it, and it is pending no longer."""
        self._publishing = True  # before the buffer is emptied, so that flush() always sees one or the other
        try:
            super().publish_buffered()
        finally:
            self._publishing = False
        if self.pending is not None and os.getpid() == self._pid:
            with self._pending_lock:
                self.pending.published(self.name, self._pending_text_end)

    def open_pipe(self) -> tuple[int, int] | None:
        """Make the FIFO of this stream and return its ends."""
        if self.pipe_folder is None:
            return None
        path = pipe_path(self.pipe_folder, self.name)
        os.mkfifo(path, 0o600)
        read_end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # would wait for a writer otherwise
        os.set_blocking(read_end, True)
        return read_end, os.open(path, os.O_WRONLY)

    def drain(self) -> None:
        """Read what child processes have written to the file descriptor up to now."""
        if not self.watches_pipe:
            return
        with self._pipe_lock:
            left = _readable_bytes(self.pipe_fd)
            while left > 0 and (taken := self._read_pipe(left)):
                left -= taken

    def read_pipe_until_closed(self) -> None:
        """Write the output of child processes, until the stream closes."""
        poll = select.poll()
        poll.register(self.pipe_fd, select.POLLIN)
        while self.watches_pipe:
            poll.poll()
            with self._pipe_lock:
                if not poll.poll(0):
                    continue  # drain() has read it
                if not self.watches_pipe or not self._read_pipe(PIPE_READ_BYTES):
                    return

    def _read_pipe(self, most: int) -> int:
        """Write what the pipe holds, which is not empty, and return the number of bytes. The caller has the lock."""
        self.reading = True
        try:
            if self.pending is not None and os.getpid() == self._pid:
                data = self.pending.read_pipe(self.name, self.pipe_fd, most)
            else:
                data = os.read(self.pipe_fd, min(most, PIPE_READ_BYTES))
            if self.name == "stderr":  # the relay reads the end of it if the kernel dies
                self._save_stderr(data)
            self._write_admitted(self._decoder.decode(data), read=len(data))
            return len(data)
        finally:
            self.reading = False

    def _save_stderr(self, data: bytes) -> None:
        fd = self.original_fd
        try:
            if os.fstat(fd).st_size > STDERR_BYTES:
                os.ftruncate(fd, 0)  # opened for appending: the next write goes to the start of the file
            os.write(fd, data)
        except OSError:  # a full disk must not stop the cell's output
            return


def end_cell(streams: Sequence[CellStream], budget: OutputBudget) -> None:
    """Read both pipes, close the cell's budget and send the text that it kept.

    The streams keep the budget: it also limits what threads and child processes print before the next cell.
    """
    for stream in streams:
        stream.drain()
    for stream in streams:
        stream.write_unlimited(budget.finish(stream.name))
    rest = budget.close()
    if streams:
        streams[0].write_unlimited(rest)


def pack(message: object) -> bytes:
    """Return a message as JSON. Characters that UTF-8 cannot encode are escaped, as in printed text."""
    try:
        return _to_json(message, default=json_default, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except UnicodeEncodeError:
        text = _to_json(message, default=json_default, ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8", "daytona_kernel_escape")
    except (TypeError, ValueError):
        return bytes(json_packer(message))  # cleans values that are not JSON


def _escape(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(f"\\\\u{ord(char):04x}" for char in error.object[error.start : error.end]), error.end


codecs.register_error("daytona_kernel_escape", _escape)


def _size(content: object) -> int:
    """Return about how many characters a representation takes in a message."""
    if isinstance(content, str):
        return len(content)
    if isinstance(content, (bytes, bytearray, memoryview)):
        return len(content) * 4 // 3
    try:
        return len(_to_json(content, default=str))
    except (TypeError, ValueError, RecursionError):
        return 0  # ipykernel cleans or refuses it


def _readable_bytes(fd: int) -> int:
    count = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, count)
    return count[0]


def printable(text: str) -> str:
    """Return a text that UTF-8 can encode: lone surrogates are escaped."""
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text
