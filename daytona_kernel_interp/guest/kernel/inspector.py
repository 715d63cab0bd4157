"""Descriptions of the variables in a namespace, made without running any of their code. Sans-I/O.

Thread-safe; cells run at the same time. A value is read only if its class is exactly one that is known here. Code of
other classes (``__repr__``, ``__len__``, ``__class__``, properties, a metaclass) is never called. Classes are compared
by identity: as keys of a dict, a metaclass's ``__hash__`` would be called. Other threads may change a value meanwhile,
so each step copies a bounded part of it in one call into C code. If a step fails, the row has the type's name only.
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

# Names that IPython, DSPy and Python's import system put into a namespace.
_HIDDEN_NAMES = re.compile(r"_{1,3}|_i{1,3}|_i?\d+|_(oh|dh|ih|exit_code)|__\w+__|__?[Dd]spy\w*")

_MAX_BITS = 256
_SMALL = 1 << 63
_MAX_ITEMS = 10  # of a row; a single variable has as many as its text has room for
_ITEM_CHARS = 20
_MAX_REPR_SIZE = 100_000  # characters and items of a value whose own repr is called
_MAX_DEPTH = 3
_ATTEMPTS = 20
_TASK: Any = asyncio.Task  # code in cells can replace asyncio's
_VARIABLE, _FUNCTION, _CLASS, _MODULE_KIND = KINDS


def summarize(namespace: dict[str, object], hidden: Mapping[str, object]) -> tuple[list[Row], int]:
    """Return a row for each variable, oldest first, and the number of variables left out.

    If there is not enough room, the oldest are left out. A name in ``hidden`` is skipped while it has the same object.
    """
    rows: list[Row] = []
    room, left_out = MAX_INSPECT_BYTES, 0
    for name, value in reversed(list(copy_namespace(namespace).items())):
        if type(name) is not str or _HIDDEN_NAMES.fullmatch(name) or (name in hidden and hidden[name] is value):
            continue
        if len(rows) >= MAX_VARIABLES or room <= 0:
            left_out += 1
            continue
        row = describe(name, value)
        room -= _cost(row)
        rows.append(row)
    return rows[::-1], left_out


def shown_tools(offered: Mapping[str, object]) -> list[str]:
    """Return the names of the tools that the user gave, without DSPy's internal ones and without ``ToolError``."""
    return [name for name, tool in offered.items() if type(tool) is not type and not _HIDDEN_NAMES.fullmatch(name)]


def describe(name: str, value: Any, chars: int = PREVIEW_CHARS) -> Row:
    """Return the row of one variable without running any of its code. If a step fails, its preview is empty."""
    cls = type(value)
    size, shape, preview, kind = None, None, "", _VARIABLE
    try:
        known = _HANDLERS.get(id(cls))
        if known is not None:
            kind, measure, sketch = known
            size = dict.__sizeof__(value) if issubclass(cls, dict) else sys.getsizeof(value)
            shape = measure(value) if measure else None
            preview = sketch(value, chars, 0)
        elif issubclass(cls, type):  # the value is a class; issubclass(..., type) is C code
            kind, preview = _CLASS, f"class {type_name(value)}"
        else:
            facts = summary_of(value, cls)
            size, shape, preview = facts.size, facts.shape, _library_text(facts, chars)
    except BaseException:
        # Another thread changed the value, the library raises an error of its own, or a finalizer or an attribute of a
        # library that code replaced raises anything, even SystemExit.
        preview = ""
    return [name[:200], type_name(cls), size, shape, preview, kind]


def is_large(value: object) -> bool:
    """Whether a value's own ``repr`` would hold the kernel for long: C code makes it, and holds the interpreter lock.

    Measures Python's texts and containers. A subclass is measured as its base class.
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
            except RuntimeError:  # another thread is changing it
                return True
    return room <= 0


def copy_namespace(namespace: dict[str, object]) -> dict[str, object]:
    """Return a copy of a dict that other threads change. For another type, return an empty dict."""
    for _ in range(_ATTEMPTS if type(namespace) is dict else 0):
        try:
            return dict.copy(namespace)
        except RuntimeError:  # a finalizer ran during the copy and changed the namespace
            continue
    return {}


def _cost(row: Row) -> int:
    return 60 + sum(len(encode_basestring_ascii(text)) for text in (row[0], row[1], row[4]))


# --- Python's own types ---------------------------------------------------------------------------------------------


def _short_text(value: Any, chars: int, depth: int) -> str:
    """Return the text of an item of a container."""
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
        # One call into C code, during which no other thread runs.
        taken = list(itertools.islice(items, max(_MAX_ITEMS, chars // _ITEM_CHARS)))
    except RuntimeError:
        return "… changing …"
    parts: list[str] = []
    for item in taken:
        if chars <= 0:
            break
        small = type(item) is int and -_SMALL < item < _SMALL  # the most frequent case; saves three calls
        parts.append(repr(item) if small else sketch(item, chars))
        chars -= len(parts[-1]) + 2
    return ", ".join(parts) + (", …" if len(items) > len(parts) else "")


def _range(value: range, chars: int, depth: int) -> str:
    parts = [_integer(number, chars, depth) for number in (value.start, value.stop, value.step)]
    return f"range({', '.join(parts)})"


def _datetime(value: datetime.date | datetime.time, chars: int, depth: int) -> str:
    if not isinstance(value, (datetime.datetime, datetime.time)):
        return value.isoformat()
    zone = "" if value.tzinfo is None else f" {type_name(type(value.tzinfo))}"  # a time zone may be of a foreign class
    return f"{value.replace(tzinfo=None).isoformat()}{zone}"


def _module(value: types.ModuleType, chars: int, depth: int) -> str:
    name = vars(value).get("__name__")  # unlike value.__name__ never a module's own __getattr__
    return f"module {name[:80]}" if type(name) is str else "module"


def _function(value: types.FunctionType, chars: int, depth: int) -> str:
    code = value.__code__
    count = code.co_argcount + code.co_kwonlyargcount
    names = [*code.co_varnames[:count], *(["…"] if code.co_flags & 0x0C else [])]  # *args or **kwargs
    return _cut(f"{_exact(code.co_name)}({', '.join(names)})", chars)


def _builtin(value: types.BuiltinFunctionType, chars: int, depth: int) -> str:
    return f"{value.__name__}()"


def _length(value: Sized) -> list[int]:
    return [len(value)]


def _pairs(value: dict[object, object]) -> list[int]:
    return [dict.__len__(value)]  # Counter is a Python class, whose methods code can replace


def _exact(text: object) -> str:
    """Return a name if it is exactly a str; a subclass may have code of its own."""
    return text if type(text) is str else "?"


def _cut(text: str, chars: int) -> str:
    return text if len(text) <= chars else f"{text[: max(0, chars - 1)]}…"


def _handlers_by_type() -> dict[int, tuple[str, Any, Any]]:
    """Return the known types by identity: kind, the function for the shape, and the function for the text."""
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


# --- the running cell ----------------------------------------------------------------------------------------------


def line_of_thread(thread: int | None, folder: str) -> int | None:
    """Return the line that a thread runs in the outermost frame of a file in ``folder``: the line of the cell."""
    frame = sys._current_frames().get(thread or 0)
    line = None
    while frame is not None:
        if _exact(frame.f_code.co_filename).startswith(folder):
            line = frame.f_lineno
        frame = frame.f_back
    return line


def task_names(tasks: Iterable[Any], not_of: tuple[str, ...]) -> list[str]:
    """Return the coroutine names of pending tasks of asyncio's own class, except code in the folders ``not_of``."""
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
