"""Tests of ``codec.hash_tables``: crafted keys are refused early, others are accepted, and the simulation is right."""

from __future__ import annotations

import datetime
import decimal
import random
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.codec import hash_tables
from daytona_kernel_interp.codec.hash_tables import DICT_WORK, SET_WORK, check_hash_work, hash_work
from daytona_kernel_interp.codec.values import dumps, loads
from daytona_kernel_interp.wire.protocol_errors import RemoteProtocolError
from tests import examples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.python


def on_one_path(slots: int) -> list[int]:
    """Return keys of different hashes whose searches in a dict of ``slots`` all walk along one path of full slots.

    The path is that of a search whose perturb is used up, in a third of the table. The other keys begin on it, and stay
    on it until their perturb is used up.
    """
    path = [1]
    while len(path) < slots // 3:
        path.append((5 * path[-1] + 1) % slots)
    keys, on_path, begin, number = list(path), set(path), path[: len(path) // 8], 0
    while len(keys) < 2 * (slots // 3) and number < 60 * slots:
        number += 1
        key = begin[number % len(begin)] + number * slots
        slot, perturb = key % slots, key
        while perturb and slot in on_path:
            perturb >>= 5
            slot = (5 * slot + 1 + perturb) % slots
        if slot in on_path:
            keys.append(key)
    return keys


def test_keys_on_one_path_are_refused_after_a_bounded_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Different hashes that meet on one path of slots: refused, after work in proportion to their number."""
    looked, search = 0, hash_tables._search_dict

    def counted(value: int, slots: int) -> Iterator[int]:
        nonlocal looked
        for slot in search(value, slots):
            looked += 1
            yield slot

    monkeypatch.setattr(hash_tables, "_search_dict", counted)
    for slots in (1 << 12, 1 << 13):
        keys, looked = on_one_path(slots), 0
        assert len(set(map(hash, keys))) == len(keys)
        with pytest.raises(RemoteProtocolError, match="chosen so that the table takes too long to build"):
            check_hash_work(keys, for_set=False)
        assert looked < DICT_WORK * len(keys)


CRAFTED: dict[str, Callable[[int], list[Any]]] = {
    "one hash": lambda n: [number * ((1 << 61) - 1) for number in range(n)],
    "one hash, big integers": lambda n: [(number << 3000) * ((1 << 61) - 1) for number in range(n)],
    "one hash, tuples": lambda n: [(number * ((1 << 61) - 1), "x") for number in range(n)],
    "one hash, floats and integers": lambda n: [2.0**61 * 2.0 ** (61 * number) for number in range(1, 15)] * (n // 14),
}


@pytest.mark.parametrize("for_set", [False, True], ids=["dict", "set"])
@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_keys_are_refused(name: str, for_set: bool) -> None:
    """Whatever their type, keys that share their searches are refused."""
    with pytest.raises(RemoteProtocolError):
        check_hash_work(CRAFTED[name](3_000), for_set=for_set)


def test_few_long_keys_of_one_hash_are_refused() -> None:
    """Ninety tuples of one hash with a long equal beginning: comparing them is the work."""
    beginning = (0,) * 100_000
    keys = [(*beginning, number * ((1 << 61) - 1)) for number in range(90)]
    assert len(set(map(hash, keys))) == 1
    with pytest.raises(RemoteProtocolError):
        check_hash_work(keys, for_set=True)


@pytest.mark.parametrize("tag", ["set", "frozenset", "dict"])
def test_a_value_with_crafted_keys_is_refused(tag: str) -> None:
    """Decoding a value refuses them before it builds the table."""
    items = [[key, 0] for key in on_one_path(1 << 12)] if tag == "dict" else CRAFTED["one hash"](5000)
    with pytest.raises(RemoteProtocolError):
        loads([f'{{"$":"{tag}","v":{items}}}'.encode()])


ORDINARY: dict[str, Callable[[int], list[Any]]] = {
    "numbers in a row": lambda n: list(range(n)),
    "negative numbers": lambda n: list(range(-n, 0)),
    "multiples of a power of two": lambda n: [number << 20 for number in range(n)],
    "multiples of a large power of two": lambda n: [number << 40 for number in range(n)],
    "high bits only": lambda n: [number << 59 for number in range(n)],
    "time stamps": lambda n: [1_700_000_000_000_000_000 + number * 10**9 for number in range(n)],
    "random numbers": lambda n: random.Random(1).sample(range(1 << 62), n),
    "big numbers": lambda n: [number * 10**30 for number in range(n)],
    "whole floats": lambda n: [float(number) for number in range(n)],
    "fractions": lambda n: [number / 7 for number in range(n)],
    "pairs": lambda n: [(number % 300, number // 300) for number in range(n)],
    "mixed": lambda n: [*range(n // 3), *(str(number) for number in range(n // 3)), *(x / 3 for x in range(n // 3))],
    "dates": lambda n: [datetime.date.fromordinal(700_000 + number) for number in range(n)],
    "decimals": lambda n: [decimal.Decimal(number) / 100 for number in range(n)],
}


@pytest.mark.parametrize("for_set", [False, True], ids=["dict", "set"])
@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_keys_are_accepted(name: str, for_set: bool) -> None:
    """Keys that people use need a few slots each."""
    for count in (3, 1000, 4_000):
        keys = ORDINARY[name](count)
        work = hash_work(keys, for_set=for_set)
        assert work is not None
        assert work <= (SET_WORK if for_set else DICT_WORK) * count
        check_hash_work(keys, for_set=for_set)


@examples.at_most(200)
@given(keys=st.sets(st.one_of(st.integers(), st.floats(allow_nan=False), st.tuples(st.integers(), st.text()))))
def test_any_few_keys_come_back(keys: set[Any]) -> None:
    """A set that a property test draws is accepted and comes back equal."""
    assert loads(dumps(keys)) == keys
    assert loads(dumps(dict.fromkeys(keys))) == dict.fromkeys(keys)


def test_texts_are_not_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes of str and bytes use a secret of the process."""
    monkeypatch.setattr(hash_tables, "hash_work", lambda *_, **__: None)
    if sys.flags.hash_randomization:
        check_hash_work([str(number) for number in range(1000)], for_set=True)
    with pytest.raises(RemoteProtocolError):
        check_hash_work([*map(str, range(1000)), 1], for_set=True)


# --- the simulation is the interpreter's -----------------------------------------------------------------------


@examples.at_most(100)
@given(keys=st.lists(st.integers(-(1 << 63), 1 << 63), unique=True, min_size=5, max_size=300))
def test_a_set_has_its_keys_where_the_simulation_puts_them(keys: list[int]) -> None:
    """A set made of a dict is built in one table, in order; iterating over it shows the slots."""
    real = list(set(dict.fromkeys(keys)))
    slots = 8
    while slots <= 2 * len(keys):
        slots *= 2
    table: dict[int, int] = {}
    for key in keys:
        table[next(slot for slot in hash_tables._search_set(hash(key), slots) if slot not in table)] = key
    assert real == [table[slot] for slot in sorted(table)]


@pytest.mark.parametrize("for_set", [False, True], ids=["dict", "set"])
def test_the_tables_have_the_sizes_of_the_interpreter(for_set: bool) -> None:
    """The memory of a real dict or set grows exactly where the simulated one gets another table."""
    count = 3000
    real: Any = set() if for_set else {}
    grows, before = [], 0
    for number in range(count):
        real.update([number] if for_set else {number: None})
        if sys.getsizeof(real) != before:
            grows.append(number + 1)
            before = sys.getsizeof(real)
    held = [filled for _, filled in hash_tables._tables(count, for_set=for_set)]
    expected = held[:-1] if for_set else [1, *(filled + 1 for filled in held[:-1])]
    assert [number for number in grows if number > 1] == [number for number in expected if number > 1]


def test_few_keys_of_one_hash_are_accepted() -> None:
    """A hundred keys of one hash are few enough."""
    keys = [number * ((1 << 61) - 1) for number in range(100)]
    assert hash_work(keys, for_set=False) is not None
