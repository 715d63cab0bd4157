"""Tests of ``codec.structure``: where in a value a part is that cannot be encoded."""

from __future__ import annotations

import collections
import dataclasses
import re
from typing import Any, NamedTuple

import pytest

from daytona_kernel_interp.codec.structure import ARGUMENTS, FIELDS
from daytona_kernel_interp.codec.values import UnsupportedValue, dumps

pytestmark = pytest.mark.python


@dataclasses.dataclass
class Answer:
    items: Any = None


class Pair(NamedTuple):
    left: Any
    right: Any = None


BAD = object()


@pytest.mark.parametrize(
    ("value", "root", "place"),
    [
        ({"answer": Answer([1, 2, 3, BAD])}, FIELDS, "answer.items[3]"),
        ({"a": 1, "answer": {"items": [BAD]}}, FIELDS, "answer['items'][0]"),
        ([[1, {"k": BAD}], {}], ARGUMENTS, "argument 2['k']"),
        ([[], {"query": (BAD,)}], ARGUMENTS, "argument query[0]"),
        ([[BAD], {}], ARGUMENTS, "argument 1"),
        ([1, {2: {"x": collections.deque([0, BAD])}}], "v", "v[1][2]['x'][1]"),
        (Pair(1, Pair(BAD)), "v", "v.right.left"),
        ({"k" * 100: BAD}, "v", f"v['{'k' * 40}'...]"),
        ({(1, 2): BAD}, "v", "v[...]"),
        ([{1, BAD}], "v", "v[0]{...}"),
        ({BAD: 1}, "v", "v.keys()"),
        (collections.defaultdict(list, a=[BAD]), "v", "v['a'][0]"),
        ({"a": [BAD]}.values(), "v", "v{...}[0]"),
    ],
)
def test_the_error_says_where(value: Any, root: str, place: str) -> None:
    """The type and the expression of the part."""
    with pytest.raises(UnsupportedValue, match=f"^Unsupported value type: object at {re.escape(place)}$"):
        dumps(value, root=root)


def test_a_model_has_fields_too() -> None:
    """The fields of a pydantic model are named like attributes."""
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("Model", a=(Any, ...))
    with pytest.raises(UnsupportedValue, match=r"at value\.a\[0\]$"):
        dumps(model(a=[BAD]))


def test_a_value_without_parts_has_no_place() -> None:
    """The text ends with the type."""
    with pytest.raises(UnsupportedValue, match=r"^Unsupported value type: object$"):
        dumps(BAD)


def test_a_long_way_is_cut() -> None:
    """The text stays short, and the search ends."""
    value: Any = BAD
    for _ in range(150):
        value = [value]
    with pytest.raises(UnsupportedValue, match=r"at value(\[0\]){16}\.\.\.$"):
        dumps(value)


def test_a_place_is_found_only_where_there_is_one() -> None:
    """An error of the whole value, such as its depth, has no place."""
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(UnsupportedValue, match=r"contains itself$"):
        dumps({"a": circle})
