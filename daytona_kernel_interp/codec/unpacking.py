"""Limits for decoding, so that a small value which expands to gigabytes or takes hours is refused early."""

from __future__ import annotations

MAX_VALUE_BYTES = 256 << 20
# For the Python objects of one value, tree and result together: three bytes of JSON can take a hundred times as much.
MAX_UNPACKED_BYTES = 8 * MAX_VALUE_BYTES
MAX_DEPTH = 200  # json.loads and the encoder recurse; Python's default limit is 1000 frames
MAX_RANGE = 1 << 20  # the receiver may make a list of a range
PART_BYTES, CONTAINER_BYTES = 40, 200


def json_size(head: bytes) -> int:
    """Return an upper estimate of the memory of parsed JSON; commas within strings are counted too."""
    if len(head) < MAX_UNPACKED_BYTES // (PART_BYTES + CONTAINER_BYTES):
        return 0  # cannot exceed the limit
    containers = head.count(b"[") + head.count(b"{")
    return head.count(b",") * PART_BYTES + containers * (PART_BYTES + CONTAINER_BYTES)
