"""Read from a kernel's journal what a lost link did not deliver."""

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

LOST_OUTPUT = "\n[... some output was lost with the link: the journal in the sandbox was incomplete ...]\n"


@dataclass(frozen=True)
class UnpublishedText:
    """Text that a cell printed and its kernel had not published when it died."""

    name: str
    cell: str
    text: str


@dataclass
class RecoveredJournal:
    """The parsed records of a journal. They come from the sandbox and may be forged."""

    messages: list[Message] = field(default_factory=list)  # iopub messages, in order
    replies: dict[str, Message] = field(default_factory=dict)  # execute_reply messages by the cell's msg_id
    unpublished: list[UnpublishedText] = field(default_factory=list)
    cell: str | None = None  # msg_id of the last cell that the kernel started
    gap: bool = False  # whether messages are missing

    @property
    def ids(self) -> set[str]:
        """The msg_ids of the messages."""
        return {message["header"]["msg_id"] for message in self.messages}


async def read_records(
    tunnel: Tunnel,
    kernel_id: str,
    key: str,
    after: str | None = None,
    cell: str | None = None,
) -> RecoveredJournal:
    """Read a kernel's journal after the message ``after``, or from the start of ``cell`` or of the last cell.

    ``key`` is the kernel's session key; messages with a wrong signature are dropped.

    Raises:
        TunnelLost: If the relay is gone, or has no journal.
    """
    session, recovered = Session(key=key.encode("ascii")), RecoveredJournal()

    def decode(frames: list[bytes]) -> Message | None:
        try:
            _, parts = session.feed_identities(frames)
            message: Message = session.deserialize(parts)
        except Exception as error:  # anything a hostile kernel makes json.loads raise
            log.warning("dropped a journal record that is no Jupyter message: %s", error)
            return None
        return message

    for record in await tunnel.read_journal(kernel_id, after, cell):
        try:
            _add_record(record, recovered, decode)
        except (RemoteProtocolError, ValueError, KeyError, TypeError, RecursionError) as error:
            log.warning("dropped a malformed journal record: %s", error)
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
