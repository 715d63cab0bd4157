"""Descriptions of a namespace's variables, and that none of their code runs for it."""

from __future__ import annotations

import asyncio
import collections
import datetime
import decimal
import gc
import json
import os
import sys
import threading
import types
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.guest.kernel import inspector as inspecting
from daytona_kernel_interp.guest.kernel.inspector import describe, summarize
from daytona_kernel_interp.wire.inspect_messages import MAX_INSPECT_BYTES, MAX_VARIABLES, PREVIEW_CHARS
from tests import examples

pytestmark = pytest.mark.python


class Touched(BaseException):
    """Raised when code of a value runs. Derives from BaseException, so that no ``except Exception`` hides it."""


def _touch(*args: Any, **kwargs: Any) -> Any:
    raise Touched


class Meta(type):
    """A metaclass whose every method raises."""

    __instancecheck__ = __subclasscheck__ = __hash__ = __eq__ = __call__ = __repr__ = _touch
    __getattribute__ = __len__ = __iter__ = __bool__ = _touch
    __name__ = __module__ = __mro__ = property(_touch)


_METHODS = (
    *("__repr__", "__str__", "__len__", "__getattribute__", "__getattr__", "__iter__", "__bool__", "__hash__"),
    *("__eq__", "__format__", "__sizeof__", "__index__", "__int__", "__float__", "__getitem__", "__contains__"),
    *("__next__", "__reduce__", "__dir__", "__array__", "keys", "items", "values", "item", "tolist", "isoformat"),
)
_BODY = {"__module__": "__main__", **dict.fromkeys(_METHODS, _touch)}
_PROPERTIES = dict.fromkeys(("__class__", "shape", "dtype", "size", "nbytes"), property(_touch))
_BASES: tuple[type, ...] = (list, dict, tuple, set, str, int, float, bytes, collections.deque)
_CLASSES: list[Any] = [
    *(type("Hostile", (base,), dict(_BODY)) for base in _BASES),
    type("Hostile", (), {**_BODY, **_PROPERTIES}),
    type.__new__(Meta, "Hostile", (), {**_BODY, **_PROPERTIES}),
]
_NOTHING = [None, None, "", "variable"]


def _make(cls: Any) -> Any:
    base: Any = next((base for base in _BASES if type.__subclasscheck__(base, cls)), object)
    return base.__new__(cls)


@pytest.mark.parametrize("number", range(len(_CLASSES)))
def test_hostile_values_are_their_type(number: int) -> None:
    """A value whose methods, properties and metaclass all raise has the name of its type, also within a container."""
    cls = _CLASSES[number]
    value = _make(cls)
    assert describe("x", value) == ["x", "Hostile", *_NOTHING]
    assert describe("x", cls)[4] == "class Hostile"
    assert describe("x", [value, {"k": value}, (cls,)])[4] == "[<Hostile>, {'k': <Hostile>}, (<class Hostile>,)]"
    assert not inspecting.is_large([value, cls])


def test_a_class_that_lies_is_not_believed() -> None:
    """A class with the ``__class__``, or the name and module, of a known one is not treated as that."""
    lies = {"__class__": property(lambda self: list), "shape": property(_touch), "dtype": property(_touch)}
    for module, name in (("numpy", "ndarray"), ("pandas", "DataFrame"), ("torch", "Tensor"), ("polars", "Series")):
        cls = type(name, (), {**lies, "__module__": module})
        assert describe("x", cls())[1:] == [f"{module}.{name}", *_NOTHING]


def test_code_that_runs_all_the_same_does_not_end_the_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """If code runs after all, such as a finalizer, its exit affects one row only."""
    monkeypatch.setitem(inspecting._HANDLERS, id(complex), ("variable", None, _touch))
    rows, _ = summarize({"a": 1, "b": 2j, "c": 3}, {})
    assert [row[4] for row in rows] == ["1", "", "3"]
    assert rows[1] == ["b", "complex", sys.getsizeof(2j), *_NOTHING[1:]]


