"""Helpers for tests of the journal: write one, and read it as a host does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from daytona_kernel_interp.guest.journal_files import MESSAGE_DELIMITER
from daytona_kernel_interp.guest.kernel.journal_writer import JournalWriter
from daytona_kernel_interp.guest.relay.journal_reader import Journal
from daytona_kernel_interp.wire.journal import JournalReader, JournalRecord, RecordKind, split_frames

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SMALL_SEGMENT = 2000
ROOM = 256 * 1024  # of pending text, each stream
ALL = ["+a", "a1", "a2", "-a", "+b", "b1", "b2", "-b"]  # what `two_cells` writes


def message(msg_id: str, size: int = 10) -> list[bytes]:
    """Return the frames of an iopub message."""
    header = json.dumps({"msg_id": msg_id, "msg_type": "stream"}).encode()
    return [b"topic", MESSAGE_DELIMITER, b"signature", header, b"{}", b"{}", b"x" * size, b"buffer"]


def parse(pieces: Iterator[bytes]) -> list[JournalRecord]:
    """Return the records that a host parses from the relay's bytes."""
    reader = JournalReader()
    return [record for piece in pieces for record in reader.feed(piece)]


def told(folder: Path, after: str | None = None, cell: str | None = None) -> list[str]:
    """Read a journal, each record as one word."""
    words = []
    for record in parse(Journal(folder).read(after, cell)):
        match record.kind:
            case RecordKind.IOPUB | RecordKind.OMITTED:
                frames = split_frames(record.payload)
                words.append(str(json.loads(frames[frames.index(MESSAGE_DELIMITER) + 2])["msg_id"]))
            case RecordKind.STARTED:
                words.append(f"+{record.payload.decode()}")
            case RecordKind.ENDED:
                words.append(f"-{json.loads(record.payload)['cell']}")
            case _:
                words.append(record.kind.name)
    return words


def two_cells(folder: Path) -> JournalWriter:
    """Write a journal of two cells."""
    writer = JournalWriter(folder)
    for cell in ("a", "b"):
        writer.cell_started(cell)
        writer.message_published(message(f"{cell}1"))
        writer.message_published(message(f"{cell}2"))
        writer.cell_ended(cell, {"status": "ok"}, {})
    return writer


def pending(folder: Path) -> list[tuple[str, str, str]]:
    """Return stream, cell and text of each pending record."""
    records = Journal(folder).pending()
    assert all(record.kind is RecordKind.PENDING for record in records)
    return [(facts["name"], facts["cell"], facts["text"]) for facts in (json.loads(r.payload) for r in records)]
