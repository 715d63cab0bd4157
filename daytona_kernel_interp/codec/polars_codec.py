"""polars: frames and series, as Arrow IPC where both sides have pyarrow, else column by column.

========== ====================================
kind        tree
========== ====================================
``frame``   [[name, ...], [column, ...], height]
``series``  [name, column]
========== ====================================

A column is [dtype, "array", numpy array, mask or None], where the mask is true for values that are not null,
[dtype, "items", list], or [dtype, "ipc"]: the next column of the Arrow IPC stream, which is the only buffer in that
case. A dtype is [name, parameter, ...]; a parameter that is a dtype has the same form.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from .libraries import UnsupportedValue, arrow_columns, arrow_stream
from .time_zones import ZONE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_UNITS = ("ms", "us", "ns")
_NUMBERS = ("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Float32", "Float64", "Boolean")
_TEXTS = ("String", "Categorical", "Enum")
_MOMENTS = {"Date": np.int32, "Datetime": np.int64, "Duration": np.int64, "Time": np.int64}
_BARE = (*_NUMBERS, "String", "Categorical", "Date", "Time", "Binary", "Null", "Int128")
_AS_ARROW = (*_NUMBERS, *_MOMENTS, "String", "Binary", "Decimal")
_PARAMETERS = {"Datetime": ("time_unit", "time_zone"), "Duration": ("time_unit",), "Decimal": ("precision", "scale")}
_MAX_DEPTH = 32
_SLOT_BYTES = 24  # per value of a column; of a str, without its characters


def take_apart(value: Any, arrow: bool) -> tuple[str, Any, list[Any]] | None:
    """Return kind, tree and buffers of a frame or series."""
    if isinstance(value, pl.DataFrame):
        columns, buffers = _columns(value.get_columns(), arrow)
        return "frame", [value.columns, columns, value.height], buffers
    if isinstance(value, pl.Series):
        (column,), buffers = _columns([value], arrow)
        return "series", [value.name, column], buffers
    if isinstance(value, pl.LazyFrame):
        raise UnsupportedValue("a polars LazyFrame cannot be sent: collect() it first")
    return None


def put_together(kind: str, tree: Any, buffers: Sequence[Any], claim: Callable[[int], None]) -> Any:
    """Return the decoded frame or series."""
    try:
        streamed = arrow_columns(buffers, plain=True)
        if kind == "series":
            name, column = tree
            return _build_column(name, column, streamed, claim)
        if kind == "frame":
            names, columns, height = tree
            frame = pl.DataFrame([_build_column(*pair, streamed, claim) for pair in zip(names, columns, strict=True)])
            if columns and frame.height != height:
                raise ValueError("a frame has another height than its columns")
            return frame
    except pl.exceptions.PanicException as panic:  # derives from BaseException
        raise ValueError("polars refuses the value") from panic
    raise ValueError("no such kind")


def _columns(series: list[Any], arrow: bool) -> tuple[list[list[Any]], list[Any]]:
    columns: list[list[Any]] = []
    streamed = []
    for one in series:
        if arrow and _goes_as_arrow(one.dtype):
            streamed.append(one.to_arrow(compat_level=pl.CompatLevel.oldest()))
            columns.append([_dtype_form(one.dtype), "ipc"])
        else:
            columns.append(_column(one))
    return columns, arrow_stream(streamed)


def _goes_as_arrow(dtype: Any) -> bool:
    """Return whether a round trip through Arrow keeps this dtype."""
    name = str(dtype.base_type())
    if name == "Struct":
        return all(_goes_as_arrow(field.dtype) for field in dtype.fields)
    return name in _AS_ARROW or (name in ("List", "Array") and _goes_as_arrow(dtype.inner))


def _column(series: Any) -> list[Any]:
    dtype = series.dtype
    form, name = _dtype_form(dtype), str(dtype.base_type())
    if name in _TEXTS:
        return [form, "array", series.cast(pl.String).to_numpy().astype(object), None]
    if name not in _NUMBERS and name not in _MOMENTS:
        return [form, "items", series.to_list()]
    mask = series.is_not_null().to_numpy() if series.null_count() else None
    bare = series.to_physical() if name in _MOMENTS else series
    if mask is not None:
        bare = bare.fill_null(False if name == "Boolean" else 0)
    return [form, "array", bare.to_numpy(), mask]


def _build_column(name: Any, tree: Any, streamed: list[Any], claim: Callable[[int], None]) -> Any:
    form, *parts = tree
    dtype = _dtype(form, 0)
    if not isinstance(name, str):
        raise ValueError("not a name")
    match parts:
        case ["ipc"]:
            series = pl.Series(name, pl.from_arrow(streamed.pop()))
            if series.dtype != dtype:
                raise ValueError("a column has another dtype than its values")
            return series
        case ["items", values]:
            claim(_SLOT_BYTES * sum(map(_slots(form)[1], values)))
            return pl.Series(name, values, dtype=dtype, strict=True)
        case ["array", np.ndarray(ndim=1) as array, _] if form[0] in _TEXTS:
            return pl.Series(name, array.tolist(), dtype=pl.String, strict=True).cast(dtype)
        case ["array", np.ndarray(ndim=1) as array, mask]:
            if array.dtype != _MOMENTS.get(form[0], form[0].lower().replace("boolean", "bool")):
                raise ValueError("a column has another dtype than its values")
            series = pl.Series(name, array)
            if mask is not None:
                if not isinstance(mask, np.ndarray) or mask.dtype != bool or mask.shape != array.shape:
                    raise ValueError("not a mask")
                series = pl.select(pl.when(pl.Series(mask)).then(series).alias(name)).to_series()
            return series.cast(dtype)
    raise ValueError("not a column")


def _slots(form: Any) -> tuple[int, Callable[[Any], int]]:
    """Return the number of slots that a null of a dtype occupies, and a function that counts those of a value.

    A null in a column of structs with 1,000 fields occupies 1,000 slots.
    """
    match form:
        case ["Struct", fields]:
            inner = {name: _slots(dtype) for name, dtype in fields}
            null = 1 + sum(width for width, _ in inner.values())
            return (
                null,
                lambda value: (
                    null
                    + (
                        sum(inner[name][1](item) for name, item in value.items() if name in inner)
                        if isinstance(value, dict)
                        else 0
                    )
                ),
            )
        case ["List" | "Array", dtype, *size]:
            width, count = _slots(dtype)
            null = 1 + width * math.prod(size) if size else 1
            return null, lambda value: null + (sum(map(count, value)) if isinstance(value, list) else 0)
    return 1, lambda value: 1


def _dtype_form(dtype: Any) -> list[Any]:
    name = str(dtype.base_type())
    if name in _PARAMETERS:
        return [name, *(getattr(dtype, parameter) for parameter in _PARAMETERS[name])]
    if name == "Enum":
        return [name, dtype.categories.to_list()]
    if name == "List":
        return [name, _dtype_form(dtype.inner)]
    if name == "Array":
        return [name, _dtype_form(dtype.inner), dtype.size]
    if name == "Struct":
        return [name, [[field.name, _dtype_form(field.dtype)] for field in dtype.fields]]
    if name in _BARE:
        return [name]
    raise UnsupportedValue(f"polars dtype {dtype} cannot be sent: cast the column")


def _dtype(form: Any, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise ValueError("dtypes nest too deeply")
    match form:
        case [str(name)] if name in _BARE:
            return getattr(pl, name)()
        case ["Datetime", str(unit), None | str() as zone] if unit in _UNITS and (zone is None or ZONE.fullmatch(zone)):
            return pl.Datetime(unit, zone)  # type: ignore[arg-type]
        case ["Duration", str(unit)] if unit in _UNITS:
            return pl.Duration(unit)  # type: ignore[arg-type]
        case ["Decimal", int(precision), int(scale)]:
            return pl.Decimal(precision, scale)
        case ["Enum", [*names]]:
            return pl.Enum(names)
        case ["List", inner]:
            return pl.List(_dtype(inner, depth + 1))
        case ["Array", inner, int(size)] if 0 <= size < 1 << 31:
            return pl.Array(_dtype(inner, depth + 1), size)
        case ["Struct", [*fields]]:
            return pl.Struct({str(name): _dtype(inner, depth + 1) for name, inner in fields})
    raise ValueError("not a dtype")
