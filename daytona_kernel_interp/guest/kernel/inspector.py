"""What a namespace holds, told without running any code of it. Sans-I/O.

Works on any thread while cells run. A value is looked into only if its type *is* one that is known here: what a class
says of itself (``__repr__``, ``__len__``, ``__class__``, properties, a metaclass) is never asked. Types are told by
their identity: in a dict, they would be compared by a metaclass's ``__hash__``. Other threads change what is looked at:
each step takes a piece in one go, and what fails all the same is shown by its type alone.
"""

from __future__ import annotations

import asyncio
import collections
import datetime
import decimal
import itertools
import re
import sys
import types
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, Any

from ...wire.inspect_messages import KINDS, MAX_INSPECT_BYTES, MAX_VARIABLES, PREVIEW_CHARS
from .inspector_libraries import summary_of, type_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sized

    from .inspector_libraries import ValueSummary

Row = list[Any]  # as of wire.inspect_messages.ROW

# What IPython, DSPy and Python's import system put into a namespace under names that are nobody's variables.
_HIDDEN_NAMES = re.compile(r"_{1,3}|_i{1,3}|_i?\d+|_(oh|dh|ih|exit_code)|__\w+__|__?[Dd]spy\w*")

_MAX_BITS = 256
_SMALL = 1 << 63
_MAX_ITEMS = 10  # in a row of a table; of one variable as many as its text has room for
_ITEM_CHARS = 20
_MAX_REPR_SIZE = 100_000  # characters and items
_MAX_DEPTH = 3
_ATTEMPTS = 20
_TASK: Any = asyncio.Task  # code in cells can replace asyncio's
_VARIABLE, _FUNCTION, _CLASS, _MODULE_KIND = KINDS


def summarize(namespace: dict[str, object], hidden: Mapping[str, object]) -> tuple[list[Row], int]:
    """Return a row for each variable, in the order they were made, and how many were left out for want of room.

    The newest stay. A name of ``hidden`` is passed over while it has the object that it has there.
    """
    rows: list[Row] = []
    room, left_out = MAX_INSPECT_BYTES, 0
    for name, value in reversed(list(copy_namespace(namespace).items())):
        if type(name) is not str or _HIDDEN_NAMES.fullmatch(name) or (name in hidden and hidden[name] is value):
            continue
        if len(rows) >= MAX_VARIABLES or room <= 0:
            left_out += 1
            continue
        row = describe_safely(name, value)
        room -= _cost(row)
        rows.append(row)
    return rows[::-1], left_out


def shown_tools(offered: Mapping[str, object]) -> list[str]:
    """Return the tools that are the host's own, not those by which DSPy does its work, nor their errors' class."""
    return [name for name, tool in offered.items() if type(tool) is not type and not _HIDDEN_NAMES.fullmatch(name)]


def describe_safely(name: str, value: object, chars: int = PREVIEW_CHARS) -> Row:
    """Return the row of one variable, come what may: should code of it run all the same, its exit is not the look's."""
    try:
        return describe(name, value, chars)
    except BaseException:
        return [name[:200], type_name(type(value)), None, None, "", _VARIABLE]


def describe(name: str, value: Any, chars: int = PREVIEW_CHARS) -> Row:
    """Return the row of one variable, of which no code runs."""
    cls = type(value)
    size, shape, preview, kind = None, None, "", _VARIABLE
    try:
        known = _HANDLERS.get(id(cls))
        if known is not None:
            kind, measure, sketch = known
            size = dict.__sizeof__(value) if issubclass(cls, dict) else sys.getsizeof(value)
            shape = measure(value) if measure else None
            preview = sketch(value, chars, 0)
        elif issubclass(cls, type):  # `type` is cls's ancestor: C code looks that up
            kind, preview = _CLASS, f"class {type_name(value)}"
        else:
            facts = summary_of(value, cls)
            size, shape, preview = facts.size, facts.shape, _library_text(facts, chars)
    except Exception:  # it changed under our eyes, or is broken in a way that nobody thought of
        preview = ""
    return [name[:200], type_name(cls), size, shape, preview, kind]


