"""What a namespace holds, told without running any code of it. Sans-I/O.

Works on any thread while cells run. A value is looked into only if its type *is* one that is known here: what a class
says of itself (``__repr__``, ``__len__``, ``__class__``, properties, a metaclass) is never asked. Types are told by
their identity: in a dict, they would be compared by a metaclass's ``__hash__``. Other threads change what is looked at:
each step takes a piece in one go, and what fails all the same is shown by its type alone.
"""

from __future__ import annotations

import collections
import ctypes
import datetime
import decimal
import itertools
import re
import sys
import types
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, Any

from ..wire.looks import KINDS, MAX_LOOK_BYTES, MAX_VARIABLES, PREVIEW_CHARS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

Row = list[Any]  # as of wire.looks.ROW

# The getters of C code, kept before any cell ran; a metaclass's own __getattribute__ or properties have no say in them.
_NAME: Any = type.__dict__["__name__"]
_MODULE: Any = type.__dict__["__module__"]
_MRO: Any = type.__dict__["__mro__"]
_DICT: Any = type.__dict__["__dict__"]
_FLAGS: Any = type.__dict__["__flags__"]
_MODULE_DICT: Any = vars(types.ModuleType)["__dict__"]
_MODULES = sys.modules
_instance_dict: Any = ctypes.pythonapi.PyObject_GenericGetDict
_instance_dict.argtypes, _instance_dict.restype = [ctypes.py_object], ctypes.py_object

# What IPython, DSPy and Python's import system put into a namespace under names that are nobody's variables.
_UNSHOWN = re.compile(r"_{1,3}|_i{1,3}|_i?\d+|_(oh|dh|ih|exit_code)|__\w+__|__?[Dd]spy\w*")

_HEAP_TYPE = 1 << 9  # CPython's Py_TPFLAGS_HEAPTYPE: set for every class that Python code made
_MAX_BITS = 256
_SMALL = 1 << 63
_MAX_ITEMS = 10  # in a row of a table; of one variable as many as its text has room for
_ITEM_CHARS = 20
_MAX_OWN_TEXT = 100_000  # characters and items
_MAX_DEPTH = 3
_MAX_TRIES = 20
_VARIABLE, _FUNCTION, _CLASS, _MODULE_KIND = KINDS


def summarize(namespace: dict[str, Any], hidden: Mapping[str, Any]) -> tuple[list[Row], int]:
    """Return a row for each variable, in the order they were made, and how many were left out for want of room.

    The newest stay. A name of ``hidden`` is passed over while it has the object that it has there.
    """
    rows: list[Row] = []
    room, left_out = MAX_LOOK_BYTES, 0
    for name, value in reversed(list(copied(namespace).items())):
        if type(name) is not str or _UNSHOWN.fullmatch(name) or (name in hidden and hidden[name] is value):
            continue
        if len(rows) >= MAX_VARIABLES or room <= 0:
            left_out += 1
            continue
        row = describe(name, value)
        room -= _cost(row)
        rows.append(row)
    return rows[::-1], left_out


def shown_tools(names: Iterable[str]) -> list[str]:
    """Return the tools that are the host's own, not those by which DSPy does its work."""
    return [name for name in names if not _UNSHOWN.fullmatch(name)]


def describe(name: str, value: Any, chars: int = PREVIEW_CHARS) -> Row:
    """Return the row of one variable."""
    cls = type(value)
    size, shape, preview, kind = None, None, "", _VARIABLE
    try:
        known = _KNOWN.get(id(cls))
        if known is not None:
            kind, measure, sketch = known
            size = dict.__sizeof__(value) if issubclass(cls, dict) else sys.getsizeof(value)
            shape = measure(value) if measure else None
            preview = sketch(value, chars, 0)
        elif issubclass(cls, type):  # `type` is cls's ancestor: C code looks that up
            kind, preview = _CLASS, f"class {type_name(value)}"
        else:
            size, shape, preview = _of_library(value, cls, chars)
    except Exception:  # it changed under our eyes, or is broken in a way that nobody thought of
        preview = ""
    return [name[:200], type_name(cls), size, shape, preview, kind]


