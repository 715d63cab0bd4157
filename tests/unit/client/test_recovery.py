"""Tests of ``client.recovery``: records of a journal, all of which may be forged."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyter_client.session import Session

from daytona_kernel_interp.client.recovery import RecoveredJournal, UnpublishedText, read_records
from daytona_kernel_interp.errors import TunnelLost
from daytona_kernel_interp.wire.journal import MAX_FRAMES, JournalRecord, RecordKind, join_frames
from tests.unit import strategies

KEY = "5ec12e7" * 4


class FakeTunnel:
    """A fake tunnel with a given journal."""

    def __init__(self, records: list[JournalRecord]) -> None:
        self.records = records
        self.asked: tuple[str, str | None, str | None] | None = None

    async def read_journal(self, kernel_id: str, after: str | None, cell: str | None) -> list[JournalRecord]:
        self.asked = (kernel_id, after, cell)
        return self.records


def recovered(*records: JournalRecord) -> RecoveredJournal:
    """Return the journal of these records as a host recovers it."""
    return asyncio.run(read_records(cast("Any", FakeTunnel(list(records))), "1-ab", KEY))


def published(text: str, key: str = KEY) -> JournalRecord:
    """Return the record of a message that prints ``text``."""
    session = Session(key=key.encode())
    frames = session.serialize(session.msg("stream", {"name": "stdout", "text": text}), b"topic")
    return JournalRecord(RecordKind.IOPUB, join_frames(frames))


def ended(cell: str, **content: Any) -> JournalRecord:
    """Return the record of a reply."""
    facts = {"cell": cell, "content": content, "metadata": {}}
    return JournalRecord(RecordKind.ENDED, json.dumps(facts).encode())


def started(cell: str) -> JournalRecord:
    """Return the record of a cell's start."""
    return JournalRecord(RecordKind.STARTED, cell.encode())


def pending(name: str, cell: str, text: str) -> JournalRecord:
    """Return the record of text that was not published."""
    return JournalRecord(RecordKind.PENDING, json.dumps({"name": name, "cell": cell, "text": text}).encode())


def texts(found: RecoveredJournal) -> list[str]:
    """Return the printed texts of the messages."""
    return [message["content"]["text"] for message in found.messages]


def test_an_empty_journal_tells_nothing() -> None:
    """No cell, no message, no gap: the request never reached the kernel."""
    assert recovered() == RecoveredJournal()


def test_a_cell_that_runs_is_started_and_not_ended() -> None:
    """It has its output so far and no reply."""
    found = recovered(started("a"), published("1"), published("2"))
    assert (found.cell, found.replies, found.gap, found.unpublished) == ("a", {}, False, [])
    assert texts(found) == ["1", "2"]
    assert found.ids == {message["header"]["msg_id"] for message in found.messages}
    assert len(found.ids) == 2


def test_a_cell_that_ended_has_its_reply() -> None:
    """The reply has the kernel's content and metadata."""
    found = recovered(started("a"), published("1"), ended("a", status="ok", execution_count=3))
    assert found.replies == {"a": {"content": {"status": "ok", "execution_count": 3}, "metadata": {}}}
    assert found.cell == "a"


def test_the_last_cell_that_was_taken_up_counts() -> None:
    """Each cell has its reply; the running one is the last that started."""
    found = recovered(started("a"), ended("a", status="ok"), started("b"), ended("b", status="error"), started("c"))
    assert found.cell == "c"
    assert {cell: reply["content"]["status"] for cell, reply in found.replies.items()} == {"a": "ok", "b": "error"}


def test_what_a_dead_kernel_had_not_published_is_told_apart() -> None:
    """Unpublished text belongs to a stream and a cell and is not a message."""
    found = recovered(started("a"), pending("stdout", "a", "out"), pending("stderr", "a", "err"))
    assert found.unpublished == [UnpublishedText("stdout", "a", "out"), UnpublishedText("stderr", "a", "err")]
    assert found.messages == []