def is_large(value: object) -> bool:
    """Whether a value's own ``repr`` would keep the kernel busy: C code makes it, which nothing else interrupts.

    That can be told of Python's texts and containers. Subclasses count as what they are in C.
    """
    waiting: list[Any] = [value]
    room, seen = _MAX_REPR_SIZE, set()
    while waiting and room > 0:
        item = waiting.pop()
        base: Any = next((base for base in _MEASURED if issubclass(type(item), base)), None)
        room -= 1
        if base is int:
            room -= int.bit_length(item) // 3
        elif base in _TEXTS:
            room -= base.__len__(item)
        elif base is not None and id(item) not in seen:
            seen.add(id(item))
            try:
                items = itertools.chain.from_iterable(dict.items(item)) if base is dict else base.__iter__(item)
                waiting += itertools.islice(items, room)
            except RuntimeError:  # it is being changed
                return True
    return room <= 0


def copy_namespace(namespace: dict[str, object]) -> dict[str, object]:
    """Return a copy of a dict that other threads change; an empty one if it is none."""
    for _ in range(_ATTEMPTS if type(namespace) is dict else 0):
        try:
            return dict.copy(namespace)
        except RuntimeError:  # a finalizer ran in the middle of it and changed the namespace
            continue
    return {}


def _cost(row: Row) -> int:
    return 60 + sum(len(encode_basestring_ascii(text)) for text in (row[0], row[1], row[4]))


# --- Python's own types ---------------------------------------------------------------------------------------------


def _short_text(value: Any, chars: int, depth: int) -> str:
    """Return a text for a value in a container."""
    cls = type(value)
    known = _HANDLERS.get(id(cls))
    if known is None:
        return f"<{'class ' + type_name(value) if issubclass(cls, type) else type_name(cls)}>"
    text: str = known[2](value, chars, depth)
    return text


def _plain_text(value: object, chars: int, depth: int) -> str:
    return _cut(repr(value), chars)


def _integer(value: int, chars: int, depth: int) -> str:
    return repr(value) if value.bit_length() <= _MAX_BITS else f"<int of {value.bit_length():,} bits>"


def _text(value: str | bytes | bytearray, chars: int, depth: int) -> str:
    return _cut(repr(value) if len(value) <= chars else f"{value[: max(0, chars - 3)]!r}…", chars)


def _sequence(value: Collection[object], chars: int, depth: int) -> str:
    opening, closing, empty = _BRACKETS[id(type(value))]
    if not len(value):
        return empty
    closing = ",)" if type(value) is tuple and len(value) == 1 else closing
    return opening + _items(value, chars, depth, lambda item, left: _short_text(item, left, depth + 1)) + closing


def _mapping(value: dict[object, object], chars: int, depth: int) -> str:
    def pair(item: tuple[object, object], left: int) -> str:
        return f"{_short_text(item[0], left, depth + 1)}: {_short_text(item[1], left, depth + 1)}"

    return "{" + _items(dict.items(value), chars, depth, pair) + "}"


