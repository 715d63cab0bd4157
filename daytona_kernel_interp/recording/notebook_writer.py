"""Write a session as a notebook, entry by entry while it runs.

Theory of operation
-------------------
A recording is a notebook of nbformat 4.5, so that every program that opens notebooks shows it. Its cells, in order:

- one Markdown cell with the session's facts (``head_cell``);
- for each entry: a Markdown cell with the model's reasoning and calls, if any (``model_cell``); the code cell with its
  outputs; a Markdown cell with tool calls, answer and ending, if any (both ``entry_cells``);
- one Markdown cell that ends the document, followed by the notebook's metadata (``document_metadata``).

A person reads the cells. A program reads the metadata under ``METADATA_KEY``, in the form of ``schemas/v1.json``. The
code and the outputs stand only in the cell itself; the metadata has the rest of the entry, and a hash over all of it,
which shows whether a cell was edited. The hash covers only what programs keep when they save a notebook.

The caller of ``execute`` waits while its cell is written, so the cost of an entry must not grow with the session.
Hence only the new cells are encoded. :class:`~.atomic_file.AtomicFile` appends their text and writes the constant end
of the document behind it; the file is a complete notebook after each write. An entry whose cell still runs is written
with that end, as *unfinished*: the next write replaces it. Values are written once each. A small one stands in the
``values`` of the first cell that refers to it, a large one in a file of the folder ``<notebook>.values``.

Whose file it is: the first session of a process that asks for a name gets it and replaces an earlier recording there.
Later sessions get ``NAME-2.ipynb`` and so on, as does a session while another process records under the name: that
process holds a lock on the folder of values. A file that is no recording is never overwritten.

What can go wrong:

- The process is killed: the notebook ends with the last entry written, complete and valid.
- A cell contains a key: :data:`~.redaction.known_secrets` are replaced in the text of each cell, and the cell's hash
  is computed again. Values are cleaned before they are hashed and stored.
- A sandbox sends what JSON or UTF-8 cannot represent: :func:`~.notebook_json.json_text` escapes it.
- The file cannot be written: the error goes to the recorder, which abandons the writer and logs it once.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import itertools
import json
import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from ..codec import values
from ..errors import RecordingError
from . import markdown
from .atomic_file import AtomicFile
from .model import METADATA_KEY, SCHEMA_VERSION, Entry, LMCall, SessionFacts, ValueRef
from .notebook_json import OPENING, CellJson, cell_hash, hash_of_parts, json_text, lines_of, output_to_json
from .redaction import known_secrets
from .schema import entry_to_json, to_json, tools_to_json
from .value_store import HASH, ValueStore, folder_of, ref_to, repr_of, summary_of, summary_of_call, value_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ..wire.comm import ToolSpec
    from .model import ValueLoader

_SEPARATOR = ",\n"
_ANSWER_CHARS = 20_000
# Values up to this size are looked up by their bytes, which is faster than describing them; at most so many are kept.
_SMALL_BYTES = 256
_MAX_SMALL = 4096

_lock = threading.Lock()
_claimed_names: set[Path] = set()  # by sessions of this process


# --- cells -----------------------------------------------------------------------------------------------


def _markdown_cell(cell_id: str, text: str, **own: object) -> CellJson:
    return {"cell_type": "markdown", "id": cell_id, "metadata": {METADATA_KEY: own}, "source": lines_of(text)}


def head_cell(facts: SessionFacts) -> CellJson:
    """Return the first cell. It repeats the facts of the notebook's metadata, in case the file's end is cut off."""
    metadata = {"part": "head", "schema": SCHEMA_VERSION, "facts": to_json(facts)}
    return _markdown_cell("head", markdown.session_summary(facts), **metadata)


def model_cell(calls: Sequence[LMCall], reasoning: str | None, number: int, inline: Mapping[str, str]) -> CellJson:
    """Return the cell with the model's reasoning and calls; ``inline`` are the small values that are new with it."""
    metadata = {"part": "model", "lm_calls": list(map(to_json, calls)), "values": dict(inline)}
    return _markdown_cell(f"model-{number}", markdown.lm_summary(calls, reasoning), **metadata)