@pytest.mark.parametrize("kind", [RecordKind.GAP, RecordKind.OMITTED])
def test_what_is_missing_is_known_to_be(kind: RecordKind) -> None:
    """Records after a gap are kept."""
    found = recovered(JournalRecord(kind, b""), started("a"), published("1"), ended("a", status="ok"))
    assert found.gap
    assert texts(found) == ["1"]
    assert "a" in found.replies


def test_a_message_that_the_kernel_did_not_sign_is_dropped() -> None:
    """Journal records with another key or without a valid message are rejected: they are not from the kernel."""
    spoiled = published("2").payload.replace(b'"2"', b'"9"')
    found = recovered(published("1", key="0" * 20), JournalRecord(RecordKind.IOPUB, spoiled), published("3"))
    assert texts(found) == ["3"]


def test_a_message_that_comes_twice_is_one() -> None:
    """The same record again is a replay: its signature was seen."""
    record = published("1")
    assert texts(recovered(record, published("2"), record)) == ["1", "2"]


def test_order_is_the_journals() -> None:
    """With a reply before its start, or output after the reply, no record is moved or dropped."""
    found = recovered(
        ended("a", status="ok"), published("2"), published("1"), started("a"), JournalRecord(RecordKind.LAST)
    )
    assert texts(found) == ["2", "1"]
    assert (found.cell, list(found.replies), found.gap) == ("a", ["a"], False)


def test_of_two_replies_the_later_counts() -> None:
    """A cell that ran again has the result of its last run."""
    found = recovered(ended("a", status="error"), ended("a", status="ok"))
    assert found.replies["a"]["content"] == {"status": "ok"}


BAD = [
    JournalRecord(RecordKind.STARTED, b"\xff\xfe"),
    JournalRecord(RecordKind.IOPUB, b"\0\0\0\x09x"),
    JournalRecord(RecordKind.IOPUB, bytes(4 * MAX_FRAMES + 4)),
    *(
        JournalRecord(kind, payload)
        for kind in (RecordKind.ENDED, RecordKind.PENDING)
        for payload in (
            b"",
            b"{",
            b"\xff",
            b"[]",
            b"5",
            b"null",
            b"{}",
            b'{"cell": "a", "content": 5, "metadata": {}}',
            b'{"cell": "a", "content": [1], "metadata": {}}',
            b'{"cell": "a", "content": {}, "metadata": null}',
            b"[" * 100_000,
        )
    ),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda record: f"{record.kind.name} {record.payload[:12]!r}")
def test_a_malformed_record_is_dropped_and_the_rest_read(bad: JournalRecord) -> None:
    """A malformed record is dropped and reported as a gap."""
    found = recovered(started("a"), published("1"), bad, published("2"), ended("b", status="ok"))
    assert texts(found) == ["1", "2"]
    assert (found.cell, list(found.replies), found.unpublished) == ("a", ["b"], [])
    assert found.gap


@strategies.FEW
@given(
    st.lists(
        st.builds(
            JournalRecord,
            st.sampled_from(RecordKind),
            st.binary(max_size=40) | strategies.JSON.map(json.dumps).map(str.encode),
        ),
        max_size=6,
    )
)
def test_any_records_are_read(records: list[JournalRecord]) -> None:
    """Any records are read without an exception, and none without the key is a message."""
    found = recovered(*records)
    assert found.messages == []
    assert found.ids == set()
    assert len(found.unpublished) <= len(records)


def test_the_journal_is_asked_for_what_is_wanted() -> None:
    """Kernel, message and cell are passed to the tunnel; the caller handles a lost tunnel."""
    tunnel = FakeTunnel([])
    asyncio.run(read_records(cast("Any", tunnel), "1-ab", KEY, after="m", cell="c"))
    assert tunnel.asked == ("1-ab", "m", "c")

    class Lost(FakeTunnel):
        async def read_journal(self, kernel_id: str, after: str | None, cell: str | None) -> list[JournalRecord]:
            raise TunnelLost("gone")

    with pytest.raises(TunnelLost, match="gone"):
        asyncio.run(read_records(cast("Any", Lost([])), "1-ab", KEY))


def test_the_key_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """Dropped records are logged without the key."""
    recovered(published("1", key="0" * 20), *BAD)
    assert caplog.records
    assert KEY not in caplog.text
