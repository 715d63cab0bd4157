"""The model as JSON and back: what is tolerated, and how a form that cannot be read is named."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest

from daytona_kernel_interp.recording.model import LMCall, SessionFacts
from daytona_kernel_interp.recording.schema import (
    entry_from_json,
    entry_to_json,
    from_json,
    reason_of,
    rounded,
)
from tests.sessions import small

if TYPE_CHECKING:
    from daytona_kernel_interp.recording.model import Entry


def recorded() -> dict[str, Any]:
    """Return the JSON of an entry with calls."""
    read: dict[str, Any] = json.loads(json.dumps(entry_to_json(small().entries[1], None)))
    return read


def read_entry(data: object) -> Entry:
    """Return the entry in ``data``."""
    return entry_from_json(data, "code", (), lambda ref: ())


def test_unknown_keys_are_ignored() -> None:
    """A later program of the same schema version may write more."""
    data = recorded()
    whole = read_entry(data)
    data["later"] = 1
    data["outcome"]["later"] = data["calls"][0]["later"] = None
    assert read_entry(data) == whole


def test_null_is_a_value_that_is_missing() -> None:
    """An optional field may be null, which JSON libraries write for None."""
    data = recorded()
    whole = read_entry(data)
    assert read_entry({**data, "tools": None, "output_fields": None}) == whole


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("calls", "x", "it has another form than was recorded: calls: "),
        ("index", "x", "it has another form than was recorded: index: "),
        ("began", "yesterday", "it has another form than was recorded: began: "),
        ("outcome", {"kind": "lost", "ending": "ok"}, "it has another form than was recorded: outcome.kind: "),
        ("outcome", {"ending": "ok"}, "outcome.kind is missing"),
        ("variables", {"a": {"hash": "", "size": 1}}, "variables.a.summary is missing"),
    ],
)
def test_a_field_of_another_form_is_named(field: str, value: object, reason: str) -> None:
    """The reason names the field, and says what is wrong with it."""
    with pytest.raises(ValueError, match=r"validation error") as caught:
        read_entry({**recorded(), field: value})
    assert reason_of(caught.value).startswith(reason)
    assert "\n" not in reason_of(caught.value)


def test_moments_are_in_utc() -> None:
    """A moment is in UTC, whatever offset it was written with; one without an offset is UTC."""
    ref = {"hash": "0", "size": 1, "summary": ""}
    call = {"call_id": "c", "entry": None, "elapsed_s": None, "request": ref}
    began = datetime(2026, 1, 2, 3, tzinfo=timezone.utc)
    for text in ("2026-01-02T03:00:00+00:00", "2026-01-02T05:00:00+02:00", "2026-01-02T03:00:00"):
        for read in (
            read_entry({**recorded(), "began": text}).began,
            from_json(LMCall, {**call, "began": text}).began,
            from_json(SessionFacts, {"session_id": "", "sandbox": "", "began": text}).began,
        ):
            assert (read, read.tzinfo) == (began, timezone.utc)


def test_a_moment_at_the_limit_of_datetime_is_read() -> None:
    """A moment that has no form in UTC keeps its clock time."""
    facts = from_json(SessionFacts, {"session_id": "", "sandbox": "", "began": "0001-01-01T00:00:00+14:00"})
    assert facts.began == datetime(1, 1, 1, tzinfo=timezone.utc)


def test_seconds_are_what_javascript_writes() -> None:
    """A whole number has no point, and nothing is longer than a millionth."""
    assert [repr(rounded(one)) for one in (1.0, 0.1234567, 2.5)] == ["1", "0.123457", "2.5"]
