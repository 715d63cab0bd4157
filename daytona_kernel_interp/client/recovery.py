"""What a kernel's journal tells of a cell whose link was lost."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jupyter_client.session import Session

from ..wire.journal import JournalRecord, RecordKind, split_frames
from ..wire.protocol_errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..tunnel.tunnel import Tunnel

log = logging.getLogger(__name__)

Message = dict[str, Any]

LOST_OUTPUT = "\n[... some output was lost with the link: the journal in the sandbox did not hold all of it ...]\n"


@dataclass(frozen=True)
class UnpublishedText:
    """Text that a cell printed and that its kernel, gone now, had not published."""

    name: str
    cell: str
    text: str


@dataclass
class RecoveredJournal:
    """What was read. All of it comes from a sandbox and may be false."""

    messages: list[Message] = field(default_factory=list)  # of iopub, in order
    replies: dict[str, Message] = field(default_factory=dict)  # execute_replies by the cell's msg_id
    unpublished: list[UnpublishedText] = field(default_factory=list)
    cell: str | None = None  # the last cell that the kernel took up
    gap: bool = False  # whether messages are missing

    @property
    def ids(self) -> set[str]:
        """The ids of the messages."""
        return {message["header"]["msg_id"] for message in self.messages}


async def read_records(
    tunnel: Tunnel,
    kernel_id: str,
    key: str,
    after: str | None = None,
    cell: str | None = None,
) -> RecoveredJournal:
    """Read a kernel's journal from behind the message ``after``, or from where ``cell``, or the last cell, started.

    ``key`` is the kernel's session key; messages that it did not sign are dropped.

    Raises:
        TunnelLost: If the relay is gone, or has no journal.
    """
    session, recovered = Session(key=key.encode("ascii")), RecoveredJournal()

    def decode(frames: list[bytes]) -> Message | None:
        try:
            _, parts = session.feed_identities(frames)
            message: Message = session.deserialize(parts)
        except Exception as error:  # whatever a hostile kernel makes json.loads raise
            log.warning("dropped a record that is no Jupyter message: %s", error)
            return None
        return message

    for record in await tunnel.read_journal(kernel_id, after, cell):
        try:
            _add_record(record, recovered, decode)
        except (RemoteProtocolError, ValueError, KeyError, TypeError, RecursionError) as error:
            log.warning("dropped a malformed record of the journal: %s", error)
            recovered.gap = True
    return recovered


def _add_record(
    record: JournalRecord, recovered: RecoveredJournal, decode: Callable[[list[bytes]], Message | None]
) -> None:
    match record.kind:
        case RecordKind.IOPUB:
            message = decode(split_frames(record.payload))
            if message is not None:
                recovered.messages.append(message)
        case RecordKind.OMITTED | RecordKind.GAP:
            recovered.gap = True
        case RecordKind.STARTED | RecordKind.CONTINUED:
            recovered.cell = record.payload.decode("utf-8")
        case RecordKind.ENDED:
            facts = json.loads(record.payload)
            recovered.replies[str(facts["cell"])] = {
                "content": dict(facts["content"]),
                "metadata": dict(facts["metadata"]),
            }
        case RecordKind.PENDING:
            facts = json.loads(record.payload)
            recovered.unpublished.append(UnpublishedText(str(facts["name"]), str(facts["cell"]), str(facts["text"])))
        case RecordKind.LAST:
            pass