def test_names_that_are_no_plain_text() -> None:
    """Names of variables, classes and modules that are no plain str are skipped or replaced."""
    evil = types.new_class("Text", (str,), {}, lambda body: body.update({"__getitem__": _touch, "__format__": _touch}))
    cls = type("C", (), {})
    cls.__name__ = evil("C")
    cls.__module__ = evil("m")
    rows, left_out = summarize({evil("a"): 1, 5: 2, "b": cls()}, {})  # type: ignore[dict-item]
    assert (rows, left_out) == ([["b", "?", *_NOTHING]], 0)


KNOWN: list[tuple[Any, str, list[int] | None, str]] = [
    (1, "int", None, "1"),
    (10**1000, "int", None, "<int of 3,322 bits>"),
    (True, "bool", None, "True"),
    (1.5, "float", None, "1.5"),
    (None, "NoneType", None, "None"),
    ("a'b", "str", [3], '"a\'b"'),
    (b"ab", "bytes", [2], "b'ab'"),
    ([1, "a", [2]], "list", [3], "[1, 'a', [2]]"),
    (list(range(100)), "list", [100], "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …]"),
    ((1,), "tuple", [1], "(1,)"),
    ((1, 2), "tuple", [2], "(1, 2)"),
    ((), "tuple", [0], "()"),
    (set(), "set", [0], "set()"),
    (frozenset(), "frozenset", [0], "frozenset()"),
    (collections.deque(), "collections.deque", [0], "deque([])"),
    ({"a": 1}, "dict", [1], "{'a': 1}"),
    ([[[[[1]]]]], "list", [1], "[[[[…]]]]"),
    ({1}, "set", [1], "{1}"),
    (collections.Counter("aa"), "collections.Counter", [1], "{'a': 2}"),
    (range(3), "range", None, "range(0, 3, 1)"),
    (datetime.date(2026, 1, 2), "datetime.date", None, "2026-01-02"),
    (
        datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc),
        "datetime.datetime",
        None,
        "2026-01-02T00:00:00 datetime.timezone",
    ),
    (decimal.Decimal("1.50"), "decimal.Decimal", None, "Decimal('1.50')"),
    (json, "module", None, "module json"),
    (lambda a, *b, c=1: a, "function", None, "<lambda>(a, c, …)"),
    (len, "builtin_function_or_method", None, "len()"),
    (Touched, "type", None, "class tests.Touched"),
]


@pytest.mark.parametrize(
    ("value", "cls", "shape", "preview"), KNOWN, ids=[f"{i}-{row[1]}" for i, row in enumerate(KNOWN)]
)
def test_known_types(value: Any, cls: str, shape: list[int] | None, preview: str) -> None:
    """Each known type has its length or shape and a short text."""
    row = describe("x", value)
    assert (row[1], row[3], row[4]) == (cls, shape, preview)


@examples.at_most(40)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.decimals() | st.dates(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
        max_leaves=40,
    )
)
def test_every_plain_value_has_a_bounded_row(value: Any) -> None:
    """A row can be sent as JSON, and its preview is short."""
    row = describe("x", value)
    assert json.loads(json.dumps(row)) == row
    assert len(row[4]) <= 2 * PREVIEW_CHARS + 60


def test_a_large_namespace_is_bounded() -> None:
    """Beyond the limits the newest variables are listed, and the others counted."""
    rows, left_out = summarize({f"v{i}": i for i in range(MAX_VARIABLES + 50)}, {})
    assert (len(rows), left_out, rows[-1][0]) == (MAX_VARIABLES, 50, f"v{MAX_VARIABLES + 49}")
    wide, more = summarize({f"{'é' * 150}{i}": "é" * 500 for i in range(MAX_VARIABLES)}, {})
    assert len(json.dumps(wide)) <= MAX_INSPECT_BYTES + 10_000
    assert len(wide) + more == MAX_VARIABLES
    assert more > 0


def test_names_of_ours_and_of_ipython_are_hidden() -> None:
    """Names of IPython and the bridge are skipped while they have the same object."""
    ours = {"llm_query": len, "In": []}
    namespace = {
        **ours,
        "_": 1,
        "_12": 2,
        "_i": "",
        "__name__": "x",
        "__dspy_token": "",
        "_dspy_sys": 1,
        "_DspyProxy": 1,
        "_mine": 3,
    }
    assert [row[0] for row in summarize(namespace, ours)[0]] == ["_mine"]
    namespace["llm_query"] = min
    assert [row[0] for row in summarize(namespace, ours)[0]] == ["llm_query", "_mine"]


