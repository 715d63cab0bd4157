"""Arrays, tables and tensors as :mod:`.inspecting` tells them: by what C code keeps of them. Sans-I/O.

pandas and polars are Python over C: their own properties would ask whatever lies in their objects, an extension array
of the cells' for its length, say. So what C code made is found in them and measured, and nothing else is.
"""

from __future__ import annotations

import sys
import types
from typing import Any, NamedTuple

from .object_layout import MODULE, MODULE_DICT, NAME, attribute_of, call_method, is_c_type, is_python_class, type_name

_MODULES = sys.modules
_FIRST = 11  # items at the most: one more than is shown
_MAX_ITEM_BYTES = 64 * 1024  # larger ones are not made into texts of Python's
_LIBRARIES = {
    "pandas": ("DataFrame", "Series"),
    "polars": ("DataFrame", "Series"),
    "pyarrow": ("Table", "RecordBatch"),
    "torch": ("Tensor",),
}
_TYPE_TEXTS = {"b": "bool", "S": "bytes", "U": "str", "O": "object", "M": "datetime64", "m": "timedelta64"}
_NUMBERS = {"i": "int", "u": "uint", "f": "float", "c": "complex"}
_PLAIN = "biufcSUO"  # kinds of dtypes whose items are Python's own, or objects that were put in
_PARTS = ("_ndarray", "_data", "_mask", "_pa_array", "_left", "_right", "_sparse_values")  # of pandas' arrays


class ValueSummary(NamedTuple):
    """What is told of one value: ``items`` are its first ones, of ``total``; ``type_text`` stands before them."""

    size: int | None = None
    shape: list[int] | None = None
    type_text: str = ""
    items: list[Any] | None = None
    total: int = 0
    bare: bool = False  # no brackets around them


NO_SUMMARY = ValueSummary()


def summary_of(value: Any, cls: type) -> ValueSummary:
    """Return what can be told of a value of a library's own type; nothing of any other."""
    name, module = NAME.__get__(cls), MODULE.__get__(cls)
    if type(name) is not str or type(module) is not str:
        return NO_SUMMARY
    package = module.partition(".")[0]
    if package == "numpy":
        return _of_numpy(value, cls, name)
    if name not in _LIBRARIES.get(package, ()):
        return NO_SUMMARY
    library = _MODULES.get(package)
    if type(library) is not types.ModuleType or MODULE_DICT.__get__(library).get(name) is not cls:
        return NO_SUMMARY  # only called so
    return {"pandas": _of_pandas, "polars": _of_polars, "pyarrow": _of_arrow, "torch": _of_torch}[package](value)


def _of_numpy(value: Any, cls: type, name: str) -> ValueSummary:
    if is_python_class(cls):  # a subclass, or one only called so; numpy's own are made in C, and nobody can change them
        return NO_SUMMARY
    if name == "ndarray":
        return _of_array(value)
    if not hasattr(cls, "itemsize") or value.dtype.kind not in _PLAIN:
        return NO_SUMMARY
    return ValueSummary(size=value.nbytes, items=[value.item()], total=1, bare=True)


def _of_array(value: Any) -> ValueSummary:
    kind = value.dtype.kind
    word = f"{_NUMBERS[kind]}{8 * value.dtype.itemsize}" if kind in _NUMBERS else _TYPE_TEXTS.get(kind, "structured")
    facts = ValueSummary(size=value.nbytes, shape=list(value.shape), type_text=word)
    if kind not in _PLAIN or value.dtype.itemsize > _MAX_ITEM_BYTES:
        return facts
    first = value[(0,) * (value.ndim - 1)][:_FIRST] if value.ndim and value.size else value.reshape(-1)[:_FIRST]
    return facts._replace(items=first.tolist(), total=value.size)


def _of_arrow(value: Any) -> ValueSummary:
    columns = attribute_of(value, "column_names")
    shown = columns[:_FIRST] if type(columns) is list else None
    facts = ValueSummary(size=_count(attribute_of(value, "nbytes")), shape=_shape(attribute_of(value, "shape")))
    return _with_columns(facts, shown, len(columns)) if shown else facts


def _of_torch(value: Any) -> ValueSummary:
    kind = attribute_of(value, "dtype")
    word = "" if kind is None or is_python_class(type(kind)) else repr(kind)
    return ValueSummary(
        size=_count(attribute_of(value, "nbytes")), shape=_shape(attribute_of(value, "shape")), type_text=word
    )


def _shape(found: Any) -> list[int] | None:
    if not issubclass(type(found), tuple):
        return None
    numbers = list(tuple.__iter__(found))
    return numbers if all(type(number) is int for number in numbers) and len(numbers) <= 32 else None


def _count(found: Any) -> int | None:
    return found if type(found) is int else None


# --- polars -----------------------------------------------------------------------------------------------------------


