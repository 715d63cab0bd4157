"""Parts of an entry's cell: the same JSON as if an encoder made it in one piece, and made once."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.codec import values
from daytona_kernel_interp.recording import markdown as prose
from daytona_kernel_interp.recording import notebook_writer as cells
from daytona_kernel_interp.recording import schema as fields
from daytona_kernel_interp.recording.notebook_json import EntryEncoder, json_text, lines_text, sorted_json
from daytona_kernel_interp.recording.value_store import summary_of
from tests.unit.transcripts import transcripts

if TYPE_CHECKING:
    from daytona_kernel_interp.recording.model import Entry, RecordedCall, Transcript, ValueRef


def told_call(call: RecordedCall) -> dict[str, Any]:
    """Return a call's JSON as the schema has it."""
    given = {
        "result": call.result and fields.ref_to_json(call.result),
        "error": call.error and [call.error[0], list(call.error[1]), call.error[2]],
        "usage": call.usage and fields.usage_to_json(call.usage),
    }
    return {
        "id": call.id,
        "name": call.name,
        "kind": call.kind,
        "began_s": fields.seconds(call.began_s),
        "elapsed_s": fields.seconds(call.elapsed_s),
        "arguments": fields.ref_to_json(call.arguments),
        **{name: value for name, value in given.items() if value is not None},
    }


def whole(entry: Entry, tools: ValueRef | None) -> dict[str, Any]:
    """Return an entry's JSON as the schema has it, in one piece."""
    outcome = entry.outcome
    ended = {"kind": outcome.kind, "ending": outcome.ending}
    given = {"value": outcome.value and fields.ref_to_json(outcome.value), "error": outcome.error, "text": outcome.text}
    return {
        "index": entry.index,
        "id": entry.id,
        "began": entry.began.isoformat(),
        "elapsed_s": fields.seconds(entry.elapsed_s),
        "outcome": {**ended, **{name: value for name, value in given.items() if value}},
        "variables": {name: fields.ref_to_json(ref) for name, ref in entry.variables.items()},
        "calls": list(map(told_call, entry.calls)),
        **fields.offer_to_json(entry.output_fields, entry.reasoning, tools, entry.usage),
        **({"late": entry.late} if entry.late else {}),
    }


@given(transcript=transcripts())
def test_the_parts_are_the_whole(transcript: Transcript) -> None:
    """Sorted as all that is hashed, for one entry after the other."""
    parts = EntryEncoder()
    for entry in transcript.entries:
        tools = None if entry.outcome.value is None else replace(entry.outcome.value, summary="tools")
        assert cells._entry_json(entry, tools, parts) == sorted_json(whole(entry, tools))


@given(transcript=transcripts())
def test_outputs_by_hand(transcript: Transcript) -> None:
    """What is put together by hand is what an encoder makes, and so is what is hashed of it."""
    for entry in transcript.entries:
        for output in entry.outputs:
            told, sealed = cells._output_texts(output, 7)
            made = cells.output_to_json(output, 7)
            assert json.loads(told) == json.loads(json_text(made))
            assert sealed == sorted_json(cells._hashed_output(made))


@given(transcript=transcripts())
def test_what_stands_below_by_hand(transcript: Transcript) -> None:
    """The cell below an entry is one that an encoder makes."""
    for entry in transcript.entries:
        _, *below = cells.entry_texts(entry, None, [], {}, {"a": "`b`\n"})
        told = prose.cell_summary(entry, {"a": "`b`\n"}, is_dspys_own=prose.is_dspys_own(entry))
        made = cells._markdown(f"below-{entry.index}", told, part="below")
        assert list(map(json.loads, below)) == ([json.loads(json_text(made))] if told else [])


@given(text=st.text() | st.text("a\n\r\x0b\x1c\x85\u2028\ud800é"))
def test_the_lines_of_a_text(text: str) -> None:
    """Joined they are the text."""
    assert "".join(json.loads(lines_text(text))) == text


def test_what_was_made_is_made_once() -> None:
    """Until it is something else."""
    parts = EntryEncoder()
    assert parts.code("a\nb") is parts.code("a\nb")
    assert parts.code("c").lines == '["c"]'


@given(st.text(max_size=20) | st.text("ab'\"\\\n\x7f", max_size=6))
def test_a_short_text_is_told_as_python_shows_it(text: str) -> None:
    """Also where it needs no decoding."""
    assert summary_of(values.dumps(text)) == repr(text)
