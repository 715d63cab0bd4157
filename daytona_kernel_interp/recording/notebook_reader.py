"""A transcript as a notebook, and back.

Any program that reads notebooks can show one. What a replay needs beside that is in the metadata of notebook and cells
under :data:`~.lm_summary.METADATA_KEY`, as ``schemas/v1.json`` says.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RecordingError
from . import schema as fields
from .atomic_file import read_file
from .model import METADATA_KEY, SCHEMA_VERSION, Entry, LMCall, Outcome, SessionFacts, Transcript, ValueRef
from .notebook_json import json_text
from .notebook_writer import (
    OPENING,
    SEPARATOR,
    CellJson,
    answer_of,
    cell_hash,
    document_ending,
    entry_texts,
    head_cell,
    joined,
    model_cell,
    output_from_json,
    refs_in,
    refs_of,
    store_tools,
)
from .value_store import ValueStore, folder_of, value_of

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

    from ..client.outputs import Output
    from ..wire.comm import ToolSpec


# --- whole notebooks -----------------------------------------------------------------------------------------


def write(transcript: Transcript, path: str | os.PathLike[str]) -> None:
    """Write a transcript as a notebook, and its large values beside it.

    Raises:
        RecordingError: If a value is missing in the transcript's store.
        OSError: If it cannot be written.
    """
    notebook = Path(path)
    store = ValueStore(folder_of(notebook))
    texts = list(_texts(transcript, store))
    before, after = document_ending(transcript.facts, complete=transcript.complete, callback=transcript.callback)
    tail = f"{before}{len(transcript.entries):,}{after}"
    unfinished = notebook.with_name(f".{notebook.name}.part")
    unfinished.write_text(OPENING + SEPARATOR.join([*texts, tail]), encoding="utf-8")
    unfinished.replace(notebook)


def _texts(transcript: Transcript, store: ValueStore) -> Iterable[str]:
    yield json_text(head_cell(transcript.facts))
    waiting = [call for call in transcript.lm_calls if call.entry is None]
    number = 0
    for entry in transcript.entries:
        before = [call for call in waiting if call.began <= entry.began]
        waiting = waiting[len(before) :]
        if before or entry.reasoning:
            moved = _moved(transcript.store, store, refs_of(before))
            yield json_text(model_cell(before, entry.reasoning, number, moved))
            number += 1
        made = [call for call in transcript.lm_calls if call.entry == entry.index]
        tools, inline = store_tools(entry.tools, store)
        inline |= _moved(transcript.store, store, [*refs_in(entry), *refs_of(made)])
        yield from entry_texts(entry, tools, made, inline, answer_of(entry, transcript.store))
    if waiting:
        yield json_text(model_cell(waiting, None, number, _moved(transcript.store, store, refs_of(waiting))))


def _moved(source: Any, target: ValueStore, refs: Iterable[ValueRef]) -> dict[str, str]:
    inline = {}
    for ref in refs:
        if ref.hash not in target:
            text = target.keep(ref, source.load(ref))
            if text is not None:
                inline[ref.hash] = text
    return inline


# --- reading -------------------------------------------------------------------------------------------------

_FOREIGN = (
    "{path} is a notebook, but no recording: nothing in it was recorded by KernelInterpreter(record=...). "
    "Its code cells can be run as plain cells: replay(path, plain=True), or daytona-kernel replay --plain."
)


def read(path: str | os.PathLike[str]) -> Transcript:
    """Return the transcript in a notebook. Nothing of it is run, and no value of it is loaded.

    What cannot be read is named in :attr:`Transcript.problems`; the rest is there.

    Raises:
        RecordingError: If the file cannot be read, is no notebook, or none that was recorded, or of another version.
    """
    notebook = Path(path)
    document, problems = _document(notebook)
    _check_version(notebook, document)
    return _NotebookReader(notebook, document, problems).transcript()


def _document(path: Path) -> tuple[dict[str, Any], list[str]]:
    try:
        text = read_file(path).decode("utf-8")
    except OSError as error:
        raise RecordingError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise RecordingError(f"{path} is no notebook: it is not text in UTF-8.") from error
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        cells = _cells_before_cut(text)
        if not cells:
            if text.lstrip().startswith(OPENING.rstrip()):
                raise RecordingError(f"{path} is cut off in its first cell: nothing of it can be read.") from None
            raise RecordingError(f"{path} is no notebook: it is not JSON. A recording ends in .ipynb.") from None
        metadata = _own_metadata(cells[0])
        document = {"cells": cells, "nbformat": 4, "metadata": {METADATA_KEY: {**metadata, "complete": False}}}
        whole = "its first cell" if len(cells) == 1 else f"{len(cells)} cells"
        return document, [f"The file is cut off after {whole}; what comes before is here."]
    if not isinstance(document, dict) or not isinstance(document.get("cells"), list):
        raise RecordingError(f"{path} is no notebook: its JSON has no list of cells.")
    return document, []


def _cells_before_cut(text: str) -> list[CellJson]:
    """Return the whole cells at the beginning of a document that is cut off or spoilt further on."""
    found = re.match(r'\s*\{\s*"cells"\s*:\s*\[', text)
    cells: list[CellJson] = []
    decoder, at = json.JSONDecoder(), found.end() if found else len(text)
    gap = re.compile(r"[\s,]*")
    while at < len(text):
        at = gap.match(text, at).end()  # type: ignore[union-attr]  # it matches nothing, too
        try:
            cell, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            break
        if not isinstance(cell, dict):
            break
        cells.append(cell)
    return cells


def _own_metadata(holder: Any) -> dict[str, Any]:
    metadata = holder.get("metadata") if isinstance(holder, dict) else None
    own_metadata = metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None
    return own_metadata if isinstance(own_metadata, dict) else {}


def _check_version(path: Path, document: dict[str, Any]) -> None:
    own_metadata = _own_metadata(document)
    if not own_metadata and not any(_own_metadata(cell) for cell in document["cells"]):
        raise RecordingError(_FOREIGN.format(path=path))
    version = own_metadata.get("schema", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise RecordingError(
            f"{path} is a recording of schema version {version!r}; this version of daytona-kernel-interp reads "
            f"version {SCHEMA_VERSION}. Use the version that recorded it, or a newer one."
        )


class _NotebookReader:
    """Puts a document's cells together, and notes what of them cannot be read."""

    def __init__(self, path: Path, document: dict[str, Any], problems: list[str]) -> None:
        self._document, self._ours, self._problems = document, _own_metadata(document), problems
        self._store = ValueStore(folder_of(path))
        self._tools: dict[str, tuple[ToolSpec, ...]] = {}
        self._entries: list[Entry] = []
        self._shift = 0  # from the number that a step has to the one that it was recorded under
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
            complete=self._ours.get("complete") is True,
            callback=self._ours.get("callback") is True,
            problems=tuple(self._problems),
        )

    def _facts(self) -> SessionFacts:
        for holder in (self._document, *self._document["cells"][:1]):
            try:
                return fields.facts_from_json(_own_metadata(holder)["facts"])
            except (TypeError, ValueError, LookupError, AttributeError):
                continue
        self._problems.append("The session's facts (versions, options, seeds) are missing or cannot be read.")
        return SessionFacts(session_id="", began=datetime.fromtimestamp(0, timezone.utc), sandbox="")

    def _take(self, cell: Any) -> None:
        own_metadata = _own_metadata(cell)
        for data in own_metadata.get("lm_calls") or ():
            try:
                self._lm_calls.append(fields.lm_call_from_json(data))
            except (TypeError, ValueError, LookupError, AttributeError) as error:
                self._problems.append(f"A call of a language model cannot be read: {_reason_of(error)}.")
        if not isinstance(cell, dict) or cell.get("cell_type") != "code":
            return
        number = len(self._entries)
        if not own_metadata:
            self._problems.append(
                f"A code cell before step {number} was added since the recording was made; it is left out."
            )
            return
        self._entries.append(self._entry(cell, own_metadata, number))

    def _entry(self, cell: CellJson, own_metadata: dict[str, Any], number: int) -> Entry:
        code = joined(cell.get("source", ""))
        outputs: list[Output] = []
        for data in cell.get("outputs", ()):
            try:
                outputs.append(output_from_json(data))
            except (TypeError, ValueError, LookupError, AttributeError) as error:
                self._problems.append(f"An output of step {number} cannot be read: {_reason_of(error)}.")
        try:
            entry = fields.entry_from_json(
                own_metadata["entry"], code, outputs, self._tools_of(own_metadata["entry"], number)
            )
            if cell_hash(cell) != own_metadata.get("sha256"):
                self._problems.append(f"Step {number} was edited since it was recorded.")
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            self._problems.append(
                f"The record of step {number} cannot be read ({_reason_of(error)}); its code and outputs are."
            )
            entry = Entry(
                number + self._shift,
                "",
                code,
                self._facts_began(),
                Outcome("unfinished", "unknown"),
                outputs=tuple(outputs),
            )
        if entry.index - number != self._shift:
            self._shift = entry.index - number
            self._problems.append(f"Step {number} was recorded as step {entry.index}: cells are missing or were moved.")
        return replace(entry, index=number)

    def _facts_began(self) -> datetime:
        return self._entries[-1].began if self._entries else datetime.fromtimestamp(0, timezone.utc)

    def _tools_of(self, data: Mapping[str, Any], number: int) -> tuple[ToolSpec, ...]:
        ref = fields.tools_ref(data)
        if ref is None:
            return ()
        if ref.hash not in self._tools:
            try:
                self._tools[ref.hash] = fields.tools_from_json(value_of(self._store, ref))
            except (RecordingError, TypeError, ValueError, LookupError, AttributeError) as error:
                self._problems.append(f"The tools of step {number} cannot be read: {_reason_of(error)}")
                self._tools[ref.hash] = ()
        return self._tools[ref.hash]

    def _check_side_files(self) -> None:
        refs = [ref for entry in self._entries for ref in refs_in(entry)] + refs_of(self._lm_calls)
        named = {ref.hash: ref for ref in refs}
        missing = {key: ref for key, ref in named.items() if not self._store.has(ref)}
        if missing:
            some = "; ".join(f"{ref.hash[:12]} ({ref.summary[:60]})" for ref in list(missing.values())[:3])
            many = (
                f"{len(missing):,} values are missing: they lie" if len(missing) > 1 else "A value is missing: it lies"
            )
            self._problems.append(
                f"{many} in {self._store.folder.name}/ beside the notebook, or {'were' if len(missing) > 1 else 'was'} "
                f"cut out of it: {some}."
            )


def _reason_of(error: Exception) -> str:
    if isinstance(error, AttributeError):  # what should be an object is none
        return "it has another form than was recorded"
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)
