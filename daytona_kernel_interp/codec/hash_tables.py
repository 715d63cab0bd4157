"""Refuse keys that would make a hash table of the host quadratic.

Theory of operation
-------------------
A dict or set from a sandbox is built by one call into C code, which holds the GIL. With chosen keys it takes hours:
Python's hashes of numbers and tuples use no secret, so an attacker can compute keys whose searches for a free slot all
pass through the same occupied slots. That needs neither equal hashes nor equal low bits: a search is a fixed sequence
of slots (``i = 5 * i + perturb + 1``), and keys with different hashes can meet on it.

So no property of the keys is tested. :func:`check_hash_work` makes the same searches as the interpreter, on a table of
hashes, before the real table is built, and counts the slots that are looked at. It follows Objects/dictobject.c and
Objects/setobject.c of CPython 3.10 to 3.14: the order of the slots, when a table grows and to what size. Each growth
inserts all keys again, so each is counted. At a slot that holds an equal hash the interpreter compares the keys, and
that counts as the size of the key.

*Why it holds.* The real table is built only if the simulated work is at most ``DICT_WORK`` or ``SET_WORK`` slots for
each key, plus a constant. The simulation stops there, and at the first search longer than ``LONGEST_SEARCH``, so its
own work is linear, too. It is a Python loop, during which other threads run.

*What is accepted.* A dict is at most two thirds full and a set three fifths, so random keys need about two slots. Keys
such as multiples of 2**40 share their first slots until the high bits count: at most 13 slots for 64 bits.

Two kinds of keys are accepted without a simulation. Hashes of ``str`` and ``bytes`` depend on a secret of the process.
Consecutive integers have consecutive slots in every table on the way, so no search meets an occupied one.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ..wire.protocol_errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

# Slots for each key. A set looks at ten that lie side by side, which takes little more time than one.
DICT_WORK, SET_WORK = 64, 256
LONGEST_SEARCH = 1024
_SPARE_WORK = 20_000  # a few keys are accepted whatever their work: it takes less than a millisecond
_FEW = 16
_LINEAR_PROBES = 9  # Objects/setobject.c, LINEAR_PROBES
_PERTURB_SHIFT = 5  # both files
_HASH_MASK = (1 << sys.hash_info.width) - 1  # perturb is unsigned
_SECRET_HASHES = frozenset({str, bytes}) if sys.flags.hash_randomization else frozenset[type]()


def check_hash_work(keys: Collection[Any], *, for_set: bool) -> None:
    """Check that a dict, or a set, of ``keys`` can be built in time proportional to their number.

    Raises:
        RemoteProtocolError: If the keys were chosen to make the table slow.
        TypeError: If a key is not hashable.
    """
    if _SECRET_HASHES.issuperset(map(type, keys)):
        return
    if isinstance(keys, list) and _consecutive(keys):
        return
    if len(keys) <= _FEW and not any(isinstance(key, (tuple, frozenset)) for key in keys):
        return
    if hash_work(keys, for_set=for_set) is None:
        raise RemoteProtocolError("keys of a dict or set were chosen so that the table takes too long to build")


def hash_work(keys: Collection[Any], *, for_set: bool) -> int | None:
    """Return how many slots are looked at to build a dict or set of ``keys``; None if they are too many."""
    keys, hashes = list(keys), list(map(hash, keys))
    search = _search_set if for_set else _search_dict
    limit = (SET_WORK if for_set else DICT_WORK) * len(keys) + _SPARE_WORK
    work = len(keys)
    for slots, count in _tables(len(keys), for_set=for_set):
        table: list[int | None] = [None] * slots
        for index, value in enumerate(hashes[:count]):
            if table[first := value & (slots - 1)] is None:  # as for most keys
                table[first] = value
                continue
            length = 0
            for slot in search(value, slots):
                found = table[slot]
                if found is None:
                    table[slot] = value
                    break
                length += _comparison(keys[index]) if found == value else 1
                if length > LONGEST_SEARCH and work + length > _SPARE_WORK:
                    return None
            work += length
            if work > limit:
                return None
    return work


def _consecutive(keys: list[Any]) -> bool:
    return type(keys[0]) is int and keys == list(range(keys[0], keys[0] + len(keys)))


def _tables(count: int, *, for_set: bool) -> Iterator[tuple[int, int]]:
    """Yield the size of each table on the way to ``count`` keys, and how many keys are inserted into it."""
    slots = 8
    while True:
        mask = slots - 1
        # A set grows when fill * 5 >= mask * 3, a dict when its two thirds are used and another key comes.
        held = -(-mask * 3 // 5) if for_set else slots * 2 // 3
        yield slots, min(count, held)
        if count <= held and not (for_set and count == held):
            return
        least = held * (2 if held > 50_000 else 4) + 1 if for_set else held * 3
        while slots < least:
            slots *= 2


def _search_dict(value: int, slots: int) -> Iterator[int]:
    mask, perturb = slots - 1, value & _HASH_MASK
    slot = value & mask
    while True:
        yield slot
        perturb >>= _PERTURB_SHIFT
        slot = (slot * 5 + perturb + 1) & mask


def _search_set(value: int, slots: int) -> Iterator[int]:
    mask, perturb = slots - 1, value & _HASH_MASK
    slot = value & mask
    while True:
        yield slot
        if slot + _LINEAR_PROBES <= mask:
            yield from range(slot + 1, slot + _LINEAR_PROBES + 1)
        perturb >>= _PERTURB_SHIFT
        slot = (slot * 5 + 1 + perturb) & mask


def _comparison(key: Any) -> int:
    """Return an estimate of the work of comparing ``key`` with one of the same hash."""
    if isinstance(key, (tuple, frozenset)):
        return 1 + sum(map(_comparison, key))
    if isinstance(key, (str, bytes)):
        return 1 + len(key) // 64
    return 1 + key.bit_length() // 256 if isinstance(key, int) else 4
