"""The cells of a recording's notebook: made from entries, and what of them a reader of the file needs.

In order: one of Markdown with the session's facts; for each entry what the model thought, the code with its outputs,
and below it the calls and the answer; one that ends it.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..client.outputs import CellError, DisplayData, ExecuteResult, Output, StreamText
from ..codec import values
from ..errors import RecordingError
from ..page.shown_values import repr_of
from . import markdown as prose
from . import schema as fields
from .model import METADATA_KEY, SCHEMA_VERSION, Entry, LMCall, SessionFacts, ValueRef
from .notebook_json import EntryEncoder, call_text, ending_text, json_text, lines_of, lines_text, quoted, sorted_json
from .value_store import ValueStore, ref_to, value_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ..wire.comm import ToolSpec

CellJson = dict[str, Any]

SEPARATOR = ",\n"
OPENING = '{\n "cells": [\n'
_ANSWER_CHARS = 20_000
_PLAIN = {"text/plain"}
_JSON_MIME = re.compile(r"application/(.*\+)?json")


# --- outputs ---------------------------------------------------------------------------------------------


def output_to_json(output: Output, count: int) -> dict[str, Any]:
    """Return an output in nbformat's form; ``count`` is its cell's number."""
    match output:
        case StreamText(name, text):
            return {"output_type": "stream", "name": name, "text": lines_of(text)}
        case DisplayData(data, metadata):
            return {"output_type": "display_data", "data": _mimes(data), "metadata": dict(metadata)}
        case ExecuteResult(data, metadata):
            shown = {"data": _mimes(data), "metadata": dict(metadata)}
            return {"output_type": "execute_result", "execution_count": count, **shown}
        case CellError(name, message, traceback):
            lines = traceback.split("\n")
            return {"output_type": "error", "ename": name, "evalue": message, "traceback": lines}


def output_from_json(data: Mapping[str, Any]) -> Output:
    """Return an output from nbformat's form."""
    match data["output_type"]:
        case "stream":
            return StreamText(str(data["name"]), joined(data["text"]))
        case "display_data":
            return DisplayData(_joined_mimes(data["data"]), dict(data["metadata"]))
        case "execute_result":
            return ExecuteResult(_joined_mimes(data["data"]), dict(data["metadata"]))
        case "error":
            return CellError(str(data["ename"]), str(data["evalue"]), "\n".join(map(str, data["traceback"])))
        case other:
            raise ValueError(f"there is no output of type {other!r}")


def joined(text: Any) -> str:
    """Return a text that nbformat has as one, or as its lines."""
    return text if isinstance(text, str) else "".join(map(str, text))


def _mimes(data: Mapping[str, Any]) -> dict[str, Any]:
    return {mime: _mime(mime, value) for mime, value in data.items()}


def _mime(mime: str, value: Any) -> Any:
    if mime == "text/plain" and isinstance(value, str):
        return lines_of(value)
    if _JSON_MIME.fullmatch(mime):
        return value
    text = value if isinstance(value, str) else str(value)
    return lines_of(text) if mime.startswith("text/") or mime == "image/svg+xml" else text


def _joined_mimes(data: Mapping[str, Any]) -> dict[str, Any]:
    return {mime: value if _JSON_MIME.fullmatch(mime) else joined(value) for mime, value in data.items()}


# --- cells -----------------------------------------------------------------------------------------------


def _markdown(cell_id: str, text: str, **own_metadata: Any) -> CellJson:
    return {"cell_type": "markdown", "id": cell_id, "metadata": {METADATA_KEY: own_metadata}, "source": lines_of(text)}


def head_cell(facts: SessionFacts) -> CellJson:
    """Return the cell that a recording begins with. It has the facts too, in case the notebook's end is cut off."""
    metadata = {"part": "head", "schema": SCHEMA_VERSION, "facts": fields.facts_to_json(facts)}
    return _markdown("head", prose.session_summary(facts), **metadata)


def end_cell(*, complete: bool, callback: bool, cells: int) -> CellJson:
    """Return the cell that a recording ends with."""
    return _markdown("end", prose.ending_summary(complete=complete, callback=callback, cells=cells), part="end")


