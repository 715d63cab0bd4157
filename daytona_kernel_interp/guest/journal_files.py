"""The files of a kernel's journal: names, and the layout of the memory that holds unpublished text.

The kernel process writes them (``guest.kernel.journal_writer``), the relay reads them (``guest.relay.journal_reader``).
The record format is ``wire.journal``.

``NNNNNNNN.seg`` are the segments. ``pending`` is a file that the kernel maps into its memory, so that its content
survives the process. It has one part for each stream: a header, a ring of text, and the bytes read from the pipe last.
Positions count bytes of the stream's text from the start of the kernel; a position modulo ``PENDING_BYTES`` is a place
in the ring.

====== ====== ====================================================================================
offset field   content
====== ====== ====================================================================================
0       SPAN   first and last position of the text in the ring
16      CLAIM  position up to which the text is published once a segment (its number) has a size
36      CELL   length and bytes of the ``msg_id`` of the cell that printed the text
164     ring   ``PENDING_BYTES`` bytes
262308  read   ``PIPE_READ_BYTES`` bytes from the pipe that are not yet in the ring, then zeros
====== ====== ====================================================================================

``stdout.pipe`` and ``stderr.pipe`` are the pipes behind the kernel's file descriptors 1 and 2. They are FIFOs, so that
the relay can hold a read end as well: what is still in a pipe when the kernel dies would be lost with its last reader.
The relay saves that, after what was read from the pipe last, as ``stdout.unread`` and ``stderr.unread``.
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
UNREAD_BYTES = 1 << 20  # Linux's default for the largest pipe; a pipe has 64 KiB unless code in a cell changes it
PENDING_BYTES = 256 * 1024  # for each stream; what a fast loop prints in about 20 ms
SPAN = struct.Struct("=QQ")
CLAIM = struct.Struct("=QIQ")
CELL = struct.Struct("=B127s")
CLAIM_OFFSET = SPAN.size
CELL_OFFSET = CLAIM_OFFSET + CLAIM.size
RING_OFFSET = CELL_OFFSET + CELL.size
READ_OFFSET = RING_OFFSET + PENDING_BYTES
PIPE_READ_BYTES = 64 * 1024
STREAM_BYTES = READ_OFFSET + PIPE_READ_BYTES


def stream_offset(name: str) -> int:
    """Return the offset of a stream's part in the file of pending text."""
    return STREAMS.index(name) * STREAM_BYTES


def pipe_path(folder: Path, name: str) -> Path:
    """Return the path of the FIFO behind the file descriptor of stream ``name``."""
    return folder / f"{name}.pipe"


def unread_path(folder: Path, name: str) -> Path:
    """Return the path of what was in the pipe of stream ``name`` when the kernel died."""
    return folder / f"{name}.unread"


def segment_path(folder: Path, number: int) -> Path:
    """Return the path of a journal's segment."""
    return folder / f"{number:08}.seg"


def segment_paths(folder: Path) -> list[Path]:
    """Return the paths of the segments that exist, oldest first."""
    return sorted(folder.glob("*.seg"))
