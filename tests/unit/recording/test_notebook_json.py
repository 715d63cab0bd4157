"""Texts and outputs in nbformat's JSON, and the hash of a code cell."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.recording.model import METADATA_KEY
from daytona_kernel_interp.recording.notebook_json import (
    cell_hash,
    hash_of_parts,
    joined,
    json_text,
    lines_of,
    output_from_json,
    output_to_json,
)
from daytona_kernel_interp.recording.notebook_writer import entry_cells
from daytona_kernel_interp.recording.schema import entry_to_json
from tests.sessions import small
from tests.unit.transcripts import transcripts

if TYPE_CHECKING:
    from daytona_kernel_interp.recording.model import Transcript


@given(transcript=transcripts())
def test_the_hash_is_the_same_after_reading(transcript: Transcript) -> None:
    """A cell that was written, read and saved by a program with other escapes and order has the hash it was given."""
    for entry in transcript.entries:
        cell = entry_cells(entry, entry.outcome.value, transcript.lm_calls, {}, None)[0]
        for text in (json_text(cell), json.dumps(cell, sort_keys=True, indent=1)):
            read = json.loads(text)
            assert cell_hash(read) == cell["metadata"][METADATA_KEY]["sha256"]


@pytest.mark.parametrize("code", ["a", "\x7f", "é", "\ud800", "0.00001 e-6"])
@pytest.mark.parametrize("elapsed_s", [0.0, 1.0, 0.25, 0.0001, 0.000052, 0.00001, 0.0000099, 0.000001, 12345678.9])
def test_the_hash_is_that_of_sorted_ascii_json(code: str, elapsed_s: float) -> None:
    """The hash is that of the text which Python's json writes, for each character and number."""
    entry = entry_to_json(replace(small().entries[1], elapsed_s=elapsed_s), None)
    text = json.dumps([code, entry, []], sort_keys=True, separators=(",", ":"))
    assert hash_of_parts(code, [], entry, []) == hashlib.sha256(text.encode("ascii")).hexdigest()


@given(transcript=transcripts())
def test_outputs_are_read_back(transcript: Transcript) -> None:
    """An output is the same after it was written and read."""
    for entry in transcript.entries:
        for output in entry.outputs:
            assert output_from_json(json.loads(json_text(output_to_json(output, 7)))) == output


@given(text=st.text() | st.text("a\n\r\x0b\x1c\x85\u2028\ud800é"))
def test_the_lines_of_a_text(text: str) -> None:
    """The lines of a text, joined, are the text, also if UTF-8 cannot represent it."""
    assert joined(json.loads(json_text(lines_of(text)))) == text


def test_what_json_cannot_represent_becomes_text() -> None:
    """Huge and infinite numbers, other keys and any depth are written as JSON that other programs read."""
    deep: list[object] = []
    for _ in range(1000):
        deep = [deep]
    text = json_text({"huge": 10**30, "infinite": float("inf"), 3: "\ud800", "deep": deep})
    read = json.loads(text, parse_constant=pytest.fail)
    assert (read["huge"], read["infinite"], read["3"]) == (10**30, "inf", "\ud800")
    assert '"…"' in text or "\\u2026" in text