def type_name(cls: type) -> str:
    """Return a class's name; that of its package comes first where it is neither Python's own nor the cells'."""
    try:
        name, module = _NAME.__get__(cls), _MODULE.__get__(cls)
    except Exception:
        return "?"
    if type(name) is not str:
        return "?"
    package = module.partition(".")[0] if type(module) is str else "builtins"
    return name[:80] if package in ("builtins", "__main__", "") else f"{package[:40]}.{name[:80]}"


def is_large(value: Any) -> bool:
    """Whether a value's own ``repr`` would keep the kernel busy: C code makes it, which nothing else interrupts.

    That can be told of Python's texts and containers. Subclasses count as what they are in C.
    """
    room, waiting, seen = _MAX_OWN_TEXT, [value], set()
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


def copied(namespace: dict[Any, Any]) -> dict[Any, Any]:
    """Return a copy of a dict that other threads change; an empty one if it is none."""
    for _ in range(_MAX_TRIES if type(namespace) is dict else 0):
        try:
            return dict.copy(namespace)
        except RuntimeError:  # a finalizer ran in the middle of it and changed the namespace
            continue
    return {}


def _cost(row: Row) -> int:
    return 60 + sum(len(encode_basestring_ascii(text)) for text in (row[0], row[1], row[4]))


# --- Python's own types ---------------------------------------------------------------------------------------------


def _sketch(value: Any, chars: int, depth: int) -> str:
    """Return a text for a value in a container."""
    cls = type(value)
    known = _KNOWN.get(id(cls))
    if known is None:
        return f"<{'class ' + type_name(value) if issubclass(cls, type) else type_name(cls)}>"
    text: str = known[2](value, chars, depth)
    return text


def _plain(value: Any, chars: int, depth: int) -> str:
    return _cut(repr(value), chars)


def _integer(value: int, chars: int, depth: int) -> str:
    return repr(value) if value.bit_length() <= _MAX_BITS else f"<int of {value.bit_length():,} bits>"


def _text(value: Any, chars: int, depth: int) -> str:
    return _cut(repr(value) if len(value) <= chars else f"{value[: max(0, chars - 3)]!r}…", chars)


def _sequence(value: Any, chars: int, depth: int) -> str:
    opening, closing = _BRACKETS[id(type(value))]
    return opening + _items(value, chars, depth, lambda item, left: _sketch(item, left, depth + 1)) + closing


def _mapping(value: Any, chars: int, depth: int) -> str:
    def pair(item: Any, left: int) -> str:
        return f"{_sketch(item[0], left, depth + 1)}: {_sketch(item[1], left, depth + 1)}"

    return "{" + _items(dict.items(value), chars, depth, pair) + "}"


def _items(items: Any, chars: int, depth: int, sketch: Callable[[Any, int], str]) -> str:
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


def _datetime(value: Any, chars: int, depth: int) -> str:
    if type(value) is datetime.date:
        return value.isoformat()
    zone = "" if value.tzinfo is None else f" {type_name(type(value.tzinfo))}"  # a time zone is somebody's object
    return f"{value.replace(tzinfo=None).isoformat()}{zone}"


def _module(value: types.ModuleType, chars: int, depth: int) -> str:
    name = _MODULE_DICT.__get__(value).get("__name__")
    return f"module {name[:80]}" if type(name) is str else "module"


def _function(value: types.FunctionType, chars: int, depth: int) -> str:
    code = value.__code__
    count = code.co_argcount + code.co_kwonlyargcount
    names = [*code.co_varnames[:count], *(["…"] if code.co_flags & 0x0C else [])]  # *args, **kwargs
    return _cut(f"{_exact(code.co_name)}({', '.join(names)})", chars)


def _builtin(value: types.BuiltinFunctionType, chars: int, depth: int) -> str:
    return f"{value.__name__}()"


def _length(value: Any) -> list[int]:
    return [len(value)]


def _pairs(value: Any) -> list[int]:
    return [dict.__len__(value)]  # Counter is a class of Python's own, whose methods code can replace


def _exact(text: Any) -> str:
    """Return a name that may be of a subclass of str, if it is not."""
    return text if type(text) is str else "?"


def _cut(text: str, chars: int) -> str:
    return text if len(text) <= chars else f"{text[: max(0, chars - 1)]}…"


