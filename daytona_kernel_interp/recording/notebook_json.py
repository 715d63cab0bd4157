"""Convert texts and outputs to nbformat's JSON and back, and hash a code cell.

The notebook's text is written by orjson. The hash is that of the text which ``json`` writes with sorted keys and ASCII
only: every program that reads a recording must get the same bytes, whatever order and escapes the notebook has by then.
orjson writes the same text twenty times as fast, unless it contains other characters or very small numbers.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import orjson

from ..client.outputs import CellError, DisplayData, ExecuteResult, Output, StreamText
from .model import METADATA_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CellJson = dict[str, Any]

OPENING = '{\n "cells": [\n'  # a recording begins with these bytes
_MAX_DEPTH = 100
_JSON_MIME = re.compile(r"application/(.*\+)?json")
# In ASCII text, orjson differs from json only in these: DEL, and numbers below 0.0001, which json writes as 5.2e-05.
# No number is below a millionth, see schema.seconds().
_OTHER_FORMS = (b"\x7f", b"0.0000", b"e-6")
_sorted_json = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


# --- texts -----------------------------------------------------------------------------------------------


def lines_of(text: str) -> list[str]:
    """Return a text as nbformat stores it: a list of lines with their ends."""
    return text.splitlines(keepends=True)


def joined(text: object) -> str:
    """Return a text that nbformat stores as one string or as a list of lines."""
    if isinstance(text, str):
        return text
    return "".join(map(str, text)) if isinstance(text, Iterable) else str(text)


def json_text(value: object) -> str:
    """Return ``value`` as JSON; what JSON or UTF-8 cannot represent is escaped or becomes text."""
    try:
        return orjson.dumps(value).decode("utf-8")
    except TypeError:  # a sandbox may send lone surrogates, huge numbers and any depth
        return json.dumps(_plain(value, 0), separators=(",", ":"))


def _plain(value: object, depth: int) -> object:
    if depth > _MAX_DEPTH:
        return "…"
    if isinstance(value, dict):
        return {str(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth + 1) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return value if isinstance(value, float) and value - value == 0 else str(value)  # inf - inf is not 0


# --- outputs ---------------------------------------------------------------------------------------------


def output_to_json(output: Output, count: int) -> CellJson:
    """Return an output in nbformat's form; ``count`` is the number of its cell."""
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
    """Return an output from nbformat's form.

    Raises:
        TypeError, ValueError, LookupError, AttributeError: If it is not an output.
    """
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


def _mimes(data: Mapping[str, object]) -> dict[str, object]:
    return {mime: _mime(mime, value) for mime, value in data.items()}


def _mime(mime: str, value: object) -> object:
    if mime == "text/plain" and isinstance(value, str):  # the usual case, before the search
        return lines_of(value)
    if _JSON_MIME.fullmatch(mime):
        return value
    text = value if isinstance(value, str) else str(value)
    return lines_of(text) if mime.startswith("text/") or mime == "image/svg+xml" else text


def _joined_mimes(data: Mapping[str, object]) -> dict[str, object]:
    return {mime: value if _JSON_MIME.fullmatch(mime) else joined(value) for mime, value in data.items()}


# --- the hash of a code cell -------------------------------------------------------------------------------


def cell_hash(cell: CellJson) -> str:
    """Return the hash that shows whether a code cell was edited: of its code, outputs, entry and model calls."""
    own = cell["metadata"][METADATA_KEY]
    return hash_of_parts(joined(cell["source"]), cell["outputs"], own["entry"], own["lm_calls"])


def hash_of_parts(code: str, outputs: Sequence[CellJson], entry: object, lm_calls: object) -> str:
    """Return the hash of a code cell from its parts, as :func:`cell_hash` does."""
    parts = [code, *map(_hashed_output, outputs), entry, lm_calls]
    try:
        text = orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        text = None
    if text is None or not text.isascii() or any(form in text for form in _OTHER_FORMS):
        text = _sorted_json(parts).encode("ascii")
    return hashlib.sha256(text).hexdigest()


def _hashed_output(output: CellJson) -> list[object]:
    """Return the texts of an output, which no program that saves notebooks changes."""
    kind = output["output_type"]
    if kind == "stream":
        return [kind, output["name"], joined(output["text"])]
    if kind == "error":
        return [kind, output["ename"], output["evalue"], output["traceback"]]
    data = output["data"]
    return [kind, {mime: joined(value) for mime, value in data.items() if not _JSON_MIME.fullmatch(mime)}]
