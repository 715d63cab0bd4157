"""Tests of ``codec.values``."""

from __future__ import annotations

import collections
import contextlib
import copy
import dataclasses
import datetime
import enum
import fractions
import functools
import inspect
import json
import math
import pickle
import sys
import types
import uuid
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daytona_kernel_interp.codec import values
from daytona_kernel_interp.codec.records import Record, SequenceRecord
from daytona_kernel_interp.codec.values import (
    LARGE_BYTES,
    MAX_DEPTH,
    UnsupportedValue,
    ValueTooLarge,
    dumps,
    json_form,
    loads,
)
from daytona_kernel_interp.wire.protocol_errors import RemoteProtocolError
from tests.unit import strategies

pytestmark = pytest.mark.python

_HOUR = datetime.timezone(datetime.timedelta(hours=1))


class Point(NamedTuple):
    x: int
    y: Any = None


@dataclasses.dataclass
class Page:
    title: str
    items: list[Any] = dataclasses.field(default_factory=list)


class HashableDict(dict[str, int]):
    def __hash__(self) -> int:  # type: ignore[override]
        return 0


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


# These texts are format 1 in both directions. A change to one of them requires a new version.
GOLDEN_V1: list[tuple[Any, str]] = [
    (None, "null"),
    (True, "true"),
    (-5, "-5"),
    (2**63 - 1, "9223372036854775807"),
    (2**63, '{"$":"int","v":"0x8000000000000000"}'),
    (-(2**64), '{"$":"int","v":"-0x10000000000000000"}'),
    (0.1, "0.1"),
    (-0.0, "-0.0"),
    (math.inf, '{"$":"float","v":"inf"}'),
    (-math.inf, '{"$":"float","v":"-inf"}'),
    (math.nan, '{"$":"float","v":"nan"}'),
    ("é\n", '"\\u00e9\\n"'),
    ("é\n\udc80", '{"$":"text","v":"w6kK7bKA"}'),
    ([1, ["a"]], '[1,["a"]]'),
    ({"b": 1, "a": {}}, '{"b":1,"a":{}}'),
    ({"$": 1}, '{"$":"dict","v":[["$",1]]}'),
    ({1: 2, None: 3}, '{"$":"dict","v":[[1,2],[null,3]]}'),
    ((1, ()), '{"$":"tuple","v":[1,{"$":"tuple","v":[]}]}'),
    ({7}, '{"$":"set","v":[7]}'),
    (frozenset([7]), '{"$":"frozenset","v":[7]}'),
    (b"\0\xff", '{"$":"bytes","v":"AP8="}'),
    (1.5 - 2j, '{"$":"complex","v":["1.5","-2.0"]}'),
    (datetime.datetime(2024, 2, 29, 1, 2, 3, 4), '{"$":"datetime","v":"2024-02-29T01:02:03.000004"}'),
    (datetime.datetime(2024, 1, 1, tzinfo=_HOUR), '{"$":"datetime","v":"2024-01-01T00:00:00+01:00"}'),
    (datetime.date(2024, 2, 29), '{"$":"date","v":"2024-02-29"}'),
    (datetime.time(1, 2, tzinfo=datetime.timezone.utc), '{"$":"time","v":"01:02:00+00:00"}'),
    (datetime.timedelta(-1, 2, 3), '{"$":"timedelta","v":[-1,2,3]}'),
    (Decimal("1.10"), '{"$":"decimal","v":"1.10"}'),
    (fractions.Fraction(-1, 3), '{"$":"fraction","v":[-1,3]}'),
    (bytearray(b"\0\xff"), '{"$":"bytearray","v":[{"$":"bytes","v":"AP8="}]}'),
    (range(1, 9, 3), '{"$":"range","v":[1,9,3]}'),
    (collections.deque([1], 5), '{"$":"deque","v":[5,[1]]}'),
    (collections.OrderedDict(b=1, a=2), '{"$":"ordered","v":[["b",1],["a",2]]}'),
    (collections.Counter("aab"), '{"$":"counter","v":[["a",2],["b",1]]}'),
    (collections.defaultdict(list, {"a": [1]}), '{"$":"defaultdict","v":["list",{"a":[1]}]}'),
    (uuid.UUID(int=1), '{"$":"uuid","v":"00000000-0000-0000-0000-000000000001"}'),
    (Path("a/b"), '{"$":"path","v":"a/b"}'),
    (Record("Page", {"title": "t"}), '{"$":"record","v":["Page",[["title","t"]],false]}'),
]