def _items(items: Collection[Any], chars: int, depth: int, sketch: Callable[[Any, int], str]) -> str:
    if depth >= _MAX_DEPTH:
        return "…" if len(items) else ""
    try:
        taken = list(itertools.islice(items, max(_MAX_ITEMS, chars // _ITEM_CHARS)))  # in one go: all of it is C code
    except RuntimeError:
        return "… changing …"
    parts: list[str] = []
    for item in taken:
        if chars <= 0:
            break
        small = type(item) is int and -_SMALL < item < _SMALL  # most often; it spares three calls
        parts.append(repr(item) if small else sketch(item, chars))
        chars -= len(parts[-1]) + 2
    return ", ".join(parts) + (", …" if len(items) > len(parts) else "")


def _range(value: range, chars: int, depth: int) -> str:
    parts = [_integer(number, chars, depth) for number in (value.start, value.stop, value.step)]
    return f"range({', '.join(parts)})"


def _datetime(value: datetime.date | datetime.time, chars: int, depth: int) -> str:
    if not isinstance(value, (datetime.datetime, datetime.time)):
        return value.isoformat()
    zone = "" if value.tzinfo is None else f" {type_name(type(value.tzinfo))}"  # a time zone is somebody's object
    return f"{value.replace(tzinfo=None).isoformat()}{zone}"


def _module(value: types.ModuleType, chars: int, depth: int) -> str:
    name = vars(value).get("__name__")  # unlike value.__name__ never a module's own __getattr__
    return f"module {name[:80]}" if type(name) is str else "module"


def _function(value: types.FunctionType, chars: int, depth: int) -> str:
    code = value.__code__
    count = code.co_argcount + code.co_kwonlyargcount
    names = [*code.co_varnames[:count], *(["…"] if code.co_flags & 0x0C else [])]  # *args, **kwargs
    return _cut(f"{_exact(code.co_name)}({', '.join(names)})", chars)


def _builtin(value: types.BuiltinFunctionType, chars: int, depth: int) -> str:
    return f"{value.__name__}()"


def _length(value: Sized) -> list[int]:
    return [len(value)]


def _pairs(value: dict[object, object]) -> list[int]:
    return [dict.__len__(value)]  # Counter is a class of Python's own, whose methods code can replace


def _exact(text: object) -> str:
    """Return a name that may be of a subclass of str, if it is not."""
    return text if type(text) is str else "?"


def _cut(text: str, chars: int) -> str:
    return text if len(text) <= chars else f"{text[: max(0, chars - 1)]}…"


def _handlers_by_type() -> dict[int, tuple[str, Any, Any]]:
    """Return what is known, by the identity of the type: kind, how it is measured, and how it is sketched."""
    plain = (bool, float, complex, type(None), type(...), type(NotImplemented), datetime.timedelta, decimal.Decimal)
    containers = (list, tuple, set, frozenset, collections.deque)
    mappings = (dict, collections.OrderedDict, collections.defaultdict, collections.Counter)
    return {
        **{id(cls): (_VARIABLE, None, _plain_text) for cls in plain},
        **{id(cls): (_VARIABLE, _length, _text) for cls in (str, bytes, bytearray)},
        **{id(cls): (_VARIABLE, _length, _sequence) for cls in containers},
        **{id(cls): (_VARIABLE, _pairs, _mapping) for cls in mappings},
        **{id(cls): (_VARIABLE, None, _datetime) for cls in (datetime.datetime, datetime.date, datetime.time)},
        id(types.FunctionType): (_FUNCTION, None, _function),
        id(int): (_VARIABLE, None, _integer),
        id(range): (_VARIABLE, None, _range),
        id(types.BuiltinFunctionType): (_FUNCTION, None, _builtin),
        id(types.ModuleType): (_MODULE_KIND, None, _module),
    }


_BRACKETS = {
    id(list): ("[", "]", "[]"),
    id(tuple): ("(", ")", "()"),
    id(set): ("{", "}", "set()"),
    id(frozenset): ("frozenset({", "})", "frozenset()"),
    id(collections.deque): ("deque([", "])", "deque([])"),
}
_HANDLERS = _handlers_by_type()
_TEXTS: tuple[Any, ...] = (str, bytes, bytearray)
_MEASURED: tuple[Any, ...] = (*_TEXTS, int, list, tuple, dict, set, frozenset, collections.deque)


# --- libraries' types -----------------------------------------------------------------------------------------------


def _library_text(facts: ValueSummary, chars: int) -> str:
    if facts.items is None:
        return _cut(facts.type_text, chars)
    shown = _items(facts.items, chars - len(facts.type_text), 0, lambda item, left: _short_text(item, left, 1))
    if facts.total > len(facts.items) and not shown.endswith("…"):
        shown += ", …"
    if not facts.bare:
        shown = f"[{shown}]"
    return f"{facts.type_text} {shown}" if facts.type_text else shown


# --- what is under way ----------------------------------------------------------------------------------------------


def line_of_thread(thread: int | None, folder: str) -> int | None:
    """Return the line at which a thread is in the outermost code of a file in ``folder``: the cell's own."""
    frame = sys._current_frames().get(thread or 0)
    line = None
    while frame is not None:
        if _exact(frame.f_code.co_filename).startswith(folder):
            line = frame.f_lineno
        frame = frame.f_back
    return line


def task_names(tasks: Iterable[Any], not_of: tuple[str, ...]) -> list[str]:
    """Return names of those that are asyncio's own Task, are not done, and run no code of the folders ``not_of``."""
    found = []
    for task in tasks:
        if type(task) is not _TASK or _TASK.done(task):
            continue
        coroutine = _TASK.get_coro(task)
        if type(coroutine) is not types.CoroutineType:
            continue
        code = coroutine.cr_code
        if not _exact(code.co_filename).startswith(not_of):
            found.append(_exact(code.co_name)[:80])
    return found
