"""Hypothesis strategies that several test modules share."""

from __future__ import annotations

import datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests import examples

FEW = examples.at_most(40)  # for tests whose examples are large: the whole folder takes seconds

# "$" marks the codec's tags; the surrogates are what os.fsdecode makes of bytes that are no UTF-8.
_AWKWARD = st.text(st.sampled_from('$v\0\n"\\é\u2028\U0001f600\udc80\udcff'), max_size=6)
TEXTS = st.text(max_size=8) | _AWKWARD

# In whole seconds: Python 3.10 reads back an offset below one second as none.
_OFFSETS = st.integers(-86_399, 86_399).map(lambda seconds: datetime.timedelta(seconds=seconds))
_ZONES = st.none() | st.just(datetime.timezone.utc) | _OFFSETS.map(datetime.timezone)

_HASHABLE_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(2**200), max_value=2**200),
    st.floats(allow_nan=False),
    TEXTS,
    st.binary(max_size=8),
    st.complex_numbers(allow_nan=False),
    st.datetimes(timezones=_ZONES),
    st.dates(),
    st.times(timezones=_ZONES),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
    st.lists(st.sampled_from(["a", "..", "b c", "ü", "x.txt"]), max_size=3).map(lambda parts: Path(*parts)),
)
HASHABLES = st.recursive(
    _HASHABLE_LEAVES,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)
# Whatever the codec carries and gives back equal.
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(HASHABLES, st.floats(), st.just(Decimal("NaN"))),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(TEXTS, inner, max_size=4),
        st.dictionaries(HASHABLES, inner, max_size=3),
        st.sets(HASHABLES, max_size=4),
    ),
    max_leaves=12,
)

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=6,
)
JSON_OBJECTS = st.dictionaries(TEXTS, JSON, max_size=3)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Return ``data`` in pieces, cut at ``places`` modulo its length."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]
