"""What a value may cost to build, so that a few bytes which unpack to gigabytes, or take hours, are refused before."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from ..wire.protocol_errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_VALUE_BYTES = 256 << 20
# Of a value's parts as Python objects, tree and result together: three bytes of JSON may become a hundred times more.
MAX_UNPACKED_BYTES = 8 * MAX_VALUE_BYTES
PART_BYTES, CONTAINER_BYTES = 40, 200
# A table looks at all that share a hash for each of them. Texts are hashed with a secret; numbers, alas, are not.
_MAX_SAME_HASH = 100


def json_size(head: bytes) -> int:
    """Return about what the JSON text becomes at most; counting commas in texts too does little harm."""
    if len(head) < MAX_UNPACKED_BYTES // (PART_BYTES + CONTAINER_BYTES):
        return 0  # it cannot be too much
    containers = head.count(b"[") + head.count(b"{")
    return head.count(b",") * PART_BYTES + containers * (PART_BYTES + CONTAINER_BYTES)


def check_hashes(keys: Collection[Any]) -> None:
    """Check that a set of ``keys`` can be made in reasonable time.

    Raises:
        RemoteProtocolError: If they were chosen so that it cannot.
        TypeError: If one cannot be hashed.
    """
    if len(keys) > _MAX_SAME_HASH and max(Counter(map(hash, keys)).values()) > _MAX_SAME_HASH:
        raise RemoteProtocolError("keys of one value have the same hash")


class MemoryBudget:
    """Counts what one value takes beside its buffers and its text."""

    def __init__(self) -> None:
        self._charged = 0

    def charge(self, size: int) -> None:
        """Count ``size`` bytes, before they are taken.

        Raises:
            RemoteProtocolError: If they are too many, with those before them.
        """
        self._charged += size
        if self._charged > MAX_UNPACKED_BYTES:
            raise RemoteProtocolError(f"a value would unpack to more than {MAX_UNPACKED_BYTES} bytes")
