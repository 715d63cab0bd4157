"""The files of a kernel's journal: names, and the layout of the memory that holds unpublished text.

The kernel process writes them (``guest.kernel.journal_writer``), the relay reads them (``guest.relay.journal_reader``).
The record format is ``wire.journal``.

``NNNNNNNN.seg`` are the segments. ``pending`` is a file that the kernel maps into its memory, so that its content
survives the process. It has one part for each stream: a header and a ring of text. Positions count bytes of the
stream's text from the start of the kernel; a position modulo ``PENDING_BYTES`` is a place in the ring.

====== ====== ====================================================================================
offset field   content
====== ====== ====================================================================================
0       SPAN   first and last position of the text in the ring
16      CLAIM  position up to which the text is published once a segment (its number) has a size
36      CELL   length and bytes of the ``msg_id`` of the cell that printed the text
164     ring   ``PENDING_BYTES`` bytes
====== ====== ====================================================================================
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MESSAGE_DELIMITER = b"<IDS|MSG>"  # jupyter_client's, before a message's signature
STDERR_BYTES = 64 * 1024  # the kernel empties the file of its standard error at this size

PENDING_FILE = "pending"
STREAMS = ("stdout", "stderr")
PENDING_BYTES = 256 * 1024  # for each stream; what a fast loop prints in about 20 ms
SPAN = struct.Struct("=QQ")
CLAIM = struct.Struct("=QIQ")
CELL = struct.Struct("=B127s")
CLAIM_OFFSET = SPAN.size
CELL_OFFSET = CLAIM_OFFSET + CLAIM.size
RING_OFFSET = CELL_OFFSET + CELL.size
STREAM_BYTES = RING_OFFSET + PENDING_BYTES


def stream_offset(name: str) -> int:
    """Return the offset of a stream's part in the file of pending text."""
    return STREAMS.index(name) * STREAM_BYTES


def segment_path(folder: Path, number: int) -> Path:
    """Return the path of a journal's segment."""
    return folder / f"{number:08}.seg"


def segment_paths(folder: Path) -> list[Path]:
    """Return the paths of the segments that exist, oldest first."""
    return sorted(folder.glob("*.seg"))
