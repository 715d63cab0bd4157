"""pandas: frames, series, indexes and scalars, as Arrow IPC where both sides have pyarrow, else column by column.

pyarrow is required only for columns with a pyarrow dtype.

========= ==================================================================================
kind       tree
========= ==================================================================================
``frame``  [columns, index, [column, ...], attrs]
``series`` [name, index, column]
``index``  the index
``scalar`` [plain value, "timestamp", zone, unit], [.., "timedelta", unit], [None, "NaT" or "NA"]
========= ==================================================================================

An index is ["range", name, start, stop, step], ["multi", names, [index, ...], [codes, ...]] or ["plain", name, column,
freq]. A column is a list too, see ``_column``; its arrays are numpy's. ["ipc", ...] is the next column of the Arrow
IPC stream, which is the only buffer in that case: see :mod:`.pandas_arrow`.
"""

from __future__ import annotations

import datetime
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .libraries import UnsupportedValue, arrow_columns, arrow_stream
from .numpy_codec import TEXT_BYTES
from .pandas_compat import text_dtype
from .time_zones import zone_of, zone_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_FREQUENCY = re.compile(r"-?[A-Za-z0-9.-]{1,32}")
_UNITS = ("s", "ms", "us", "ns")
_MASKED = {
    **{f"{sign}Int{bits}": pd.arrays.IntegerArray for sign in ("", "U") for bits in (8, 16, 32, 64)},
    **{f"Float{bits}": pd.arrays.FloatingArray for bits in (32, 64)},
    "boolean": pd.arrays.BooleanArray,
}


def take_apart(value: Any, arrow: bool) -> tuple[str, Any, list[Any]] | None:
    """Return kind, tree and buffers of a pandas object, or None for other values."""
    if isinstance(value, pd.DataFrame):
        columns, buffers = _columns([value.iloc[:, place] for place in range(value.shape[1])], arrow)
        return "frame", [_index(value.columns), _index(value.index), columns, dict(value.attrs)], buffers
    if isinstance(value, pd.Series):
        (column,), buffers = _columns([value], arrow)
        return "series", [value.name, _index(value.index), column], buffers
    if isinstance(value, pd.Index):
        return "index", _index(value), []
    return _take_scalar(value)


def put_together(kind: str, tree: Any, buffers: Sequence[Any], claim: Callable[[int], None]) -> Any:
    """Return the decoded pandas object."""
    if kind == "frame":
        columns, index, data, attrs = tree
        # A range as long as the columns is not charged: pandas checks the length before it makes anything of it.
        _claim_unpacked([columns, data, index if not data or index[0] != "range" else None], claim)
        names = _build_index(columns)
        if len(names) != len(data):
            raise ValueError("a frame has another number of columns than of names")
        streamed = arrow_columns(buffers)
        arrays = {place: _as_series(_build_column(column, streamed)) for place, column in enumerate(data)}
        frame = _frame_of(arrays, _build_index(index))
        frame.columns = names
        frame.attrs = dict(attrs)
        return frame
    if kind == "series":
        name, index, column = tree
        _claim_unpacked([column, index if index[0] != "range" else None], claim)
        return _as_series(_build_column(column, arrow_columns(buffers)), index=_build_index(index), name=name)
    if kind == "index":
        _claim_unpacked(tree, claim)
        return _build_index(tree)
    if kind == "scalar":
        return _build_scalar(*tree)
    raise ValueError("no such kind")


def _as_series(array: Any, **options: Any) -> Any:
    """Return a series with the dtype of the array; pandas would convert str objects to its string dtype."""
    return pd.Series(array, dtype=array.dtype, copy=False, **options)


def _frame_of(arrays: dict[int, Any], index: Any) -> Any:
    if any(len(array) != len(index) for array in arrays.values()):
        raise ValueError("a column has another length than the index")
    for array in arrays.values():
        array.index = index
    return pd.DataFrame(arrays, index=index, copy=False)


def _take_scalar(value: Any) -> tuple[str, Any, list[Any]] | None:
    if value is pd.NaT or value is pd.NA:
        return "scalar", [None, "NaT" if value is pd.NaT else "NA"], []
    if isinstance(value, pd.Timestamp):
        plain = value.to_pydatetime(warn=False)
        return "scalar", [plain, "timestamp", int(value.asm8.view("i8")), zone_text(value.tz), value.unit], []
    if isinstance(value, pd.Timedelta):
        plain = datetime.timedelta(value.days, value.seconds, value.microseconds)
        return "scalar", [plain, "timedelta", int(value.asm8.view("i8")), value.unit], []
    return None


