"""The head of a PNG file: its signature and its size (PNG specification, sections 5.2 and 11.2.1)."""

from __future__ import annotations

SIGNATURE = b"\x89PNG\r\n\x1a\n"
IHDR_OFFSET = 16  # offset of the header chunk's data, after signature, length and type
HEAD_BYTES = 24  # bytes up to and including width and height


def size_of(head: bytes) -> tuple[int, int] | None:
    """Return width and height in pixels, or None if ``head`` is not the head of a PNG file."""
    if len(head) < HEAD_BYTES or not head.startswith(SIGNATURE):
        return None
    return int.from_bytes(head[IHDR_OFFSET:20], "big"), int.from_bytes(head[20:HEAD_BYTES], "big")
