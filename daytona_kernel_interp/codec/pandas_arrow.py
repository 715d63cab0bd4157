"""pandas columns in an Arrow IPC stream, where both sides have pyarrow.

Arrow does not keep every property of a pandas column: the string dtype, the unit, and whether a missing value was None
or nan. Each column therefore names its pandas form. A column that Arrow would change is encoded outside the stream.

=================================== ============== ======================================
``["ipc", ...]``                    Arrow type     pandas
=================================== ============== ======================================
``"numpy"``, dtype                  its number     numpy's number; datetimes as their ticks
``"zoned"``, dtype, zone            int64          datetimes with a time zone, as their ticks
``"texts"``                         large_string   an object column that contains only str
``"string"``, storage, "NA" / "nan" large_string   pandas' string dtype
``"arrow"``                         any            a column of that Arrow type
=================================== ============== ======================================
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from .pandas_compat import strings_from_arrow, text_dtype
from .time_zones import zone_of, zone_text

EncodedColumn = tuple[list[Any], Any]  # the elements after "ipc", and the Arrow column

_NUMBERS = {np.dtype(kind).str for kind in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8")}
_MOMENTS = {f"<{kind}8[{unit}]" for kind in "mM" for unit in ("s", "ms", "us", "ns")}


def take_column(values: Any) -> EncodedColumn | None:
    """Return the encoded form of a series, or None if a round trip through Arrow would change it."""
    dtype = values.dtype
    if isinstance(dtype, np.dtype):
        return _take_objects(values) if dtype.kind == "O" else _take_numbers(values.to_numpy(), dtype.str)
    if isinstance(dtype, pd.DatetimeTZDtype):
        taken = _take_numbers(values.dt.tz_convert(None).to_numpy(), f"<M8[{dtype.unit}]")
        return None if taken is None else (["zoned", taken[0][1], zone_text(dtype.tz)], taken[1])
    if isinstance(dtype, pd.StringDtype):
        array = _large(values)
        missing = "NA" if dtype.na_value is pd.NA else "nan"
        return None if array is None else (["string", dtype.storage, missing], array)
    if isinstance(dtype, pd.ArrowDtype):
        return ["arrow"], pa.chunked_array(pa.array(values))
    return None


def _take_numbers(array: Any, dtype: str) -> EncodedColumn | None:
    if dtype not in _NUMBERS and dtype not in _MOMENTS:
        return None
    bare = array.view(np.int64) if dtype in _MOMENTS else array
    return ["numpy", dtype], pa.array(bare, from_pandas=False)


def _take_objects(values: Any) -> EncodedColumn | None:
    if pd.api.types.infer_dtype(values, skipna=False) != "string":
        return None
    array = _large(values.to_numpy())
    return None if array is None else (["texts"], array)


def _large(values: Any) -> Any:
    try:
        return pa.array(values).cast(pa.large_string())
    except (pa.ArrowInvalid, UnicodeError):  # lone surrogates
        return None


def build_column(parts: list[Any], column: Any) -> Any:
    """Return the array of one column of a frame.

    Raises:
        Exception: If ``column`` does not match ``parts``.
    """
    match parts:
        case ["numpy", str(dtype)]:
            return _numbers(column, dtype)
        case ["zoned", str(dtype), str(zone)] if dtype.startswith("<M8"):
            moments = pd.DatetimeIndex(_numbers(column, dtype), copy=False)
            return moments.tz_localize("UTC").tz_convert(zone_of(zone)).array
        case ["texts"] if column.type == pa.large_string() and not column.null_count:
            return column.to_numpy()
        case ["string", "python" | "pyarrow" as storage, "NA" | "nan" as missing] if column.type == pa.large_string():
            dtype = text_dtype(storage, missing)
            return strings_from_arrow(dtype, column) if isinstance(dtype, pd.StringDtype) else column.to_numpy()
        case ["arrow"]:
            return pd.arrays.ArrowExtensionArray(column)
    raise ValueError("not a column of a stream")


def _numbers(column: Any, dtype: str) -> Any:
    """Return the numbers as a copy that owns its memory."""
    bare = np.dtype(np.int64 if dtype in _MOMENTS else dtype if dtype in _NUMBERS else "V0")
    if column.null_count or column.type != pa.from_numpy_dtype(bare):
        raise ValueError("a column has another dtype than its values")
    return column.to_numpy().astype(bare, copy=True).view(dtype)
