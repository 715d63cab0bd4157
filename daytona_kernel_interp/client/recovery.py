"""Read from a kernel's journal what a lost link did not deliver."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jupyter_client.session import DELIM, Session

from ..wire.journal import JournalRecord, RecordKind, split_frames
from ..wire.protocol_errors import RemoteProtocolError
from .messages import parse

if TYPE_CHECKING:
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
    started: set[str] = field(default_factory=set)  # msg_ids of the cells that the kernel started
    gap: bool = False  # whether messages are missing
    malformed: int = 0  # records that were dropped

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
    seen: set[str] = set()
    for record in await tunnel.read_journal(kernel_id, after, cell):
        try:
            _add_record(record, recovered, session, seen)
        except (RemoteProtocolError, ValueError, KeyError, TypeError, RecursionError):
            recovered.gap = True
            recovered.malformed += 1
    if recovered.malformed:
        log.warning("dropped %d malformed records of the journal of kernel %s", recovered.malformed, kernel_id)
    return recovered


def _add_record(record: JournalRecord, recovered: RecoveredJournal, session: Session, seen: set[str]) -> None:
    match record.kind:
        case RecordKind.IOPUB:
            frames = split_frames(record.payload)
            try:
                message = parse(session, frames[frames.index(DELIM) + 1 :])
            except Exception:  # not from the kernel, so it hides nothing: anything that json.loads raises
                recovered.malformed += 1
                return
            if message["msg_id"] not in seen:  # a repeated record is a replay
                seen.add(message["msg_id"])
                recovered.messages.append(message)
        case RecordKind.OMITTED | RecordKind.GAP:
            recovered.gap = True
        case RecordKind.STARTED | RecordKind.CONTINUED:
            recovered.cell = record.payload.decode("utf-8")
            recovered.started.add(recovered.cell)
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
