"""Read a notebook back into a transcript, with every problem that is found in it.

The file may be cut off, saved by another program or edited by hand: what can be read is read, and a sentence in
:attr:`~.model.Transcript.problems` names each part that cannot. A notebook that is no recording is read as steps to
run: its code cells with their saved outputs.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from ..client.outputs import CellError
from ..errors import RecordingError
from . import schema
from .atomic_file import read_file
from .model import METADATA_KEY, SCHEMA_VERSION, Entry, LMCall, Outcome, SessionFacts, Transcript, refs_in, refs_of
from .notebook_json import OPENING, CellJson, cell_hash, joined, output_from_json
from .value_store import MemoryStore, ValueStore, folder_of, value_of

if TYPE_CHECKING:
    from ..client.outputs import Output
    from ..wire.comm import ToolSpec
    from .model import ValueRef

Document = dict[str, Any]

# What JSON of another form raises while it is read: ValueError includes pydantic's ValidationError.
_UNREADABLE = (TypeError, ValueError, LookupError, AttributeError)
_EPOCH = datetime.fromtimestamp(0, timezone.utc)

_FOREIGN = (
    "{path} is a notebook, but no recording: KernelInterpreter(record=...) did not write it. "
    "Its code cells can be run as plain cells: replay(path, plain=True), or daytona-kernel replay --plain."
)


class HasTranscript(Protocol):
    """An object with a transcript: a ``Recording`` or the report of a replay."""

    @property
    def transcript(self) -> Transcript:
        """The recorded session."""


RecordingSource: TypeAlias = "str | os.PathLike[str] | Transcript | HasTranscript"


def open_run(run: RecordingSource) -> tuple[Transcript, str]:
    """Return the transcript of a recording, and its name for messages.

    Raises:
        RecordingError: If the file cannot be read.
        TypeError: If ``run`` is neither a path nor a recording.
    """
    if isinstance(run, Transcript):
        return run, "the recording"
    if isinstance(found := getattr(run, "transcript", None), Transcript):
        return found, "the recording"
    if isinstance(run, (str, os.PathLike)):
        return read(run), Path(run).name
    raise TypeError(f"a recording is a path or a Recording, not {type(run).__name__}")


def read(path: str | os.PathLike[str]) -> Transcript:
    """Return the transcript in a notebook, without running its code or loading its values.

    :attr:`Transcript.problems` names the parts that cannot be read.

    Raises:
        RecordingError: If the file cannot be read, is no recorded notebook, or has another schema version.
    """
    notebook = Path(path)
    document, problems = _document(notebook)
    _check_version(notebook, document)
    return _NotebookReader(notebook, document, problems).transcript()


def read_plain_notebook(path: str | os.PathLike[str]) -> Transcript:
    """Return the code cells of any Python notebook as steps, without running them.

    Raises:
        RecordingError: If the file cannot be read, or the notebook is in another language.
    """
    import nbformat

    try:
        document: Any = nbformat.read(Path(path), as_version=4)
    except OSError as error:
        raise RecordingError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # nbformat raises errors of many kinds for a file that is no notebook
        raise RecordingError(f"{path} is no notebook: {type(error).__name__}.") from error
    language = document.metadata.get("kernelspec", {}).get("language", "python")
    if language != "python":
        raise RecordingError(f"{path} is a notebook in {language}; only Python notebooks can be run.")
    entries: list[Entry] = []
    problems: list[str] = []
    for cell in document.cells:
        code = joined(cell.source)
        if cell.cell_type == "code" and code.strip():
            outputs = tuple(map(without_traceback, _outputs(cell, len(entries), problems)))
            entries.append(Entry(len(entries), "", code, _EPOCH, Outcome("unfinished", "unknown"), outputs=outputs))
    return Transcript(SessionFacts("", _EPOCH, ""), entries, MemoryStore(), complete=False, problems=problems)


def without_traceback(output: Output) -> Output:
    """Return an output; an error without its traceback, which each front end formats in its own way."""
    return CellError(output.name, output.message, "") if isinstance(output, CellError) else output


def _outputs(cell: CellJson, number: int, problems: list[str]) -> list[Output]:
    """Return the outputs of a cell that can be read."""
    outputs: list[Output] = []
    for data in cell.get("outputs", ()):
        try:
            outputs.append(output_from_json(data))
        except _UNREADABLE as error:
            problems.append(f"An output of step {number} cannot be read: {schema.reason_of(error)}.")
    return outputs


def _document(path: Path) -> tuple[Document, list[str]]:
    try:
        text = read_file(path).decode("utf-8")
    except OSError as error:
        raise RecordingError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise RecordingError(f"{path} is no notebook: it is not UTF-8 text.") from error
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        cells = _cells_before_cut(text)
        if not cells:
            if text.lstrip().startswith(OPENING.rstrip()):
                raise RecordingError(f"{path} is cut off in its first cell; no part of it can be read.") from None
            raise RecordingError(f"{path} is no notebook: it is not JSON. A recording ends in .ipynb.") from None
        metadata = _own_metadata(cells[0])
        document = {"cells": cells, "nbformat": 4, "metadata": {METADATA_KEY: {**metadata, "complete": False}}}
        whole = "its first cell" if len(cells) == 1 else f"{len(cells)} cells"
        return document, [f"The file is cut off after {whole}; only these were read."]
    if not isinstance(document, dict) or not isinstance(document.get("cells"), list):
        raise RecordingError(f"{path} is no notebook: its JSON has no list of cells.")
    return document, []


def _cells_before_cut(text: str) -> list[CellJson]:
    """Return the complete cells at the beginning of a document that is cut off or damaged."""
    found = re.match(r'\s*\{\s*"cells"\s*:\s*\[', text)
    cells: list[CellJson] = []
    decoder, at = json.JSONDecoder(), found.end() if found else len(text)
    gap = re.compile(r"[\s,]*")
    while at < len(text):
        at = gap.match(text, at).end()  # type: ignore[union-attr]  # it also matches the empty string
        try:
            cell, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            break
        if not isinstance(cell, dict):
            break
        cells.append(cell)
    return cells


def _own_metadata(holder: object) -> Document:
    metadata = holder.get("metadata") if isinstance(holder, dict) else None
    own = metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None
    return own if isinstance(own, dict) else {}


def _check_version(path: Path, document: Document) -> None:
    own = _own_metadata(document)
    if not own and not any(_own_metadata(cell) for cell in document["cells"]):
        raise RecordingError(_FOREIGN.format(path=path))
    version = own.get("schema", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise RecordingError(
            f"{path} is a recording of schema version {version!r}; this version of daytona-kernel-interp reads "
            f"version {SCHEMA_VERSION}. Use the version that recorded it, or a newer one."
        )


class _NotebookReader:
    """The reader of one document: it collects entries, model calls and problems cell by cell."""

    def __init__(self, path: Path, document: Document, problems: list[str]) -> None:
        self._document, self._own, self._problems = document, _own_metadata(document), problems
        self._store = ValueStore(folder_of(path))
        self._tools: dict[str, tuple[ToolSpec, ...]] = {}
        self._entries: list[Entry] = []
        self._shift = 0  # the recorded index of a step minus its number in the file
        self._lm_calls: list[LMCall] = []

    def transcript(self) -> Transcript:
        for cell in self._document["cells"]:
            inline = _own_metadata(cell).get("values")
            if isinstance(inline, dict):
                self._store.add_inline({str(key): text for key, text in inline.items() if isinstance(text, str)})
        for cell in self._document["cells"]:
            self._take(cell)
        self._check_side_files()
        return Transcript(
            facts=self._facts(),
            entries=tuple(self._entries),
            store=self._store,
            lm_calls=tuple(sorted(self._lm_calls, key=lambda call: call.began)),
            complete=self._own.get("complete") is True,
            callback=self._own.get("callback") is True,
            problems=tuple(self._problems),
        )

    def _facts(self) -> SessionFacts:
        for holder in (self._document, *self._document["cells"][:1]):
            try:
                return schema.from_json(SessionFacts, _own_metadata(holder)["facts"])
            except _UNREADABLE:
                continue
        self._problems.append("The session's facts (versions, options, seeds) are missing or cannot be read.")
        return SessionFacts(session_id="", began=_EPOCH, sandbox="")

    def _take(self, cell: object) -> None:
        own = _own_metadata(cell)
        lm_calls = own.get("lm_calls")
        for data in lm_calls if isinstance(lm_calls, list) else ():
            try:
                self._lm_calls.append(schema.from_json(LMCall, data))
            except _UNREADABLE as error:
                self._problems.append(f"A call of a language model cannot be read: {schema.reason_of(error)}.")
        if not isinstance(cell, dict) or cell.get("cell_type") != "code":
            return
        number = len(self._entries)
        if not own:
            self._problems.append(f"A code cell before step {number} was added after the recording; it is left out.")
            return
        self._entries.append(self._entry(cell, own, number))

    def _entry(self, cell: CellJson, own: Document, number: int) -> Entry:
        code = joined(cell.get("source", ""))
        outputs = tuple(_outputs(cell, number, self._problems))
        try:
            entry = schema.entry_from_json(own["entry"], code, outputs, lambda ref: self._tools_of(ref, number))
            if cell_hash(cell) != own.get("sha256"):
                self._problems.append(f"Step {number} was edited after it was recorded.")
        except _UNREADABLE as error:
            self._problems.append(
                f"The record of step {number} cannot be read ({schema.reason_of(error)}); its code and outputs can."
            )
            began = self._entries[-1].began if self._entries else _EPOCH
            outcome = Outcome("unfinished", "unknown")
            entry = Entry(number + self._shift, "", code, began, outcome, outputs=outputs)
        if entry.index - number != self._shift:
            self._shift = entry.index - number
            self._problems.append(f"Step {number} was recorded as step {entry.index}: cells are missing or were moved.")
        return replace(entry, index=number)

    def _tools_of(self, ref: ValueRef, number: int) -> tuple[ToolSpec, ...]:
        if ref.hash not in self._tools:
            try:
                self._tools[ref.hash] = tuple(map(schema.tool_from_json, value_of(self._store, ref)))
            except (RecordingError, *_UNREADABLE) as error:
                self._problems.append(f"The tools of step {number} cannot be read: {schema.reason_of(error)}")
                self._tools[ref.hash] = ()
        return self._tools[ref.hash]

    def _check_side_files(self) -> None:
        refs = [ref for entry in self._entries for ref in refs_in(entry)] + refs_of(self._lm_calls)
        named = {ref.hash: ref for ref in refs}
        missing = {key: ref for key, ref in named.items() if not self._store.has(ref)}
        if missing:
            some = "; ".join(f"{ref.hash[:12]} ({ref.summary[:60]})" for ref in list(missing.values())[:3])
            what = f"{len(missing):,} values are" if len(missing) > 1 else "A value is"
            folder = self._store.folder.name
            self._problems.append(f"{what} missing in {folder}/ beside the notebook and in its cells: {some}.")
