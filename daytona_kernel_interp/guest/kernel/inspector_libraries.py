"""Summaries of arrays, tables and tensors for :mod:`.inspector`. Sans-I/O.

A value is read only if its class is exactly the library's own, and then only by public attributes such as ``shape``.
pandas forwards most of these to the arrays it holds, which may be of a foreign class: an extension array of the
session's code, for example. So the dtype of each index and column is checked first. ``dtype`` is the only attribute
that pandas reads of a foreign array here.
"""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

_MODULES = sys.modules
_FIRST = 11  # items at most: one more than is shown
_MAX_ITEM_BYTES = 64 * 1024  # larger items are not converted to Python objects
_MAX_EXTENSION_COLUMNS = 100  # of a frame, whose arrays are measured one by one
_TYPE_TEXTS = {"b": "bool", "S": "bytes", "U": "str", "O": "object", "M": "datetime64", "m": "timedelta64"}
_NUMBERS = {"i": "int", "u": "uint", "f": "float", "c": "complex"}
_PLAIN = "biufcSUO"  # kinds of dtypes whose items are Python's own, or objects that code put in

# The getters of ``type`` itself: a metaclass with its own ``__getattribute__`` or properties cannot replace them.
_CLASS_NAME: Any = type.__dict__["__name__"]
_CLASS_MODULE: Any = type.__dict__["__module__"]


class ValueSummary(NamedTuple):
    """Size, shape and first items of one value; ``type_text`` stands before the items."""

    size: int | None = None
    shape: list[int] | None = None
    type_text: str = ""
    items: list[object] | None = None
    total: int = 0  # of which ``items`` are the first
    bare: bool = False  # no brackets around the items


NO_SUMMARY = ValueSummary()


def type_name(cls: type) -> str:
    """Return a class's name, with its package in front unless that is Python's own or the session's code."""
    name, module = _name_and_module(cls)
    if not name:
        return "?"
    package = module.partition(".")[0]
    return name[:80] if package in ("builtins", "__main__", "") else f"{package[:40]}.{name[:80]}"


def _name_and_module(cls: type) -> tuple[str, str]:
    """Return a class's name and module, without code of a metaclass; empty where they are not plain texts."""
    try:
        name, module = _CLASS_NAME.__get__(cls), _CLASS_MODULE.__get__(cls)
    except (AttributeError, TypeError):  # a class whose __module__ was deleted
        return "", ""
    return name if type(name) is str else "", module if type(module) is str else ""


def summary_of(value: object, cls: type) -> ValueSummary:
    """Return the summary of a value of a library's own class, and :data:`NO_SUMMARY` for any other."""
    name, module = _name_and_module(cls)
    package = module.partition(".")[0]
    library = _MODULES.get(package)
    if type(library) is not types.ModuleType or vars(library).get(name) is not cls:
        return NO_SUMMARY  # a class that only carries the name
    summarize = _READERS.get(f"{package}.{name}")
    if summarize is None and package == "numpy":
        summarize = _of_numpy_scalar
    return NO_SUMMARY if summarize is None else summarize(value)


def _of_numpy_scalar(value: Any) -> ValueSummary:
    if not hasattr(type(value), "itemsize") or value.dtype.kind not in _PLAIN:
        return NO_SUMMARY
    return ValueSummary(size=value.nbytes, items=[value.item()], total=1, bare=True)


def _of_numpy_array(value: Any) -> ValueSummary:
    kind = value.dtype.kind
    if kind in _NUMBERS:
        type_text = f"{_NUMBERS[kind]}{8 * value.dtype.itemsize}"
    else:
        type_text = _TYPE_TEXTS.get(kind, "structured")
    summary = ValueSummary(size=value.nbytes, shape=list(value.shape), type_text=type_text)
    if kind not in _PLAIN or value.dtype.itemsize > _MAX_ITEM_BYTES:
        return summary
    # The first row, then its first items: reshaping a large array could copy it.
    first = value[(0,) * (value.ndim - 1)][:_FIRST] if value.ndim and value.size else value.reshape(-1)[:_FIRST]
    return summary._replace(items=first.tolist(), total=value.size)