def _build_scalar(plain: Any, what: Any, *rest: Any) -> Any:
    if what in ("NaT", "NA") and not rest:
        return pd.NaT if what == "NaT" else pd.NA
    ticks, *zone, unit = rest
    if type(ticks) is not int or unit not in _UNITS:
        raise ValueError("not a moment")
    if what == "timestamp":
        return pd.Timestamp(ticks, unit=unit, tz=zone_of(*zone)).as_unit(unit)
    if what == "timedelta" and not zone:
        return pd.Timedelta(ticks, unit=unit).as_unit(unit)
    raise ValueError("no such scalar")


# --- indexes ------------------------------------------------------------------------------------------


def _index(index: Any) -> list[Any]:
    if isinstance(index, pd.RangeIndex):
        return ["range", index.name, index.start, index.stop, index.step]
    if isinstance(index, pd.MultiIndex):
        levels = [_index(level) for level in index.levels]
        return ["multi", list(index.names), levels, [np.asarray(codes) for codes in index.codes]]
    freq = getattr(index, "freqstr", None) if isinstance(index, (pd.DatetimeIndex, pd.TimedeltaIndex)) else None
    return ["plain", index.name, _column(index), freq]


def _build_index(tree: Any) -> Any:
    match tree:
        case ["range", name, int(start), int(stop), int(step)]:
            return pd.RangeIndex(start, stop, step, name=name)
        case ["multi", [*names], [*levels], [*codes]]:
            return pd.MultiIndex([_build_index(level) for level in levels], codes, names=names)
        case ["plain", name, column, None]:
            array = _build_column(column)
            dtype = array.dtype if isinstance(array, np.ndarray) else None  # keeps the dtype object, also for str
            return pd.Index(array, dtype=dtype, name=name, copy=False)
        case ["plain", name, column, str(freq)] if _FREQUENCY.fullmatch(freq):
            index = pd.Index(_build_column(column), name=name, copy=False)
            index.freq = freq  # raises if the values do not conform to it
            return index
    raise ValueError("not an index")


# --- columns -----------------------------------------------------------------------------------------


def _columns(series: list[Any], arrow: bool) -> tuple[list[list[Any]], list[Any]]:
    """Return the encoded columns, and the Arrow IPC stream with those that use it."""
    if not arrow:
        return [_column(one) for one in series], []
    from .pandas_arrow import take_column

    taken = [take_column(one) for one in series]
    columns = [_column(one) if parts is None else ["ipc", *parts[0]] for one, parts in zip(series, taken, strict=True)]
    streamed = [parts[1] for parts in taken if parts is not None]
    return columns, arrow_stream(streamed)


def _column(values: Any) -> list[Any]:
    """Return the encoded values of a series or an index."""
    dtype = values.dtype
    match dtype:
        case np.dtype():
            return ["numpy", values.to_numpy()]
        case pd.StringDtype():
            return _texts(values, dtype)
        case pd.CategoricalDtype():
            codes = (values if isinstance(values, pd.Index) else values.cat).codes
            return ["category", np.asarray(codes), _index(dtype.categories), dtype.ordered]
        case pd.DatetimeTZDtype():
            bare = (values if isinstance(values, pd.Index) else values.dt).tz_convert(None)
            return ["zoned", zone_text(dtype.tz), bare.to_numpy()]
        case pd.PeriodDtype():
            periods = pd.PeriodIndex(values)
            return ["period", periods.freqstr, periods.asi8]
        case pd.IntervalDtype():
            intervals = pd.IntervalIndex(values)
            return ["interval", _column(intervals.left), _column(intervals.right), dtype.closed]
        case pd.ArrowDtype():
            import pyarrow

            return ["arrow", pyarrow.array(values)]
        case pd.SparseDtype():
            raise UnsupportedValue("a sparse pandas column cannot be sent: make it dense with .sparse.to_dense()")
    if str(dtype) not in _MASKED:
        raise UnsupportedValue(f"pandas dtype {dtype} cannot be sent: convert the column with astype(object)")
    data = values.to_numpy(dtype=dtype.numpy_dtype, na_value=0)
    return ["masked", str(dtype), data, np.asarray(values.isna())]