def test_tools_by_which_dspy_does_its_work_are_not_shown() -> None:
    """DSPy's internal tools are left out; a tool of the user whose name begins with an underscore is listed."""
    offered = {**dict.fromkeys(["look", "__dspy_call__", "_mine", "llm_query"], len), "ToolError": RuntimeError}
    assert inspecting.shown_tools(offered) == ["look", "_mine", "llm_query"]


def test_a_namespace_that_changes_meanwhile() -> None:
    """A thread may change the namespace and its containers during a summary."""
    namespace: dict[str, Any] = {"d": {}, "s": set(), "l": []}
    stop = threading.Event()

    def churn() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            namespace[f"v{n % 500}"] = n
            namespace.pop(f"v{(n * 7) % 500}", None)
            namespace["d"][n % 100] = n
            namespace["d"].pop((n * 3) % 100, None)
            namespace["s"] ^= {n % 50}
            namespace["l"][: n % 5] = range(n % 9)
            del namespace["l"][200:]

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(300):
            rows, _ = summarize(namespace, {})
            assert {"d", "s", "l"} <= {row[0] for row in rows}
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(before)


def test_a_finalizer_that_changes_the_namespace() -> None:
    """Garbage collection may run a finalizer during a summary, which changes the namespace."""
    namespace: dict[str, Any] = {f"v{i}": [i] for i in range(100)}

    class Cycle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            namespace[f"new{len(namespace)}"] = 1

    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(50):
            Cycle()
            assert len(summarize(namespace, {})[0]) >= 100
    finally:
        gc.set_threshold(*threshold)


def test_one_variable_has_more_items_than_a_row() -> None:
    """The description of a single variable has as many items as its text has room for."""
    value = {"numbers": list(range(100)), "text": "x" * 200}
    assert "8, 9, …], 'text': 'xxx" in describe("value", value)[4]
    assert describe("value", value, 10_000)[4] == repr(value)
    assert describe("value", list(range(10**6)), 10_000)[4].endswith("498, 499, …]")


def test_what_would_take_long_to_show() -> None:
    """A value whose own repr would hold the kernel is recognised without running any of its code."""
    hostile = _make(_CLASSES[0])
    list.append(hostile, "x" * 10**6)
    large = [
        "x" * 10**6,
        [["x" * 200] * 1000],
        dict.fromkeys(range(10**5)),
        1 << 10**6,
        collections.deque([""] * 10**5),
    ]
    assert [inspecting.is_large(value) for value in [*large, hostile]] == [True] * 6
    itself: list[object] = []
    itself.append(itself)
    small = [[1, {"a": (b"b", 2.5)}], itself, object()]
    assert not any(map(inspecting.is_large, small))


def test_the_line_of_a_thread() -> None:
    """The line is that of the outermost frame in a file of a cell."""
    folder = os.path.join(os.sep, "cells")
    began, go_on = threading.Event(), threading.Event()
    code = compile("\n\ndef f():\n    began.set()\n    go_on.wait()\n\nf()\n", os.path.join(folder, "1.py"), "exec")
    thread = threading.Thread(target=exec, args=(code, {"began": began, "go_on": go_on}))
    thread.start()
    began.wait()
    try:
        assert inspecting.line_of_thread(thread.ident, folder) == 7
        assert inspecting.line_of_thread(thread.ident, os.path.join(os.sep, "nowhere")) is None
    finally:
        go_on.set()
        thread.join()


async def test_tasks_are_named_by_their_coroutine() -> None:
    """Pending tasks of asyncio's own class have their coroutine's name; others are left out."""

    class Mine(asyncio.Task):  # type: ignore[type-arg]
        done = get_coro = _touch

    async def fetch() -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(fetch())
    mine: Any = Mine(fetch(), loop=asyncio.get_running_loop())
    over = asyncio.create_task(asyncio.sleep(0))
    await over
    assert inspecting.task_names([task, mine, over, 5], ("/nowhere",)) == ["fetch"]
    assert inspecting.task_names([task], (os.path.dirname(__file__),)) == []
    task.cancel()
    asyncio.Task.cancel(mine)
    del Mine.done
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.wait({mine})