def entry_cells(
    entry: Entry,
    tools: ValueRef | None,
    lm_calls: Sequence[LMCall],
    inline: Mapping[str, str],
    submitted: Mapping[str, str] | None,
) -> list[CellJson]:
    """Return the cells of one entry: its code cell, and the Markdown cell below it unless that is empty.

    Args:
        entry: The entry.
        tools: The reference to the list of its tools.
        lm_calls: The calls of language models that its tools made.
        inline: The small values that are new with it.
        submitted: Its answer as text, by field.
    """
    outputs = [output_to_json(output, entry.index + 1) for output in entry.outputs]
    entry_json, lm_calls_json = entry_to_json(entry, tools), list(map(to_json, lm_calls))
    own = {
        "part": "entry",
        "entry": entry_json,
        "lm_calls": lm_calls_json,
        "values": dict(inline),
        "sha256": hash_of_parts(entry.code, outputs, entry_json, lm_calls_json),
    }
    is_dspys_own = markdown.is_dspys_own(entry)
    code_cell: CellJson = {
        "cell_type": "code",
        "execution_count": entry.index + 1,
        "id": f"entry-{entry.index}",
        "outputs": outputs,
        "source": lines_of(entry.code),
        "metadata": {METADATA_KEY: own, **({"jupyter": {"source_hidden": True}} if is_dspys_own else {})},
    }
    below = markdown.cell_summary(entry, submitted, is_dspys_own=is_dspys_own)
    return [code_cell, _markdown_cell(f"below-{entry.index}", below, part="below")] if below else [code_cell]


def answer_of(entry: Entry, store: ValueLoader) -> dict[str, str] | None:
    """Return the arguments of SUBMIT as text, by field; None if the cell did not call it."""
    if entry.outcome.kind != "submitted" or entry.outcome.value is None:
        return None
    try:
        answer = value_of(store, entry.outcome.value)
    except RecordingError:
        return {"answer": entry.outcome.value.summary}
    shown = {name: value if isinstance(value, str) else repr_of(value) for name, value in answer.items()}
    return {name: text[:_ANSWER_CHARS] for name, text in shown.items()}


