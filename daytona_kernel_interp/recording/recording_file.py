"""The notebook that a recorder writes: whose file it is, and what is put into it."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import threading
from typing import TYPE_CHECKING

from ..errors import RecordingError
from .atomic_file import AtomicFile
from .model import METADATA_KEY, Entry, LMCall, SessionFacts, ValueRef
from .notebook_json import EntryEncoder, json_text
from .notebook_writer import (
    OPENING,
    SEPARATOR,
    CellJson,
    answer_of,
    cell_hash,
    document_ending,
    entry_texts,
    head_cell,
    model_cell,
    store_tools,
)
from .redaction import known_secrets
from .value_store import HASH, ValueStore, folder_of, ref_to, summary_of, summary_of_call

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ..codec import values
    from ..wire.comm import ToolSpec

_SMALL_BYTES = 256
_MAX_SMALL = 4096

_lock = threading.Lock()
_claimed_names: set[Path] = set()  # by sessions of this process


class NotebookWriter:
    """One session's notebook.

    The name that was asked for is taken by the first session of a process: an earlier recording of that name is
    replaced. Further sessions, such as those of copies, and one in another process that records there at the same time,
    get ``NAME-2.ipynb`` and so on.

    Raises:
        RecordingError: If a file of that name is no recording.
        OSError: If it cannot be written.
    """

    def __init__(self, path: Path, facts: SessionFacts) -> None:
        self.path, self._lock_descriptor = _claim_name(path)
        self.entries = 0
        self.callback = False
        self.closed = False
        self._facts = facts
        self._store = ValueStore(folder_of(self.path))
        self._refs: dict[str, ValueRef] = {}
        self._small: dict[tuple[bytes, bool], ValueRef] = {}
        self._tools: tuple[Sequence[ToolSpec], ValueRef | None] = ((), None)
        self._model_cells = 0
        self._parts = EntryEncoder()
        self._ending: tuple[tuple[bool, bool], tuple[str, str]] | None = None
        self._file = AtomicFile(self.path)
        self._first = True
        self._unfinished = ""
        self._unwritten: list[str] = []  # to be written with what comes next
        self._put([json_text(head_cell(facts))])

    def store_value(
        self, buffers: Sequence[values.Buffer], key: str, inline: dict[str, str], *, is_call: bool = False
    ) -> ValueRef:
        """Keep a value, and return what names it.

        Args:
            buffers: May be empty for a value whose ``key`` was kept before.
            key: Its hash; empty if that is not known.
            inline: Gets the text of a small one that is new, by its hash.
            is_call: Whether it is the arguments of a call, which read as such.
        """
        if not buffers:
            return self._refs.get(key) or ValueRef(key, 0, "a value that was not recorded")
        small = (bytes(buffers[0]), is_call) if len(buffers) == 1 and len(buffers[0]) <= _SMALL_BYTES else None
        ref = self._refs.get(key) if small is None else self._small.get(small)
        if ref is not None:
            return ref
        clean: Sequence[values.Buffer]
        if small is not None:
            clean = (known_secrets.scrub_bytes(small[0]),)
            ref = ref_to(clean, "", summary_of_call if is_call else summary_of)
            if len(self._small) < _MAX_SMALL:
                self._small[small] = ref
        else:
            clean = [known_secrets.scrub_bytes(buffer) for buffer in buffers]
            changed = any(one is not other for one, other in zip(clean, buffers, strict=True))
            ref = ref_to(clean, "" if changed else key, summary_of_call if is_call else summary_of)
            self._refs[key or ref.hash] = ref
        text = self._store.keep(ref, clean)
        if text is not None:
            inline[ref.hash] = text
        return ref

    def has(self, key: str) -> bool:
        """Return whether a large value was kept before, by its hash."""
        return key in self._refs

    def add_model(self, calls: Sequence[LMCall], reasoning: str | None, inline: dict[str, str]) -> None:
        """Add what a model said between cells; it is written with what comes next, or by :meth:`flush`."""
        self._unwritten.append(_clean(json_text(model_cell(calls, reasoning, self._model_cells, inline))))
        self._model_cells += 1

    def flush(self) -> None:
        """Write what was added."""
        self._put([])

    def put(self, entry: Entry, lm_calls: Sequence[LMCall], inline: dict[str, str], *, over: bool) -> None:
        """Put in an entry; one that is not ``over`` is replaced by the next."""
        if entry.tools is not self._tools[0] and entry.tools != self._tools[0]:
            ref, new = store_tools(entry.tools, self._store, known_secrets.scrub_bytes)
            self._tools = (entry.tools, ref)
            inline |= new
        answer = answer_of(entry, self._store)
        texts = list(map(_clean, entry_texts(entry, self._tools[1], lm_calls, inline, answer, self._parts)))
        if over:
            self.entries += 1
            self._put(texts)
        else:
            self._put([], "".join([f"{text}{SEPARATOR}" for text in texts]))

    def close(self, *, complete: bool) -> None:
        """End the notebook; what it has not got yet comes no more."""
        if not self.closed:
            self._put([], self._unfinished, complete=complete)
            self.abandon()

    def abandon(self) -> None:
        """Leave the notebook as it is."""
        if not self.closed:
            self.closed = True
            self._file.close()
            with contextlib.suppress(OSError):
                self._store.folder.rmdir()  # if it is empty
            os.close(self._lock_descriptor)

    def _put(self, settled: list[str], unfinished: str = "", *, complete: bool = False) -> None:
        self._unfinished = unfinished
        text = SEPARATOR.join([*self._unwritten, *settled, ""])
        self._unwritten.clear()
        if self._first:
            text, self._first = OPENING + text, False
        if self._ending is None or self._ending[0] != (complete, self.callback):
            made = document_ending(self._facts, complete=complete, callback=self.callback)
            self._ending = (complete, self.callback), made
        before, after = self._ending[1]
        self._file.put(text, f"{unfinished}{before}{self.entries:,}{after}")


def _clean(text: str) -> str:
    """Return a cell, as JSON, without secrets."""
    if not known_secrets.found_in(text):
        return text
    cell: CellJson = known_secrets.scrub_tree(json.loads(text))
    if cell["cell_type"] == "code":
        cell["metadata"][METADATA_KEY]["sha256"] = cell_hash(cell)
    return json_text(cell)


def _claim_name(path: Path) -> tuple[Path, int]:
    """Return the first name that is free, and a lock on it that ends with this process."""
    if not path.parent.is_dir():
        raise RecordingError(f"{path} cannot be written: there is no folder {path.parent}.")
    with _lock:
        for candidate in _names(path):
            if candidate in _claimed_names:
                continue
            if not _is_free(candidate):
                if candidate != path:
                    continue
                raise RecordingError(
                    f"{path} is there and is no recording, so it is left as it is: give record= another name."
                )
            descriptor = _locked(folder_of(candidate))
            if descriptor is not None:
                _claimed_names.add(candidate)
                return candidate, descriptor
    raise AssertionError("names do not end")


def _names(path: Path) -> Iterator[Path]:
    yield path
    for number in itertools.count(2):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")


def _is_free(path: Path) -> bool:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return True
    except OSError as error:
        raise RecordingError(f"{path} cannot be written: {error.strerror or error}.") from error
    return not text.strip() or f'"{METADATA_KEY}"' in text


def _locked(folder: Path) -> int | None:
    """Return the folder of a recording's values, locked and empty; None if another process records there."""
    folder.mkdir(exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    for file in folder.iterdir():
        if HASH.fullmatch(file.name):  # of the recording that is replaced
            file.unlink()
    return descriptor