def _build_column(tree: Any, streamed: list[Any] | None = None) -> Any:
    match tree:
        case ["ipc", *parts]:
            from .pandas_arrow import build_column

            return build_column(parts, (streamed or []).pop())
        case ["numpy", np.ndarray(ndim=1) as array]:
            return array
        case ["masked", dtype, data, mask]:
            return _MASKED[dtype](data, mask)
        case ["string", "python" | "pyarrow" as storage, "NA" | "nan" as missing, offsets, data, there]:
            return _build_texts(storage, missing, offsets, data, there)
        case ["category", codes, categories, ordered]:
            return pd.Categorical.from_codes(codes, _build_index(categories), ordered=bool(ordered))
        case ["zoned", zone, moments]:
            return pd.DatetimeIndex(moments, copy=False).tz_localize("UTC").tz_convert(zone_of(zone)).array
        case ["period", str(freq), ordinals] if _FREQUENCY.fullmatch(freq):
            return pd.PeriodIndex.from_ordinals(ordinals, freq=freq).array
        case ["interval", left, right, closed]:
            return pd.arrays.IntervalArray.from_arrays(_build_column(left), _build_column(right), closed=closed)
        case ["arrow", array]:
            return pd.arrays.ArrowExtensionArray(array)
    raise ValueError("not a column")


def _texts(values: Any, dtype: Any) -> list[Any]:
    """Return strings as offsets into UTF-8, the layout of pyarrow."""
    missing = "NA" if dtype.na_value is pd.NA else "nan"
    there = np.asarray(values.notna())
    items = values.to_numpy(dtype=object, na_value="").tolist()
    text = "".join(items)
    data = text.encode("utf-8", "surrogatepass")
    sizes = map(len, items if len(data) == len(text) else (item.encode("utf-8", "surrogatepass") for item in items))
    offsets = np.zeros(len(items) + 1, np.int64)
    np.cumsum(np.fromiter(sizes, np.int64, len(items)), out=offsets[1:])
    return ["string", dtype.storage, missing, offsets, np.frombuffer(data, np.uint8), None if there.all() else there]


def _build_texts(storage: str, missing: str, offsets: Any, data: Any, there: Any) -> Any:
    _check_texts(offsets, data, there)
    items = _to_objects(offsets, data, there)
    try:
        return pd.array(items, dtype=text_dtype(storage, missing))
    except (ImportError, ValueError):  # pyarrow is not installed, or refuses lone surrogates
        return pd.array(items, dtype=text_dtype("python", missing))


def _claim_unpacked(tree: Any, claim: Callable[[int], None]) -> None:
    """Claim the memory of string columns, which are built as objects, and of what is stored shorter than it is used.

    pandas makes an array of a range and of categories wherever it has to: in a level of an index, in a ``repr``.
    """
    match tree:
        case ["range", _, int(start), int(stop), int(step)]:
            claim(8 * len(range(start, stop, step)))
        case ["category", np.ndarray() as codes, categories, _]:
            claim(8 * codes.size)
            _claim_unpacked(categories, claim)
        case ["multi", _, [*levels], [*codes]]:
            claim(8 * sum(np.size(one) for one in codes))
            _claim_unpacked(levels, claim)
        case ["string", _, _, np.ndarray() as offsets, np.ndarray() as data, _]:
            claim(TEXT_BYTES * offsets.size + data.size)
        case [*parts]:
            for part in parts:
                _claim_unpacked(part, claim)


def _check_texts(offsets: Any, data: Any, there: Any) -> None:
    for array, kind in ((offsets, np.int64), (data, np.uint8), *([] if there is None else [(there, np.bool_)])):
        if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype != kind:
            raise ValueError("not a column of texts")
    rising = offsets.size and offsets[0] == 0 and offsets[-1] == data.size and (np.diff(offsets) >= 0).all()
    if not rising or (there is not None and there.size != offsets.size - 1):
        raise ValueError("the offsets of texts are wrong")


def _to_objects(offsets: Any, data: Any, there: Any) -> Any:
    raw, ends = data.tobytes(), offsets.tolist()
    items: Any = np.empty(len(ends) - 1, object)
    if raw.isascii():
        text = raw.decode("ascii")
        items[:] = [text[start:end] for start, end in pairwise(ends)]
    else:
        items[:] = [raw[start:end].decode("utf-8", "surrogatepass") for start, end in pairwise(ends)]
    if there is not None:
        items[~there] = None
    return items