def model_cell(calls: Sequence[LMCall], reasoning: str | None, number: int, inline: Mapping[str, str]) -> CellJson:
    """Return the cell that shows what the model thought; ``inline`` are the small values that are new with it."""
    metadata = {"part": "model", "lm_calls": [fields.lm_call_to_json(call) for call in calls], "values": dict(inline)}
    return _markdown(f"model-{number}", prose.lm_summary(calls, reasoning), **metadata)


def entry_texts(
    entry: Entry,
    tools: ValueRef | None,
    lm_calls: Sequence[LMCall],
    inline: Mapping[str, str],
    submitted: Mapping[str, str] | None,
    parts: EntryEncoder | None = None,
) -> list[str]:
    """Return the cells of one entry as JSON: its code, and what stands below it if anything does.

    The caller of ``execute`` waits for this, so nothing is encoded twice: what the seal covers stands in the cell in
    the form in which it was hashed.

    Args:
        entry: The entry.
        tools: What names the list of its tools.
        lm_calls: Those that its code made.
        inline: The small values that are new with it.
        submitted: Its answer, for a reader.
        parts: Those of the entries before, to make once what is the same in both.
    """
    parts, count = parts or EntryEncoder(), entry.index + 1
    shown, hashed = [], []
    for output in entry.outputs:
        text, of_text = _output_texts(output, count)
        shown.append(text)
        hashed.append(of_text)
    code, metadata = parts.code(entry.code), _entry_json(entry, tools, parts)
    lm_calls_json = sorted_json([fields.lm_call_to_json(call) for call in lm_calls]) if lm_calls else "[]"
    sealed = _hash_of_parts(code.sorted, hashed, metadata, lm_calls_json)
    is_dspys_own = "__dspy_" in metadata and prose.is_dspys_own(entry)
    folded = ',"jupyter":{"source_hidden":true}' if is_dspys_own else ""
    text = (
        f'{{"cell_type":"code","execution_count":{count},"id":"entry-{entry.index}",'
        f'"outputs":[{",".join(shown)}],'
        f'"source":{code.lines},"metadata":{{"{METADATA_KEY}":{{"part":"entry","entry":{metadata},"lm_calls":{lm_calls_json},'
        f'"values":{_values_text(inline)},"sha256":"{sealed}"}}{folded}}}}}'
    )
    below = prose.cell_summary(entry, submitted, is_dspys_own=is_dspys_own)
    if not below:
        return [text]
    own_metadata = f'{{"{METADATA_KEY}":{{"part":"below"}}}}'
    head = f'"cell_type":"markdown","id":"below-{entry.index}","metadata":{own_metadata}'
    return [text, f'{{{head},"source":{lines_text(below)}}}']


def _entry_json(entry: Entry, tools: ValueRef | None, parts: EntryEncoder) -> str:
    """Return an entry as sorted JSON, without its code and outputs, which stand in the cell itself.

    ``tools`` names the list of its tools, which seldom changes from cell to cell.
    """
    calls = ",".join(map(call_text, entry.calls))
    offer = parts.offer(entry.output_fields, entry.reasoning, tools, entry.usage)[1:-1]
    variables = parts.variables(entry.variables)
    before = f'{{"began":"{entry.began.isoformat()}","calls":[{calls}],{ending_text(entry)},{offer}'
    return f'{before}{"," if offer else ""}"variables":{variables}}}'


def _values_text(inline: Mapping[str, str]) -> str:
    return f"{{{','.join([f'{quoted(key)}:{quoted(inline[key])}' for key in inline])}}}"


def _output_texts(output: Output, count: int) -> tuple[str, str]:
    """Return an output as JSON in nbformat's form, and what is hashed of it."""
    if isinstance(output, StreamText):  # most are, so by hand
        name, lines = quoted(output.name), lines_text(output.text)
        return f'{{"output_type":"stream","name":{name},"text":{lines}}}', f'["stream",{name},{quoted(output.text)}]'
    if isinstance(output, ExecuteResult) and not output.metadata and output.data.keys() == _PLAIN:
        text = output.data["text/plain"]
        if isinstance(text, str):
            before = f'{{"output_type":"execute_result","execution_count":{count},"metadata":{{}},"data":'
            shown = f'{before}{{"text/plain":{lines_text(text)}}}}}'
            return shown, f'["execute_result",{{"text/plain":{quoted(text)}}}]'
    cell = output_to_json(output, count)
    return json_text(cell), sorted_json(_hashed_output(cell))


