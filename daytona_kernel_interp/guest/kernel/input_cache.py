"""A cache of large input variables: an unchanged one is not sent again, and each cell gets a copy of its own."""

from __future__ import annotations

import marshal
import sys
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from ...codec import values
from ...wire.protocol_errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

CACHE_BYTES = 256 << 20

# How a value is stored: as itself if it is immutable; as a marshal dump made here, which loads three times as fast as
# the encoding; as the encoding.
_SAME, _MARSHAL, _ENCODED = range(3)


class ValueForgotten(Exception):
    """The request refers to a value that the cache does not have."""


class InputCache:
    """Values by the hash of their encoding, at most ``max_bytes``; the least recently used are dropped first."""

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._size = 0
        # By key: how the value is stored, its stored form, and the size of that in bytes.
        self._entries: OrderedDict[str, tuple[int, Any, int]] = OrderedDict()

    @property
    def keys(self) -> list[str]:
        """The keys of the cached values, by last use."""
        return list(self._entries)

    def get(self, key: str) -> Any:
        """Return a fresh copy of a value.

        Raises:
            ValueForgotten: If the cache does not have it.
        """
        if key not in self._entries:
            raise ValueForgotten(f"no value {key[:8]}")
        self._entries.move_to_end(key)
        how, what, _ = self._entries[key]
        if how == _SAME:
            return what
        if how == _ENCODED:
            return values.loads(what)
        with values.collector_paused():
            return marshal.loads(what)

    def add(self, key: str, buffers: Sequence[values.Buffer]) -> Any:
        """Return the value in ``buffers``, and cache it. Call :meth:`trim` when the cell has all its values."""
        value, exact = values.decode(buffers)
        if isinstance(value, (str, bytes)) and exact:
            # A string with an emoji needs four bytes per character in memory.
            kept: tuple[int, Any, int] = (_SAME, value, sys.getsizeof(value))
        elif exact:
            form = marshal.dumps(value)  # of a value that the codec made; foreign bytes are never unmarshalled
            kept = (_MARSHAL, form, len(form))
        else:
            kept = (_ENCODED, list(buffers), sum(map(len, buffers)))
        self._evict(key)
        self._entries[key] = kept
        self._size += kept[2]
        return value

    def trim(self) -> None:
        """Drop values until the rest is within the limit."""
        while self._size > self._max_bytes:
            self._evict(next(iter(self._entries)))

    def _evict(self, key: str) -> None:
        _, _, size = self._entries.pop(key, (0, None, 0))
        self._size -= size


def resolve(
    cache: InputCache, sent: Sequence[tuple[str, str, int]], buffers: Sequence[values.Buffer]
) -> dict[str, Any]:
    """Return the variables in ``sent``, which has their names, keys and numbers of buffers.

    A variable without buffers is in the cache. The buffers of the others are the last of ``buffers``.

    Raises:
        ValueForgotten: If the cache does not have one.
        RemoteProtocolError: If one cannot be decoded.
    """
    variables, place = {}, len(buffers) - sum(count for *_, count in sent)
    for name, key, count in sent:
        if count == 0:
            variables[name] = cache.get(key)
    for name, key, count in sent:
        if count:
            try:
                variables[name] = cache.add(key, buffers[place : place + count])
            except RemoteProtocolError as error:
                raise RemoteProtocolError(f"variable {name!r}: {error}") from error
            place += count
    cache.trim()
    return variables
