"""Parts of an entry's cell: the same JSON as if it was made in one piece, and made once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.transcript import cells, fields
from daytona_kernel_interp.transcript.parts import Parts, sorted_json
from daytona_kernel_interp.transcript.store import summary_of
from daytona_kernel_interp.wire import values
from tests.transcripts import Maker

from .transcripts import transcripts

if TYPE_CHECKING:
    from daytona_kernel_interp.transcript.model import Entry, Ref, Transcript


def whole(entry: Entry, tools: Ref | None) -> dict[str, Any]:
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
        "calls": [fields.call_to_json(call) for call in entry.calls],
        **fields.offer_to_json(entry.output_fields, entry.reasoning, tools, entry.usage),
        **({"late": entry.late} if entry.late else {}),
    }


@given(transcript=transcripts(), ahead=st.booleans())
def test_the_parts_are_the_whole(transcript: Transcript, ahead: bool) -> None:
    """Sorted as all that is hashed, whatever was made ahead, for one entry after the other."""
    parts = Parts()
    for entry in transcript.entries:
        if ahead:
            parts.code(entry.code)
            parts.variables(entry.variables)
            for call in entry.calls:
                parts.call(call)
        tools = None if entry.outcome.value is None else replace(entry.outcome.value, summary="tools")
        calls = list(map(parts.call, entry.calls))
        assert cells._told(entry, tools, calls, parts) == sorted_json(whole(entry, tools))
        parts.forget_calls()


def test_what_was_made_is_made_once() -> None:
    """Until it is something else; calls are of one entry."""
    maker, parts = Maker(), Parts()
    call = maker.call("look", 1, result=2)
    made = parts.call(call)
    assert parts.call(replace(call)) is made
    assert parts.call(replace(call, elapsed_s=9.0)).sorted != made.sorted
    parts.forget_calls()
    assert parts.call(call) is not made
    assert parts.code("a\nb") is parts.code("a\nb")
    assert parts.code("c").lines == '["c"]'


@given(st.text(max_size=20) | st.text("ab'\"\\\n\x7f", max_size=6))
def test_a_short_text_is_told_as_python_shows_it(text: str) -> None:
    """Also where it needs no decoding."""
    assert summary_of(values.dumps(text)) == repr(text)