def cell_hash(cell: CellJson) -> str:
    """Return the hash by which a cell that was edited by hand is known."""
    own_metadata, code = cell["metadata"][METADATA_KEY], sorted_json(joined(cell["source"]))
    outputs = [sorted_json(_hashed_output(output)) for output in cell["outputs"]]
    return _hash_of_parts(code, outputs, sorted_json(own_metadata["entry"]), sorted_json(own_metadata["lm_calls"]))


def _hash_of_parts(code: str, outputs: Sequence[str], metadata: str, lm_calls: str) -> str:
    """Return the hash of one JSON list: the code, what is hashed of each output, and the rest."""
    return hashlib.sha256(f"[{','.join([code, *outputs, metadata, lm_calls])}]".encode("ascii")).hexdigest()


def _hashed_output(output: Mapping[str, Any]) -> Any:
    """Return of an output what no program that saves notebooks changes: its texts."""
    kind = output["output_type"]
    if kind == "stream":
        return [kind, output["name"], joined(output["text"])]
    if kind == "error":
        return [kind, output["ename"], output["evalue"], output["traceback"]]
    data = output["data"]
    return [kind, {mime: joined(value) for mime, value in data.items() if not _JSON_MIME.fullmatch(mime)}]


def answer_of(entry: Entry, store: Any) -> dict[str, str] | None:
    """Return what SUBMIT took, for a reader; None if it was not called."""
    if entry.outcome.kind != "submitted" or entry.outcome.value is None:
        return None
    try:
        answer = value_of(store, entry.outcome.value)
    except RecordingError:
        return {"answer": entry.outcome.value.summary}
    shown = {name: value if isinstance(value, str) else repr_of(value) for name, value in answer.items()}
    return {name: text[:_ANSWER_CHARS] for name, text in shown.items()}


def notebook_metadata(facts: SessionFacts, *, complete: bool, callback: bool) -> str:
    """Return the notebook's metadata as JSON."""
    own_metadata = {
        "schema": SCHEMA_VERSION,
        "facts": fields.facts_to_json(facts),
        "complete": complete,
        "callback": callback,
    }
    metadata = {
        METADATA_KEY: own_metadata,
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return json.dumps(metadata)


def document_ending(facts: SessionFacts, *, complete: bool, callback: bool) -> tuple[str, str]:
    """Return what closes the document, before and after the number of its cells: the last one, and the metadata."""
    number = 7**20
    before, _, after = json_text(end_cell(complete=complete, callback=callback, cells=number)).partition(f"{number:,}")
    metadata = notebook_metadata(facts, complete=complete, callback=callback)
    return before, f'{after}\n ],\n "metadata": {metadata},\n "nbformat": 4,\n "nbformat_minor": 5\n}}\n'


def store_tools(
    tools: Sequence[ToolSpec], store: ValueStore, clean: Callable[[values.Buffer], values.Buffer] = lambda data: data
) -> tuple[ValueRef | None, dict[str, str]]:
    """Keep the list of a cell's tools, and return what names it and, if it is new and small, its text.

    ``clean`` takes out what must not be kept: a parameter's default may be a key.
    """
    if not tools:
        return None, {}
    buffers = list(map(clean, values.dumps(fields.tools_to_json(tools), max_bytes=None)))
    ref = replace(ref_to(buffers), summary=", ".join(tool.name for tool in tools)[:120])
    text = store.keep(ref, buffers)
    return ref, {} if text is None else {ref.hash: text}


def refs_of(calls: Iterable[LMCall]) -> list[ValueRef]:
    """Return the values that calls of language models name."""
    return [ref for call in calls for ref in (call.request, call.outputs) if ref is not None]


def refs_in(entry: Entry) -> list[ValueRef]:
    """Return the values that an entry names, its tools apart."""
    named = [*entry.variables.values(), entry.outcome.value]
    for call in entry.calls:
        named += [call.arguments, call.result]
    return [ref for ref in named if ref is not None]
