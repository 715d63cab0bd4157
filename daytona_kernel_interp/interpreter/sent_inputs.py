"""Variables that the kernel keeps from earlier cells, so that an unchanged value is not sent again.

A large value is identified by the hash of its encoding. To compute it, the value has to be encoded, which two shortcuts
avoid. An exact ``str`` or ``bytes`` cannot change, so the same object, or an equal one, is the same value. Any other
object may have been changed in place; if it consists of Python's plain types only, a hash of its ``marshal`` form shows
whether it was. That form takes a tenth of the time of the encoding.
"""

from __future__ import annotations

import hashlib
import marshal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..codec import values
from ..codec.value_hash import hash_of
from ..wire.comm import HAS_ARROW

if TYPE_CHECKING:
    from collections.abc import Sequence

_MAX_NAMES = 64


@dataclass(frozen=True)
class EncodedInput:
    """An encoded variable. ``buffers`` is empty if the kernel has the value, ``key`` if the value is small."""

    key: str
    buffers: Sequence[values.Buffer]


@dataclass(frozen=True)
class _SentValue:
    key: str
    value: object  # an exact str or bytes; the reference keeps its id from being used again
    mark: bytes | None  # hash of the marshal form of any other value
    arrow: bool  # whether its frames were encoded as Arrow IPC, which gives another hash


class SentInputs:
    """The variables that the kernel of one interpreter keeps."""

    def __init__(self) -> None:
        self._sent: dict[str, _SentValue] = {}
        self._cached_keys: frozenset[str] = frozenset()

    def set_cached_keys(self, keys: Sequence[str]) -> None:
        """Set the keys that the kernel reported after a cell: the values that it keeps, and whether it has pyarrow.

        Call it without keys for a new kernel.
        """
        self._cached_keys = frozenset(keys)

    def encode(self, name: str, value: object, max_bytes: int | None) -> EncodedInput:
        """Return the encoding of a variable, or its key alone if the kernel has the value.

        Raises:
            UnsupportedValue, ValueTooLarge: As for :func:`values.dumps`.
        """
        sent = self._sent.get(name)
        has_it = sent is not None and sent.key in self._cached_keys
        if sent is not None and has_it and _is_same(sent, value):
            return EncodedInput(sent.key, ())
        arrow = sent.arrow if sent is not None and has_it else HAS_ARROW in self._cached_keys
        buffers, exact = values.encode(value, max_bytes=max_bytes, arrow=arrow, root=name)
        if sum(map(len, buffers)) < values.LARGE_BYTES:
            self._sent.pop(name, None)
            return EncodedInput("", buffers)
        key = hash_of(buffers)
        constant, mark = value if _is_constant(value) else None, _fingerprint(value) if exact else None
        self._sent.pop(name, None)
        self._sent[name] = _SentValue(key, constant, mark, arrow)
        if len(self._sent) > _MAX_NAMES:
            del self._sent[next(iter(self._sent))]
        return EncodedInput(key, () if key in self._cached_keys else buffers)


def _is_constant(value: object) -> bool:
    return type(value) is str or type(value) is bytes


def _is_same(sent: _SentValue, value: object) -> bool:
    if sent.value is not None:
        return sent.value is value or (type(sent.value) is type(value) and bool(sent.value == value))
    return sent.mark is not None and sent.mark == _fingerprint(value)


def _fingerprint(value: object) -> bytes | None:
    """Return a hash that differs if values of plain types differ; None for other types.

    Version 2 of marshal's format has no references, which would depend on other holders of the parts. Objects with a
    buffer, such as arrays, have the form of bytes: no fingerprint is kept of a value that has such a part, and a value
    that has one now differs from a value that had none.
    """
    if _is_constant(value):
        return None
    try:
        return hashlib.sha256(marshal.dumps(value, 2)).digest()  # type: ignore[arg-type]
    except ValueError:  # another type, or nested too deeply
        return None