def _table() -> dict[int, tuple[str, Any, Any]]:
    """Return what is known, by the identity of the type: kind, how it is measured, and how it is sketched."""
    plain = (bool, float, complex, type(None), type(...), type(NotImplemented), datetime.timedelta, decimal.Decimal)
    containers = (list, tuple, set, frozenset, collections.deque)
    mappings = (dict, collections.OrderedDict, collections.defaultdict, collections.Counter)
    return {
        **{id(cls): (_VARIABLE, None, _plain) for cls in plain},
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
    id(list): ("[", "]"),
    id(tuple): ("(", ")"),
    id(set): ("{", "}"),
    id(frozenset): ("frozenset({", "})"),
    id(collections.deque): ("deque([", "])"),
}
_KNOWN = _table()
_TEXTS: tuple[Any, ...] = (str, bytes, bytearray)
_MEASURED: tuple[Any, ...] = (*_TEXTS, int, list, tuple, dict, set, frozenset, collections.deque)


# --- libraries' types -----------------------------------------------------------------------------------------------


def _of_library(value: Any, cls: type, chars: int) -> tuple[int | None, list[int] | None, str]:
    """Return size, shape and preview of an array, a table or a tensor."""
    name, module = _NAME.__get__(cls), _MODULE.__get__(cls)
    if type(name) is not str or type(module) is not str:
        return None, None, ""
    package = module.partition(".")[0]
    if package == "numpy":
        return _of_numpy(value, cls, name, chars)
    if name not in _LIBRARIES.get(package, ()):
        return None, None, ""
    library = _MODULES.get(package)
    if type(library) is not types.ModuleType or _MODULE_DICT.__get__(library).get(name) is not cls:
        return None, None, ""  # only called so
    if package == "pandas":
        return _of_pandas(value, chars)
    shape = _shape(_read(value, "shape", package))
    kind = _read(value, "dtype", package) if shape is not None else None
    return None, shape, "" if kind is None or _is_pythons(type(kind)) else _cut(repr(kind), chars)


_LIBRARIES = {
    "pandas": ("DataFrame", "Series"),
    "polars": ("DataFrame", "Series"),
    "pyarrow": ("Table", "RecordBatch"),
    "torch": ("Tensor",),
}


def _is_pythons(cls: type) -> bool:
    """Whether Python code made the class, so that its methods may be anybody's."""
    return bool(_FLAGS.__get__(cls) & _HEAP_TYPE)


def _of_numpy(value: Any, cls: type, name: str, chars: int) -> tuple[int | None, list[int] | None, str]:
    if _is_pythons(cls):  # a subclass, or one only called so; numpy's own are made in C, and nobody can change them
        return None, None, ""
    if name != "ndarray":
        item = value.item() if hasattr(cls, "itemsize") and value.dtype.kind in "biufcSU" else None
        return value.nbytes if item is not None else None, None, "" if item is None else _sketch(item, chars, 0)
    dtype = _dtype(value.dtype)
    if value.dtype.kind not in "biufcSU":
        return value.nbytes, list(value.shape), dtype
    first = value[(0,) * (value.ndim - 1)][:_MAX_ITEMS] if value.ndim and value.size else value.reshape(-1)[:_MAX_ITEMS]
    shown = _items(first.tolist(), chars - len(dtype), 0, lambda item, left: _sketch(item, left, 1))
    rest = ", …" if value.size > first.size and not shown.endswith("…") else ""
    return value.nbytes, list(value.shape), f"{dtype} [{shown}{rest}]"


def _dtype(dtype: Any) -> str:
    names = {"b": "bool", "i": "int", "u": "uint", "f": "float", "c": "complex", "S": "bytes", "U": "str"}
    kind = dtype.kind
    if kind in "iufc":
        return f"{names[kind]}{8 * dtype.itemsize}"
    return names.get(kind) or {"O": "object", "M": "datetime64", "m": "timedelta64"}.get(kind, "structured")


