"""Inputs: which variables the kernel has from earlier cells, so that what did not change is not sent again.

A large value is known by the hash of its encoding. That costs encoding it, which can often be spared: an exact ``str``
or ``bytes`` cannot change, so the same object, or an equal one, is the same value. Anything else may have been changed
in place; where it consists of nothing but Python's plain types, its ``marshal`` form tells, ten times as fast to make
as the encoding.
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
    """A variable on its way: ``buffers`` is empty if the kernel has it, ``key`` if the value is a small one."""

    key: str
    buffers: Sequence[values.Buffer]


@dataclass(frozen=True)
class _SentValue:
    key: str
    value: object  # an exact str or bytes; the reference keeps its identity from being another's
    mark: bytes | None  # hash of the marshal form of any other value
    arrow: bool  # whether its frames went as Arrow IPC: it has another hash then


class SentInputs:
    """What one interpreter's kernel has."""

    def __init__(self) -> None:
        self._sent: dict[str, _SentValue] = {}
        self._cached_keys: frozenset[str] = frozenset()

    def set_cached_keys(self, keys: Sequence[str]) -> None:
        """The kernel tells after each cell which values it keeps, and whether it has pyarrow.

        Without that, or with another kernel, it has none.
        """
        self._cached_keys = frozenset(keys)

    def forget(self) -> None:
        """Let go of the values."""
        self._sent, self._cached_keys = {}, frozenset()

    def encode(self, name: str, value: object, max_bytes: int | None) -> EncodedInput:
        """Return what to send for a variable.

        Raises:
            UnsupportedValue, ValueTooLarge: As for :func:`values.dumps`.
        """
        sent = self._sent.get(name)
        has_it = sent is not None and sent.key in self._cached_keys
        if sent is not None and has_it and _is_same(sent, value):
            return EncodedInput(sent.key, ())
        arrow = sent.arrow if sent is not None and has_it else HAS_ARROW in self._cached_keys
        buffers, exact = values.encode(value, max_bytes=max_bytes, arrow=arrow)
        if sum(map(len, buffers)) < values.LARGE_BYTES:
            self._sent.pop(name, None)
            return EncodedInput("", buffers)
        key = hash_of(buffers)
        constant, mark = value if _is_constant(value) else None, _fingerprint(value) if exact else None
        self._store(name, _SentValue(key, constant, mark, arrow))
        return EncodedInput(key, () if key in self._cached_keys else buffers)

    def _store(self, name: str, sent: _SentValue) -> None:
        self._sent.pop(name, None)
        self._sent[name] = sent
        if len(self._sent) > _MAX_NAMES:
            del self._sent[next(iter(self._sent))]


def _is_constant(value: object) -> bool:
    return type(value) is str or type(value) is bytes


def _is_same(sent: _SentValue, value: object) -> bool:
    if sent.value is not None:
        return sent.value is value or (type(sent.value) is type(value) and bool(sent.value == value))
    return sent.mark is not None and sent.mark == _fingerprint(value)


def _fingerprint(value: object) -> bytes | None:
    """Return a hash that differs wherever values of plain types differ, or None.

    Version 2 of the format has no references, which would depend on who else holds the parts. Objects with a buffer,
    such as arrays, look like bytes in it: the caller does not ask for values that had any, and a value that has some
    now cannot look like one that had none.
    """
    if _is_constant(value):
        return None
    try:
        return hashlib.sha256(marshal.dumps(value, 2)).digest()  # type: ignore[arg-type]
    except ValueError:  # of another type, or too deep
        return None
