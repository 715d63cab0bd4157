"""Large inputs that the kernel keeps, so that what did not change is not sent again, and is fresh in each cell."""

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

# How a value is kept: as itself, which nothing can change; as our own marshal of it, three times as fast to read as
# its encoding; as that encoding.
_SAME, _MARSHAL, _ENCODED = range(3)


class ValueForgotten(Exception):
    """The host counts on a value that is not here."""


class InputCache:
    """Values by the hash of their encoding; those that were used longest ago go first."""

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._size = 0
        self._entries: OrderedDict[str, tuple[int, Any, int]] = OrderedDict()  # how, what, its size in bytes

    @property
    def keys(self) -> list[str]:
        """Of what is here, by last use."""
        return list(self._entries)

    def get(self, key: str) -> Any:
        """Return a fresh copy of a value.

        Raises:
            ValueForgotten: If it is not here.
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
        """Return the value in ``buffers``, and keep it. Call :meth:`trim` when the cell has all its values."""
        value, exact = values.decode(buffers)
        if isinstance(value, (str, bytes)) and exact:
            kept: tuple[int, Any, int] = (_SAME, value, sys.getsizeof(value))  # four times its UTF-8, for one emoji
        elif exact:
            form = marshal.dumps(value)  # made here of what the codec built: never of foreign bytes
            kept = (_MARSHAL, form, len(form))
        else:
            kept = (_ENCODED, list(buffers), sum(map(len, buffers)))
        self._evict(key)
        self._entries[key] = kept
        self._size += kept[2]
        return value

    def trim(self) -> None:
        """Forget what exceeds the limit."""
        while self._size > self._max_bytes:
            self._evict(next(iter(self._entries)))

    def _evict(self, key: str) -> None:
        _, _, size = self._entries.pop(key, (0, None, 0))
        self._size -= size


def resolve(
    cache: InputCache, sent: Sequence[tuple[str, str, int]], buffers: Sequence[values.Buffer]
) -> dict[str, Any]:
    """Return the variables whose names, keys and numbers of buffers are ``sent``; without buffers, they are here.

    Raises:
        ValueForgotten: If one is not here.
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
