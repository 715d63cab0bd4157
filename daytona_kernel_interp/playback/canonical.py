"""Compare encoded values by a canonical form, without decoding them.

Encodings of equal values can differ. The order of a set depends on the process, the order of a dict on its insertions,
and large pieces are numbered in the order in which the encoder met them. :func:`canonical` removes all three.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from ..wire.protocol_errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..codec.values import Buffer

_TAG = "$"
_UNORDERED = ("set", "frozenset", "dict", "counter")
# fmt: off
_OWN_TAGS = frozenset((
    "tuple", "set", "frozenset", "dict", "bytes", "text", "float", "int", "complex", "datetime", "date", "time",
    "timedelta", "decimal", "uuid", "path", "record", "bytearray", "fraction", "range", "deque", "ordered", "counter",
    "defaultdict",
))
# fmt: on


def same_value(one: Sequence[Buffer], other: Sequence[Buffer]) -> bool:
    """Return whether two encodings are of the same value: equal bytes, or equal canonical forms."""
    if len(one) == len(other) and all(bytes(a) == bytes(b) for a, b in zip(one, other, strict=True)):
        return True
    return canonical(one) == canonical(other)


def canonical(buffers: Sequence[Buffer]) -> str:
    """Return a text that is equal for encodings of equal values and differs for others.

    Raises:
        RemoteProtocolError: If ``buffers`` is not an encoded value.
    """
    try:
        return json.dumps(_normal(json.loads(bytes(buffers[0])), buffers), sort_keys=True)
    except (ValueError, IndexError, KeyError, TypeError, RecursionError) as error:
        raise RemoteProtocolError(f"not an encoded value: {type(error).__name__}") from error


def _normal(tree: object, buffers: Sequence[Buffer]) -> object:
    if isinstance(tree, list):
        return [_normal(item, buffers) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if _TAG not in tree:
        return {key: _normal(item, buffers) for key, item in tree.items()}
    tag, value = tree[_TAG], tree["v"]
    if tag in ("str_at", "bytes_at"):
        return {_TAG: tag, "v": _digest(buffers[value])}
    if tag in _OWN_TAGS:
        normal = _normal(value, buffers)
        if tag in _UNORDERED and isinstance(normal, list):
            normal.sort(key=_key)
        return {_TAG: tag, "v": normal}
    inner, pieces = value  # a value of a library: its codec's tree, and the buffers that this tree refers to
    named = [_digest(buffers[piece]) if isinstance(piece, int) else piece for piece in pieces]
    return {_TAG: tag, "v": [_normal(inner, buffers), named]}


def _key(item: object) -> str:
    return json.dumps(item, sort_keys=True)


def _digest(buffer: Buffer) -> str:
    return hashlib.sha256(buffer).hexdigest()
