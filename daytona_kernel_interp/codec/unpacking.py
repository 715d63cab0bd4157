"""Limits for decoding, so that a small value which expands to gigabytes or takes hours is refused early."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from ..wire.protocol_errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_VALUE_BYTES = 256 << 20
# For the Python objects of one value, tree and result together: three bytes of JSON can take a hundred times as much.
MAX_UNPACKED_BYTES = 8 * MAX_VALUE_BYTES
PART_BYTES, CONTAINER_BYTES = 40, 200
# Insertion compares keys of equal hash, which is quadratic. Hashes of str use a secret; hashes of numbers do not.
_MAX_SAME_HASH = 100


def json_size(head: bytes) -> int:
    """Return an upper estimate of the memory of parsed JSON; commas within strings are counted too."""
    if len(head) < MAX_UNPACKED_BYTES // (PART_BYTES + CONTAINER_BYTES):
        return 0  # cannot exceed the limit
    containers = head.count(b"[") + head.count(b"{")
    return head.count(b",") * PART_BYTES + containers * (PART_BYTES + CONTAINER_BYTES)


def check_hashes(keys: Collection[Any]) -> None:
    """Check that a set of ``keys`` can be built in reasonable time.

    Raises:
        RemoteProtocolError: If too many keys have the same hash.
        TypeError: If a key is not hashable.
    """
    if len(keys) > _MAX_SAME_HASH and max(Counter(map(hash, keys)).values()) > _MAX_SAME_HASH:
        raise RemoteProtocolError("keys of one value have the same hash")