def _of_arrow(table: Any) -> ValueSummary:
    return _with_columns(table.nbytes, list(table.shape), list(table.schema.names[:_FIRST]))


def _of_torch_tensor(tensor: Any) -> ValueSummary:
    return ValueSummary(size=tensor.nbytes, shape=list(tensor.shape), type_text=str(tensor.dtype))


def _of_polars_frame(frame: Any) -> ValueSummary:
    return _with_columns(frame.estimated_size(), list(frame.shape), list(frame.columns[:_FIRST]))


def _of_polars_series(series: Any) -> ValueSummary:
    return ValueSummary(size=series.estimated_size(), shape=list(series.shape), type_text=str(series.dtype.base_type()))


def _with_columns(size: int | None, shape: list[int], names: list[object]) -> ValueSummary:
    summary = ValueSummary(size=size, shape=shape)
    return summary._replace(type_text="columns", items=names, total=shape[1], bare=True) if names else summary


# --- pandas -----------------------------------------------------------------------------------------------------------


def _of_pandas_series(series: Any) -> ValueSummary:
    dtype, rows = series.dtype, _index_length(series.index)
    shape = None if rows is None else [rows]
    if not _is_known_dtype(dtype):
        return ValueSummary(shape=shape, type_text=type_name(type(dtype)))
    array = series.array
    summary = ValueSummary(size=array.nbytes, shape=shape, type_text=str(dtype))
    first = array[:_FIRST]
    if dtype.kind not in _PLAIN or first.nbytes > _FIRST * _MAX_ITEM_BYTES:
        return summary
    missing = _MODULES["pandas"].NA
    items = [None if item is missing else item for item in first.to_numpy(dtype=object).tolist()]
    return summary._replace(items=items, total=len(array))


def _of_pandas_frame(frame: Any) -> ValueSummary:
    rows, columns = _index_length(frame.index), _index_length(frame.columns)
    if rows is None or columns is None:
        return NO_SUMMARY
    return _with_columns(_frame_size(frame, rows), [rows, columns], frame.columns[:_FIRST].tolist())


def _frame_size(frame: Any, rows: int) -> int | None:
    """Return the bytes of a frame's data, or None if a column's array is foreign."""
    size = extension_columns = 0
    for number, dtype in enumerate(frame.dtypes.tolist()):
        if _is_numpy_dtype(dtype):
            size += rows * dtype.itemsize
            continue
        extension_columns += 1
        if extension_columns > _MAX_EXTENSION_COLUMNS or not _is_known_dtype(dtype):
            return None
        size += frame.iloc[:, number].array.nbytes
    return size


def _index_length(index: Any) -> int | None:
    """Return an index's length, or None if its class or its array is foreign."""
    return len(index) if _is_pandas_class(type(index)) and _is_known_dtype(index.dtype) else None


def _is_known_dtype(dtype: object) -> bool:
    """Whether an array of this dtype is numpy's or pandas' own."""
    return _is_numpy_dtype(dtype) or _is_pandas_class(type(dtype))


def _is_numpy_dtype(dtype: object) -> bool:
    return issubclass(type(dtype), _MODULES["numpy"].dtype)


def _is_pandas_class(cls: type) -> bool:
    return vars(_MODULES["pandas"]).get(_name_and_module(cls)[0]) is cls


_READERS: dict[str, Callable[[Any], ValueSummary]] = {
    "numpy.ndarray": _of_numpy_array,
    "pandas.DataFrame": _of_pandas_frame,
    "pandas.Series": _of_pandas_series,
    "polars.DataFrame": _of_polars_frame,
    "polars.Series": _of_polars_series,
    "pyarrow.RecordBatch": _of_arrow,
    "pyarrow.Table": _of_arrow,
    "torch.Tensor": _of_torch_tensor,
}