def same(left: Any, right: Any) -> bool:
    """Return whether two values are equal and of the same types all the way down; nan equals nan."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return repr(left) == repr(right)
    if isinstance(left, Decimal):
        return str(left) == str(right)
    if isinstance(left, dict):
        pairs = zip(left.items(), right.items(), strict=False)
        return len(left) == len(right) and all(same(a, b) for a, b in pairs)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=False))
    return bool(left == right)


def nested(depth: int) -> list[Any]:
    """Return empty lists inside each other, ``depth`` of them."""
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


@pytest.mark.parametrize(("value", "text"), GOLDEN_V1, ids=[text for _, text in GOLDEN_V1])
def test_golden_texts(value: Any, text: str) -> None:
    """Format 1 writes and reads exactly these texts."""
    assert [bytes(buffer) for buffer in dumps(value)] == [text.encode("ascii")]
    assert same(loads([text.encode("ascii")]), value)


def test_golden_buffers() -> None:
    """Large parts are separate buffers, numbered from 1, in order."""
    text, data = "é" * LARGE_BYTES, bytes(LARGE_BYTES)
    buffers = dumps([text, data])
    assert buffers == [b'[{"$":"str_at","v":1},{"$":"bytes_at","v":2}]', text.encode(), data]
    assert loads(buffers) == [text, data]


def test_version_is_the_one_that_the_golden_texts_pin() -> None:
    """A new format comes with golden texts of its own."""
    assert values.VALUES_VERSION == 1


@given(strategies.VALUES)
def test_values_come_back_equal(value: Any) -> None:
    """Nested values of every supported type keep value, type and order."""
    assert same(loads(dumps(value)), value)


@strategies.FEW
@given(strategies.VALUES)
def test_buffers_may_be_memoryviews(value: Any) -> None:
    """pyzmq hands out memoryviews; they decode like bytes."""
    assert same(loads([memoryview(buffer) for buffer in dumps(value)]), value)


@pytest.mark.parametrize("size", [LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1])
def test_large_pieces_come_back_equal(size: int) -> None:
    """On either side of the threshold, text and bytes come back; lone surrogates too."""
    value = ["a" * size, b"\xff" * size, "é" * size, "\udc80" + "a" * size]
    assert loads(dumps(value)) == value


def test_adjacent_surrogates_stay_apart() -> None:
    """Two adjacent surrogates are not joined into the character that they encode in UTF-16."""
    assert loads(dumps("\ud83d\ude00")) == "\ud83d\ude00"


def test_what_is_decoded_is_fresh() -> None:
    """Two decoded values of the same buffers share no mutable object."""
    buffers = dumps({"a": [1]})
    first = loads(buffers)
    first["a"].append(2)
    assert loads(buffers) == {"a": [1]}


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        (memoryview(b"abcd")[::2], b"ac"),
        (Color.RED, "red"),
        (Level.HIGH, 3),
        ({Level.HIGH: Color.RED}, {3: "red"}),
        (types.MappingProxyType({"a": 1}), {"a": 1}),
        ({"a": 1}.keys(), ["a"]),
        ({"a": 1}.values(), [1]),
        ({"a": 1}.items(), [("a", 1)]),
        (PurePosixPath("/a"), Path("/a")),
        ({Point(1, 2): {range(2)}}, {(1, 2): {range(2)}}),
        (type("MyDeque", (collections.deque,), {})([1]), collections.deque([1])),
        (type("MyCounter", (collections.Counter,), {})("a"), collections.Counter("a")),
        (type("MyBytearray", (bytearray,), {})(b"a"), bytearray(b"a")),
        (type("MyFraction", (fractions.Fraction,), {})(1, 3), fractions.Fraction(1, 3)),
        (type("MyInt", (int,), {})(5), 5),
        (type("MyFloat", (float,), {})(0.5), 0.5),
        (type("MyStr", (str,), {})("s"), "s"),
        (type("MyBytes", (bytes,), {})(b"s"), b"s"),
        (type("MyList", (list,), {})([1]), [1]),
        (type("MyTuple", (tuple,), {})([1]), (1,)),
        (type("MySet", (set,), {})([1]), {1}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_kin_of_supported_types_arrive_as_these(value: Any, arrives: Any) -> None:
    """Subclasses and views are decoded as their plain base type."""
    assert same(loads(dumps(value)), arrives)


@pytest.mark.parametrize(
    "value",
    [
        collections.deque(maxlen=0),
        collections.deque([(1,), {2}, "a" * LARGE_BYTES], 10),
        fractions.Fraction(0),
        fractions.Fraction(2**4000, 3**2000),
        range(0),
        range(5, -5, -2),
        range(10**30, 10**30 + 5),
        bytearray(),
        bytearray(LARGE_BYTES + 1),
        collections.OrderedDict({1: 2, "$": 3, (4,): collections.OrderedDict()}),
        collections.Counter({1: -5, "a": 0.5}),
        collections.defaultdict(int, {1: 3}),
        collections.defaultdict(None, {"$": [1]}),
        [collections.defaultdict(set, a={1}), {"b": collections.deque([collections.deque()])}],
        {range(2), range(0, 2), fractions.Fraction(1, 2)},
    ],
    ids=lambda value: type(value).__name__,
)
def test_collections_and_exact_numbers_come_back_equal(value: Any) -> None:
    """Type, order, maximum length, step and factory are kept."""
    back = loads(dumps(value))
    assert same(back, value)
    assert getattr(back, "maxlen", None) == getattr(value, "maxlen", None)
    assert getattr(back, "default_factory", None) is getattr(value, "default_factory", None)
    json.dumps(json_form(value))


@pytest.mark.parametrize("factory", [lambda: 0, collections.Counter, functools.partial(list, ()), Page])
def test_a_factory_that_is_no_builtin_type_stays_behind(factory: Any) -> None:
    """The content arrives, and a missing key raises KeyError."""
    back = loads(dumps(collections.defaultdict(factory, a=1)))
    assert (type(back), back, back.default_factory) == (collections.defaultdict, {"a": 1}, None)
    with pytest.raises(KeyError):
        back["b"]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (fractions.Fraction(1 << 5000, 3), "a Fraction of more than 4096 bits"),
        ({type("Deque", (collections.deque,), {"__hash__": lambda self: 1})()}, "in a set or as a key: Deque"),
        ({type("Bytes", (bytearray,), {"__hash__": lambda self: 1})(): 1}, "in a set or as a key: Bytes"),
        ({type("Count", (collections.Counter,), {"__hash__": lambda self: 1})()}, "in a set or as a key: Count"),
    ],
    ids=["fraction", "deque", "bytearray", "counter"],
)
def test_what_cannot_be_built_there_is_refused_here(value: Any, says: str) -> None:
    """The error names the type."""
    with pytest.raises(UnsupportedValue, match=says):
        dumps(value)


def test_a_dataclass_arrives_as_a_record() -> None:
    """Fields are items and attributes and keep their types; the class is not sent."""
    page = loads(dumps(Page("t", [(1, 2)])))
    assert page == {"title": "t", "items": [(1, 2)]}
    assert (type(page), page.record_type) == (Record, "Page")
    assert page.title == "t"
    assert json.loads(json.dumps(page)) == {"title": "t", "items": [[1, 2]]}
    assert repr(page) == "Page(title='t', items=[(1, 2)])"


def test_a_namedtuple_also_reads_by_position() -> None:
    """Indices and slices work beside names."""
    point = loads(dumps(Point(1, 2)))
    assert (type(point), point.record_type) == (SequenceRecord, "Point")
    assert (point.x, point["y"], point[0], point[-1], point[:]) == (1, 2, 1, 2, [1, 2])


def test_a_missing_field_is_named() -> None:
    """A missing field raises AttributeError."""
    with pytest.raises(AttributeError, match="Page has no field 'nope'"):
        _ = Record("Page", {}).nope


@pytest.mark.parametrize("value", [Page("t", []), Point(1, 2)], ids=["dataclass", "namedtuple"])
def test_a_record_crosses_again_unchanged(value: Any) -> None:
    """A cell can send a received record back unchanged."""
    once = loads(dumps(value))
    twice = loads(dumps(once))
    assert (type(twice), twice, twice.record_type) == (type(once), once, once.record_type)


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_a_record_can_be_copied(duplicate: Any) -> None:
    """DSPy copies inputs and results, so copies and pickles of a record are records."""
    record = loads(dumps(Point(1, [2])))
    again = None
    with contextlib.suppress(RecursionError):  # pytest would take minutes to show it
        again = duplicate(record)
    assert again is not None
    assert (type(again), again, again.record_type) == (SequenceRecord, record, "Point")


def test_a_pydantic_model_arrives_as_a_record() -> None:
    """Fields and extra fields keep their types."""
    pydantic = pytest.importorskip("pydantic")

    model = pydantic.create_model("Model", a=(Any, ...), __config__={"extra": "allow"})
    record = loads(dumps(model(a=(1,), b={2})))
    assert (record, record.record_type) == ({"a": (1,), "b": {2}}, "Model")


def test_a_model_with_its_own_serializer_crosses_as_that() -> None:
    """A custom serializer defines the encoded form."""
    pydantic = pytest.importorskip("pydantic")

    def as_text(self: Any) -> str:
        return f"<{self.a}>"

    namespace = {
        "__module__": __name__,
        "__annotations__": {"a": int},
        "as_text": pydantic.model_serializer()(as_text),
    }
    model = type("Image", (pydantic.BaseModel,), namespace)
    assert loads(dumps([model(a=1)])) == ["<1>"]


@pytest.mark.parametrize(
    "value", [object(), len, int, sys, iter([]), lambda: 0, Page, ...], ids=lambda value: repr(value)[:20]
)
def test_what_no_codec_carries_is_refused_by_its_type(value: Any) -> None:
    """The error names the type at any depth."""
    for holder in (value, [value], {"a": (value,)}, Page("t", [value])):
        with pytest.raises(UnsupportedValue, match=type(value).__name__):
            dumps(holder)


@pytest.mark.parametrize(
    "value",
    [
        *({Point(1, 2)}, frozenset([Point(1)]), {Point(1, 2): "a"}, {(Point(1),): "a"}),
        *({range(2)}, {range(2): 1}, {HashableDict(a=1)}, {HashableDict(): 1}),
    ],
    ids=repr,
)
def test_what_is_encoded_can_be_decoded(value: Any) -> None:
    """A key or set element that would be decoded as unhashable is refused by the encoder."""
    try:
        buffers = dumps(value)
    except UnsupportedValue:
        return
    assert len(loads(buffers)) == 1


def test_depth_has_a_limit() -> None:
    """Nesting up to the limit is accepted; deeper nesting and circular references are refused."""
    deepest = nested(MAX_DEPTH + 1)
    assert loads(dumps(deepest)) == deepest
    with pytest.raises(UnsupportedValue, match="nests deeper"):
        dumps([deepest])
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(UnsupportedValue, match="contains itself"):
        dumps(circle)


def test_a_deep_caller_gets_a_clear_refusal() -> None:
    """A call with a nearly full stack raises no RecursionError."""

    def descend(left: int) -> None:
        if left:
            descend(left - 1)
            return
        with pytest.raises(UnsupportedValue, match="nests too deeply"):
            dumps(nested(MAX_DEPTH))

    frames = len(inspect.stack(0))
    descend(sys.getrecursionlimit() - frames - 150)


@pytest.mark.parametrize("depth", [MAX_DEPTH + 2, 900, 20_000])
@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: (v,), lambda v: {"a": v}, lambda v: collections.deque([v])])
def test_depth_beyond_the_limit_is_refused_by_name(depth: int, wrap: Any) -> None:
    """Neither a RecursionError nor a crash, whatever the containers are."""
    value: Any = 1
    for _ in range(depth):
        value = wrap(value)
    try:
        with pytest.raises(UnsupportedValue, match=f"^the value nests deeper than {MAX_DEPTH} levels"):
            dumps(value)
    finally:
        while not isinstance(value, int):  # a deque of deques is freed by recursion
            value = value["a"] if isinstance(value, dict) else value[0]


def test_the_far_side_refuses_depth_too() -> None:
    """Deeper nesting than an encoder produces is a protocol error, also if json raises RecursionError."""
    for depth in (MAX_DEPTH + 10, 100_000):
        with pytest.raises(RemoteProtocolError):
            loads([b"[" * depth + b"]" * depth])


@strategies.FEW
@given(strategies.VALUES, st.integers(0, 400))
def test_the_limit_holds(value: Any, limit: int) -> None:
    """The result of dumps never exceeds the limit."""
    try:
        buffers = dumps(value, max_bytes=limit)
    except ValueTooLarge:
        return
    assert sum(map(len, buffers)) <= limit


@pytest.mark.parametrize("value", ["a" * 30_000, [0] * 10_000], ids=["text", "list"])
def test_a_value_within_the_limit_passes(value: Any) -> None:
    """A limit of exactly the encoded size is accepted."""
    size = sum(map(len, dumps(value)))
    assert loads(dumps(value, max_bytes=size)) == value
    with pytest.raises(ValueTooLarge):
        dumps(value, max_bytes=size - 1)


def test_a_large_value_is_refused_before_it_is_encoded_whole() -> None:
    """The encoder stops at the limit and does not examine later items."""
    with pytest.raises(ValueTooLarge):
        dumps([b"x" * 1000, object()], max_bytes=500)


# --- what a hostile peer may send -----------------------------------------------------------------

_TAGS = st.sampled_from(
    [
        *("tuple", "set", "frozenset", "dict", "bytes", "text", "str_at", "bytes_at", "float", "int", "complex"),
        *("datetime", "date", "time", "timedelta", "decimal", "uuid", "path", "record", "object"),
    ]
)
_HOSTILE_TREES = st.recursive(
    st.one_of(st.integers(-2, 5), st.text(max_size=4), strategies.JSON),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.builds(lambda tag, value: {"$": tag, "v": value}, _TAGS | inner, inner),
        st.builds(lambda tag: {"$": tag}, _TAGS),
    ),
    max_leaves=8,
)


def assert_taken_or_refused(buffers: list[Any]) -> None:
    with contextlib.suppress(RemoteProtocolError):
        loads(buffers)


@given(st.lists(st.binary(max_size=30), max_size=3))
@example([])
def test_any_buffers_are_a_value_or_refused(buffers: list[bytes]) -> None:
    """Any bytes are a value or raise RemoteProtocolError."""
    assert_taken_or_refused(buffers)


@given(_HOSTILE_TREES, st.lists(st.binary(max_size=5), max_size=2))
@example({"$": "uuid", "v": 5}, [])
def test_any_tree_of_tags_is_a_value_or_refused(tree: Any, rest: list[bytes]) -> None:
    """Any content of a tag is a value or raises RemoteProtocolError."""
    assert_taken_or_refused([json.dumps(tree).encode(), *rest])


@strategies.FEW
@given(strategies.VALUES, st.data())
def test_any_damage_is_survived(value: Any, data: st.DataObject) -> None:
    """A valid encoding with changed, removed or inserted bytes is a value or refused."""
    head = bytearray(dumps(value)[0])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, max(0, len(head) - 1)))
        head[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    assert_taken_or_refused([bytes(head)])


@pytest.mark.parametrize(
    "text",
    [
        '{"$":"object","v":1}',
        '{"$":"tuple"}',
        '{"$":["tuple"],"v":[]}',
        '{"$":"set","v":[[]]}',
        '{"$":"dict","v":[[[],1]]}',
        '{"$":"dict","v":[[1]]}',
        '{"$":"str_at","v":0}',
        '{"$":"str_at","v":2}',
        '{"$":"str_at","v":-1}',
        '{"$":"str_at","v":true}',
        '{"$":"str_at","v":1}',
        '{"$":"bytes","v":"A"}',
        '{"$":"bytes","v":"=é="}',
        '{"$":"bytes","v":"Y*Q=="}',
        '{"$":"int","v":"0xg"}',
        '{"$":"uuid","v":"1"}',
        '{"$":"deque","v":[-1,[]]}',
        '{"$":"deque","v":[1]}',
        '{"$":"deque","v":[true,[]]}',
        '{"$":"deque","v":[null,{"a":1}]}',
        '{"$":"fraction","v":[1,0]}',
        '{"$":"fraction","v":[1.5,2]}',
        '{"$":"fraction","v":[true,2]}',
        '{"$":"range","v":[0,1,0]}',
        '{"$":"range","v":[0,1.0,1]}',
        '{"$":"range","v":[0,1048577,1]}',
        '{"$":"range","v":[0,{"$":"int","v":"0xffffffffffffffffffffffffff"},1]}',
        '{"$":"bytearray","v":[5]}',
        '{"$":"bytearray","v":[]}',
        '{"$":"ordered","v":[[[],1]]}',
        '{"$":"counter","v":[1]}',
        '{"$":"defaultdict","v":["eval",{}]}',
        '{"$":"defaultdict","v":["list",[]]}',
        '{"$":"defaultdict","v":[["list"],{}]}',
        '{"$":"defaultdict","v":[null]}',
        '{"$":"date","v":"yesterday"}',
        '{"$":"decimal","v":"one"}',
        '{"$":"record","v":["Page",[]]}',
        "NaN",
        "-Infinity",
        "[1",
    ],
)
def test_what_breaks_the_format_is_refused(text: str) -> None:
    """Unknown tags, wrong forms and missing buffers are protocol errors."""
    with pytest.raises(RemoteProtocolError):
        loads([text.encode(), b"\xff"])


def test_a_value_without_buffers_is_refused() -> None:
    """Even None has one buffer."""
    with pytest.raises(RemoteProtocolError, match="without buffers"):
        loads([])


def test_a_buffer_is_used_once() -> None:
    """Many references to one buffer must not expand to gigabytes."""
    with pytest.raises(RemoteProtocolError):
        loads([b'[{"$":"bytes_at","v":1},{"$":"bytes_at","v":1}]', b"x"])


# --- json_form ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "form"),
    [
        ((1, {2}, frozenset([3])), [1, [2], [3]]),
        ({1: (2,), None: 3}, {"1": [2], "None": 3}),
        (datetime.date(2024, 1, 2), "2024-01-02"),
        (datetime.datetime(2024, 1, 2, 3), "2024-01-02T03:00:00"),
        (datetime.time(1), "01:00:00"),
        (Color.RED, "red"),
        ([Level.HIGH], [3]),
        (Page("t", [Point(1)]), {"title": "t", "items": [{"x": 1, "y": None}]}),
        (b"ab", "b'ab'"),
        (Decimal("1.0"), "Decimal('1.0')"),
        (type("MyStr", (str,), {})("s"), "s"),
        (types.MappingProxyType({"a": 1}), {"a": 1}),
        ({"a": True, "b": None, "c": 0.5}, {"a": True, "b": None, "c": 0.5}),
    ],
    ids=repr,
)
def test_json_form(value: Any, form: Any) -> None:
    """Sets become lists, dates ISO text, records their fields, other values their repr."""
    assert same(json_form(value), form)


@strategies.FEW
@given(strategies.VALUES)
def test_json_form_can_be_dumped(value: Any) -> None:
    """json.dumps accepts every result of json_form."""
    json.dumps(json_form(value))


@strategies.FEW
@given(strategies.JSON)
def test_json_form_leaves_json_alone(value: Any) -> None:
    """JSON values are unchanged."""
    assert same(json_form(value), value)


def test_json_form_of_a_circle_ends() -> None:
    """A value that contains itself is truncated."""
    circle: list[Any] = []
    circle.append(circle)
    assert "..." in json.dumps(json_form(circle))