def _of_polars(value: Any) -> ValueSummary:
    if (frame := attribute_of(value, "_df")) is not None:
        size, shape = call_method(frame, "PyDataFrame", "estimated_size"), call_method(frame, "PyDataFrame", "shape")
        facts = ValueSummary(size=_count(size), shape=_shape(shape))
        columns = call_method(frame, "PyDataFrame", "columns")
        return facts if not columns else _with_columns(facts, columns[:_FIRST], len(columns))
    series = attribute_of(value, "_s")
    length = call_method(series, "PySeries", "len")
    if type(length) is not int:
        return NO_SUMMARY
    return ValueSummary(
        size=_count(call_method(series, "PySeries", "estimated_size")),
        shape=[length],
        type_text=_polars_dtype(call_method(series, "PySeries", "dtype")),
    )


def _polars_dtype(dtype: Any) -> str:
    cls = dtype if issubclass(type(dtype), type) else type(dtype)
    return type_name(cls).rpartition(".")[2]


def _with_columns(summary: ValueSummary, names: list[Any], count: int) -> ValueSummary:
    return summary._replace(type_text="columns", items=names, total=count, bare=True)


# --- pandas -----------------------------------------------------------------------------------------------------------


def _of_pandas(value: Any) -> ValueSummary:
    manager = attribute_of(value, "_mgr")
    blocks, axes = attribute_of(manager, "blocks"), attribute_of(manager, "axes")
    if type(blocks) is not tuple or type(axes) is not list:
        return NO_SUMMARY
    contents = [attribute_of(block, "values") for block in blocks]
    parts = [_parts(values) for values in contents]
    lengths = [_index_length(axis) for axis in reversed(axes)]  # of a frame, columns come first
    shape = None if None in lengths else [length for length in lengths if length is not None]
    size = sum(part.nbytes for found in parts for part in found) if all(parts) else None
    facts = ValueSummary(size=size, shape=shape)
    if len(axes) == 1:
        first = _first_of(contents[0]) if contents else NO_SUMMARY
        return first._replace(size=facts.size, shape=shape, total=0 if shape is None else shape[0])
    names = _names(axes[0]) if shape is not None else None
    return _with_columns(facts, names, shape[1]) if names and shape is not None else facts


def _parts(values: Any, depth: int = 2) -> list[Any]:
    """Return the arrays that C code made, of which an array of pandas' consists."""
    if _is_array(values) or _is_arrow(values):
        return [values]
    if values is None or depth == 0:
        return []
    return [part for name in _PARTS for part in _parts(attribute_of(values, name), depth - 1)]


def _is_array(value: Any) -> bool:
    return is_c_type(value, "numpy.ndarray")


def _is_arrow(value: Any) -> bool:
    return is_c_type(value, "pyarrow.ChunkedArray")


def _index_length(index: Any) -> int | None:
    rows = attribute_of(index, "_range")
    if type(rows) is range:
        return len(rows)
    codes = attribute_of(index, "_codes")  # of a MultiIndex: an array for each level
    if issubclass(type(codes), list) and list.__len__(codes):
        return _length(list.__getitem__(codes, 0))
    return _length(attribute_of(index, "_data"))


def _length(values: Any) -> int | None:
    if attribute_of(values, "_sparse_values") is not None:  # fewer than there are
        return None
    parts = _parts(values)
    return len(parts[0]) if parts and (_is_arrow(parts[0]) or parts[0].ndim == 1) else None


def _first_of(values: Any) -> ValueSummary:
    """Return word and first items of a Series' array."""
    parts = _parts(values)
    if len(parts) == 1 and _is_arrow(parts[0]):
        return ValueSummary(
            type_text="" if is_python_class(type(parts[0].type)) else str(parts[0].type), items=_items(parts[0])
        )
    if parts and parts[0] is values:
        return _of_array(values)
    word, mask = type_name(type(values)).rpartition(".")[2], attribute_of(values, "_mask")
    if len(parts) == 2 and parts[1] is mask and _is_array(mask):
        items = zip(_of_array(parts[0]).items or [], mask[:_FIRST].tolist(), strict=True)
        return ValueSummary(type_text=word, items=[None if missing else item for item, missing in items])
    return ValueSummary(type_text=word, items=_items(parts[0]) if len(parts) == 1 else None)


def _names(index: Any) -> list[Any] | None:
    """Return the first values of an Index, if they can be had without running its code."""
    rows = attribute_of(index, "_range")
    if type(rows) is range:
        return list(rows[:_FIRST])
    data = attribute_of(index, "_data")
    if _is_array(data):
        return _of_array(data).items if data.ndim == 1 else None
    parts = _parts(data)
    return _items(parts[0]) if len(parts) == 1 else None


def _items(array: Any) -> list[Any] | None:
    """Return the first items of what an array consists of, where they are its own: not codes of categories, say."""
    if _is_array(array):
        return _of_array(array).items if array.dtype.kind == "O" else None
    if is_python_class(type(array.type)):  # somebody's extension type, which makes Python objects of its own
        return None
    first = array.slice(0, _FIRST)
    return list(first.to_pylist()) if first.nbytes <= _FIRST * _MAX_ITEM_BYTES else None