def document_metadata(facts: SessionFacts, *, complete: bool, callback: bool) -> str:
    """Return the metadata of the notebook, and the end of the document behind it."""
    own = {"schema": SCHEMA_VERSION, "facts": to_json(facts), "complete": complete, "callback": callback}
    metadata = {
        METADATA_KEY: own,
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return f' "metadata": {json_text(metadata)},\n "nbformat": 4,\n "nbformat_minor": 5\n}}\n'


# --- a session that runs -----------------------------------------------------------------------------------


class NotebookWriter:
    """The notebook of one session; see "Theory of operation" for the name that it gets.

    Raises:
        RecordingError: If a file of that name is no recording.
        OSError: If the file cannot be written.
    """

    def __init__(self, path: Path, facts: SessionFacts) -> None:
        self.path, self._lock_descriptor = _claim_name(path)
        self.entries = 0
        self.callback = False
        self.closed = False
        self._metadata = functools.cache(functools.partial(document_metadata, facts))
        self._store = ValueStore(folder_of(self.path))
        self._refs: dict[str | tuple[bytes, bool], ValueRef] = {}
        self._tools: tuple[Sequence[ToolSpec], ValueRef | None] = ((), None)
        self._model_cells = 0
        self._file = AtomicFile(self.path)
        self._unfinished = ""
        self._unwritten = [OPENING + json_text(head_cell(facts))]  # written together with the next cell
        self.flush()

    def store_value(self, buffers: Sequence[values.Buffer], key: str = "", *, is_call: bool = False) -> ValueRef:
        """Store a value and return the reference to it; the next cell that is written has a small one that is new.

        Args:
            buffers: Its encoding; may be empty for a value whose ``key`` was stored before.
            key: Its hash; empty if that is not known.
            is_call: Whether it is the arguments of a call, which have a summary of another form.
        """
        if not buffers:
            return self._refs.get(key) or ValueRef(key, 0, "a value that was not recorded")
        is_small = len(buffers) == 1 and len(buffers[0]) <= _SMALL_BYTES
        name = (bytes(buffers[0]), is_call) if is_small else key
        if name in self._refs:
            return self._refs[name]
        clean = [known_secrets.scrub_bytes(buffer) for buffer in buffers]
        changed = any(one is not other for one, other in zip(clean, buffers, strict=True))
        ref = ref_to(clean, "" if changed or is_small else key, summary_of_call if is_call else summary_of)
        self._store.keep(ref, clean)
        if not is_small or len(self._refs) < _MAX_SMALL:
            self._refs[name or ref.hash] = ref
        return ref

    def has(self, key: str) -> bool:
        """Return whether a large value was stored, by its hash."""
        return key in self._refs

    def add_model(self, calls: Sequence[LMCall], reasoning: str | None) -> None:
        """Add a cell for the model's calls between cells; the next :meth:`put` or :meth:`flush` writes it."""
        cell = model_cell(calls, reasoning, self._model_cells, self._store.take_new())
        self._unwritten.append(_redacted_text(cell))
        self._model_cells += 1

    def flush(self) -> None:
        """Write the cells that were added."""
        self._put([])

    def put(self, entry: Entry, lm_calls: Sequence[LMCall], *, over: bool) -> None:
        """Write an entry; the next write replaces one that is not ``over``."""
        if entry.tools is not self._tools[0] and entry.tools != self._tools[0]:
            self._tools = entry.tools, self._store_tools(entry.tools)
        inline, answer = self._store.take_new(keep=not over), answer_of(entry, self._store)
        texts = list(map(_redacted_text, entry_cells(entry, self._tools[1], lm_calls, inline, answer)))
        if over:
            self.entries += 1
            self._put(texts)
        else:
            self._put([], "".join([f"{text}{_SEPARATOR}" for text in texts]))

    def _store_tools(self, tools: Sequence[ToolSpec]) -> ValueRef | None:
        if not tools:
            return None
        # Without secrets: a parameter's default may be one.
        buffers = list(map(known_secrets.scrub_bytes, values.dumps(tools_to_json(tools), max_bytes=None)))
        ref = replace(ref_to(buffers), summary=", ".join(tool.name for tool in tools)[:120])
        self._store.keep(ref, buffers)
        return ref

    def close(self, *, complete: bool) -> None:
        """Write the end of the notebook and release its files; an unfinished entry stays in it."""
        if not self.closed:
            self._put([], self._unfinished, complete=complete)
            self.abandon()

    def abandon(self) -> None:
        """Release the files; the notebook stays as it is."""
        if not self.closed:
            self.closed = True
            self._file.close()
            with contextlib.suppress(OSError):
                self._store.folder.rmdir()  # succeeds only if it is empty
            os.close(self._lock_descriptor)

    def _put(self, settled: list[str], unfinished: str = "", *, complete: bool = False) -> None:
        self._unfinished = unfinished
        text = _SEPARATOR.join([*self._unwritten, *settled, ""])
        self._unwritten.clear()
        last = markdown.ending_summary(complete=complete, callback=self.callback, cells=self.entries)
        end = json_text(_markdown_cell("end", last, part="end"))
        metadata = self._metadata(complete=complete, callback=self.callback)
        self._file.put(text, f"{unfinished}{end}\n ],\n{metadata}")


def _redacted_text(cell: CellJson) -> str:
    """Return a cell as JSON, without secrets."""
    text = json_text(cell)
    if known_secrets.scrub(text) == text:
        return text
    # Replaced in the parsed JSON and not in the text, where an escape may surround a secret.
    redacted: CellJson = known_secrets.scrub_tree(json.loads(text))
    if redacted["cell_type"] == "code":
        redacted["metadata"][METADATA_KEY]["sha256"] = cell_hash(redacted)
    return json_text(redacted)


def _claim_name(path: Path) -> tuple[Path, int]:
    """Return the first name that is free, and a lock on it that ends with this process."""
    if not path.parent.is_dir():
        raise RecordingError(f"{path} cannot be written: there is no folder {path.parent}.")
    candidate = path
    with _lock:
        for number in itertools.count(2):
            if candidate not in _claimed_names:
                if _is_free(candidate):
                    descriptor = _locked(folder_of(candidate))
                    if descriptor is not None:
                        _claimed_names.add(candidate)
                        return candidate, descriptor
                elif candidate == path:
                    raise RecordingError(
                        f"{path} is there and is no recording, so it is left as it is: give record= another name."
                    )
            candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
    raise AssertionError("names do not end")


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
