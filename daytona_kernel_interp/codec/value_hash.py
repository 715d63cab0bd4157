"""The hash that identifies an encoded value in the kernel's cache of inputs and in recordings."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .values import Buffer

_SMALL_BYTES = 4096  # up to this size, one call hashes a joined copy, which is faster


def hash_of(buffers: Sequence[Buffer]) -> str:
    """Return the SHA-256 of an encoded value's buffers, each preceded by its length."""
    if len(buffers) == 1 and len(buffers[0]) <= _SMALL_BYTES:
        return hashlib.sha256(b"".join((len(buffers[0]).to_bytes(8, "big"), buffers[0]))).hexdigest()
    digest = hashlib.sha256()
    for buffer in buffers:
        digest.update(len(buffer).to_bytes(8, "big"))
        digest.update(buffer)
    return digest.hexdigest()