def _of_pandas(value: Any, chars: int) -> tuple[int | None, list[int] | None, str]:
    manager = _held(value, "_mgr")
    blocks, axes = _held(manager, "blocks"), _held(manager, "axes")
    held = [_held(block, "values") for block in (blocks if type(blocks) is tuple else ())]
    axes = axes if type(axes) is list else []
    if not all(map(_is_pandas, (manager, *held, *axes, *(_held(axis, "_data") for axis in axes)))):
        return None, None, ""  # its length would be asked of somebody's own array or index
    size = sum(count for count in (_read(values, "nbytes", "pandas") for values in held) if type(count) is int)
    shape = _shape(_read(value, "shape", "pandas"))
    if shape is None:
        return size, None, ""
    if len(shape) == 1:
        return size, shape, _of_numpy(held[0], type(held[0]), "ndarray", chars)[2] if _is_array(held[0]) else ""
    columns = _names(axes[0]) if axes else None
    shown = "" if columns is None else _items(columns, chars, 0, lambda item, left: _sketch(item, left, 1))
    return size, shape, f"columns {shown}" if shown else ""


def _is_pandas(value: Any) -> bool:
    """Whether what a frame holds is numpy's or pandas' own, or nothing."""
    cls = type(value)
    if value is None or _is_array(value):
        return True
    name, module = _NAME.__get__(cls), _MODULE.__get__(cls)
    if type(name) is not str or type(module) is not str or module.partition(".")[0] != "pandas":
        return False
    home = _MODULES.get(module)
    return type(home) is types.ModuleType and _MODULE_DICT.__get__(home).get(name) is cls


def _names(index: Any) -> Any:
    """Return a pandas Index's values, those that can be had without running its code."""
    data = _held(index, "_range")
    if type(data) is range:
        return data
    data = _held(index, "_data")
    if not _is_array(data):
        arrow = _held(data, "_pa_array")
        if arrow is not None and type_name(type(arrow)) == "pyarrow.ChunkedArray" and not _is_pythons(type(arrow)):
            return arrow.slice(0, _MAX_ITEMS + 1).to_pylist()
        data = _held(data, "_ndarray")
    return data[: _MAX_ITEMS + 1].tolist() if _is_array(data) and data.ndim == 1 else None


def _is_array(value: Any) -> bool:
    return type_name(type(value)) == "numpy.ndarray" and not _is_pythons(type(value))


def _held(value: Any, name: str) -> Any:
    """Return what an object of pandas keeps under a name: in its own dict, or where C code keeps it."""
    try:
        found = _instance_dict(value).get(name)
    except AttributeError:
        found = None
    return _read(value, name) if found is None else found


def _shape(found: Any) -> list[int] | None:
    if found is None or not issubclass(type(found), tuple):
        return None
    numbers = list(tuple.__iter__(found))
    return numbers if all(type(number) is int for number in numbers) and len(numbers) <= 32 else None


def _read(value: Any, name: str, *packages: str) -> Any:
    """Return an attribute that C code computes, or a property in Python code of ``packages``; None else."""
    for cls in _MRO.__get__(type(value)):
        entry = _DICT.__get__(cls).get(name)
        if entry is None:
            continue
        if type(entry) in (types.GetSetDescriptorType, types.MemberDescriptorType):
            return entry.__get__(value)
        if type(entry) is property and type(entry.fget) is types.FunctionType and _is_of(entry.fget, packages):
            return entry.fget(value)
        return None
    return None


def _is_of(function: types.FunctionType, packages: tuple[str, ...]) -> bool:
    """Whether a function was written in one of the packages, and not put in the place of one that was."""
    module = function.__module__
    if type(module) is not str or module.partition(".")[0] not in packages:
        return False
    home = _MODULES.get(module)
    return type(home) is types.ModuleType and _MODULE_DICT.__get__(home) is function.__globals__


# --- what is under way ----------------------------------------------------------------------------------------------


def line_of(thread: int | None, folder: str) -> int | None:
    """Return the line at which a thread is in the outermost code of a file in ``folder``: the cell's own."""
    frame = sys._current_frames().get(thread or 0)
    line = None
    while frame is not None:
        if _exact(frame.f_code.co_filename).startswith(folder):
            line = frame.f_lineno
        frame = frame.f_back
    return line


def tasks_of(tasks: Iterable[Any], not_of: tuple[str, ...]) -> list[str]:
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


def _task_type() -> Any:
    import asyncio

    return asyncio.Task


_TASK = _task_type()
