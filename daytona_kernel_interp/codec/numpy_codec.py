"""numpy: arrays and scalars.

========== ============================================ ==========================================================
kind        tree                                         buffers
========== ============================================ ==========================================================
``array``   [dtype, shape, "C" or "F"]                   the elements, in that order
``texts``   [shape]                                      lengths in characters, int32; the UTF-8 of all joined
``objects`` [shape, items in C order]                    none
``scalar``  [plain value, dtype]                         none
========== ============================================ ==========================================================

A dtype is numpy's type string (``"<f8"``, ``"<M8[ns]"``), or a list of [name, dtype, shape] for a structured one. Byte
orders are part of it. ``texts`` is an object array of nothing but str, None (length -1) and nan (length -2).
"""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from .libraries import UnsupportedValue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_DTYPE = re.compile(r"[<>|]([biufcSU]\d{1,9}|V[1-9]\d{0,8}|[mM]8(\[\d{0,9}[a-zA-Z]{1,2}\])?)")
_KINDS = "biufcSUMmV"
_MAX_DIMENSIONS = 32
_MAX_FIELD_DEPTH = 8
_LENGTH = np.dtype("<i4")
_NONE, _NAN = -1, -2
TEXT_BYTES = 120  # per text: the str object, its slots in a list and an array, its two offsets


def take_apart(value: Any, arrow: bool) -> tuple[str, Any, list[Any]] | None:
    """Return kind, tree and buffers of an array or scalar."""
    if isinstance(value, np.generic):
        return _take_scalar(value)
    if not isinstance(value, np.ndarray):
        return None
    if isinstance(value, np.ma.MaskedArray):
        raise UnsupportedValue("a masked array cannot be sent: send its data and its mask, or value.filled(...)")
    value = np.asarray(value)
    if value.dtype.hasobject and value.dtype.kind == "O":
        items = value.reshape(-1).tolist()
        packed = pack_texts(items)
        shape = list(value.shape)
        return ("objects", [shape, items], []) if packed is None else ("texts", [shape], packed)
    if value.dtype.itemsize == 0:
        value = value.astype(f"{value.dtype.kind}1")
    order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
    flat = np.ascontiguousarray(value.T if order == "F" else value).reshape(-1)
    data = _bytes_of(flat) if flat.size else b""
    return "array", [_dtype_form(value.dtype), list(value.shape), order], [data]


def _take_scalar(value: Any) -> tuple[str, Any, list[Any]]:
    dtype = _dtype_form(value.dtype if value.dtype.itemsize else np.dtype(f"{value.dtype.kind}1"))
    if value.dtype.kind in "mM":
        return "scalar", [int(value.view(np.int64)), dtype], []
    if value.dtype.kind == "V":
        raise UnsupportedValue("a numpy record cannot be sent by itself: send value.item(), or an array of it")
    kinds: dict[str, Callable[[Any], Any]] = {"U": str.__str__, "S": bytes}  # item() strips trailing zeros
    return "scalar", [kinds.get(value.dtype.kind, np.generic.item)(value), dtype], []


def put_together(kind: str, tree: Any, buffers: Sequence[Any], claim: Callable[[int], None]) -> Any:
    """Return the decoded array or scalar. An array is writable and owns its memory."""
    if kind == "array":
        dtype, shape, order = tree
        return _array(_dtype(dtype), _shape(shape), order, *buffers)
    if kind == "texts":
        (shape,) = tree
        claim(sum(map(len, buffers)) * TEXT_BYTES // _LENGTH.itemsize)
        return _sized(_shape(shape), np.array(unpack_texts(*buffers), object))
    if kind == "objects":
        shape, items = tree
        return _objects(_shape(shape), items)
    if kind == "scalar":
        plain, dtype = tree
        return _scalar(plain, _dtype(dtype))
    raise ValueError("no such kind")


def pack_texts(items: list[Any]) -> list[Any] | None:
    """Return the lengths and UTF-8 of a list of str, None and nan; return None for a list with other items."""
    if not items:
        return None
    try:
        lengths = np.fromiter(map(len, items), _LENGTH, len(items))
        return [_bytes_of(lengths), "".join(items).encode("utf-8", "surrogatepass")]
    except (TypeError, OverflowError):
        pass
    marks = [
        len(item) if isinstance(item, str) else _NONE if item is None else _NAN if _is_nan(item) else None
        for item in items
    ]
    if None in marks or max(marks, default=0) >= 1 << 31:  # type: ignore[type-var, operator]
        return None
    text = "".join(item for item in items if isinstance(item, str))
    lengths = np.array(marks, _LENGTH)
    return [_bytes_of(lengths), text.encode("utf-8", "surrogatepass")]


def unpack_texts(lengths: Any, data: Any) -> list[Any]:
    """Return the list that :func:`pack_texts` encoded in these buffers."""
    text = str(data, "utf-8", "surrogatepass")
    sizes = np.frombuffer(lengths, _LENGTH).astype(np.int64)
    if sizes.size and sizes.min() < _NAN:
        raise ValueError("a text of negative length")
    ends = np.maximum(sizes, 0).cumsum()
    if (int(ends[-1]) if ends.size else 0) != len(text):
        raise ValueError("the lengths of texts do not add up")
    bounds = [0, *ends.tolist()]
    items: list[Any] = [text[start:end] for start, end in pairwise(bounds)]
    for place in np.flatnonzero(sizes < 0).tolist():
        items[place] = None if sizes[place] == _NONE else math.nan
    return items


def _bytes_of(array: Any) -> memoryview:
    return memoryview(array.view(np.uint8))


def _is_nan(item: Any) -> bool:
    return type(item) is float and item != item


def _array(dtype: np.dtype[Any], shape: tuple[int, ...], order: Any, data: Any) -> Any:
    if order not in ("C", "F"):
        raise ValueError("an order is C or F")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError("an array has another size than its buffer")
    if not len(data):
        return np.empty(shape, dtype)
    flat = np.frombuffer(data, dtype)
    _check_elements(flat)
    if order == "F":
        return flat.reshape(shape[::-1]).T.copy(order="F")
    return flat.reshape(shape).copy()


def _check_elements(flat: Any) -> None:
    """Check the element values that numpy does not validate."""
    dtype = flat.dtype
    for name in dtype.names or ():
        _check_elements(np.ascontiguousarray(flat[name]).reshape(-1))
    if dtype.kind == "b" and flat.view(np.uint8).max() > 1:
        raise ValueError("a bool is 0 or 1")
    if dtype.kind == "U" and flat.view(np.dtype("u4").newbyteorder(dtype.byteorder)).max() > 0x10FFFF:
        raise ValueError("no such character")


def _objects(shape: tuple[int, ...], items: Any) -> Any:
    flat = np.empty(len(items), object)
    for place, item in enumerate(items):  # np.array(items) would examine the items
        flat[place] = item
    return _sized(shape, flat)


def _sized(shape: tuple[int, ...], flat: Any) -> Any:
    if math.prod(shape) != flat.size:
        raise ValueError("an array has another size than its items")
    return flat.reshape(shape)


def _scalar(plain: Any, dtype: np.dtype[Any]) -> Any:
    if dtype.kind in "mM":
        return np.array(int(plain), np.int64).view(dtype)[()]
    if dtype.kind == "V" or not isinstance(plain, (bool, int, float, complex, str, bytes)):
        raise ValueError("not the value of a scalar")
    if dtype.kind in "SU":  # no array is built: its size would follow from the received dtype
        if type(plain) is not (bytes if dtype.kind == "S" else str) or dtype.itemsize > 4 * max(1, len(plain)):
            raise ValueError("not a scalar of its dtype")
        return dtype.type(plain)
    value = np.array(plain).astype(dtype)[()]
    if value.dtype != dtype:
        raise ValueError("not a scalar of its dtype")
    return value


def _shape(sizes: Any) -> tuple[int, ...]:
    if len(sizes) > _MAX_DIMENSIONS or any(type(size) is not int or not 0 <= size < 1 << 62 for size in sizes):
        raise ValueError("not a shape")
    return tuple(sizes)


def _dtype_form(dtype: np.dtype[Any]) -> Any:
    if dtype.kind not in _KINDS or dtype.hasobject:
        raise UnsupportedValue(f"numpy dtype {dtype} cannot be sent: convert the array with astype(object)")
    if not _is_portable(dtype):
        raise UnsupportedValue(f"numpy dtype {dtype} differs between machines: convert the array with astype(float)")
    if dtype.names is None:
        return dtype.str
    described: Any
    try:
        described = np.lib.format.dtype_to_descr(dtype)
    except ValueError:
        described = dtype.str
    if not isinstance(described, list):
        raise UnsupportedValue(f"numpy dtype {dtype} cannot be sent: its fields overlap")
    return _fields_form(described)


def _fields_form(described: Any) -> Any:
    if not isinstance(described, list):
        return described
    return [[name, _fields_form(inner), list(shape[0]) if shape else []] for name, inner, *shape in described]


def _dtype(form: Any, depth: int = 0) -> np.dtype[Any]:
    if depth > _MAX_FIELD_DEPTH:
        raise ValueError("fields nest too deeply")
    if isinstance(form, (list, tuple)):
        described = np.lib.format.dtype_to_descr
        fields: list[Any] = [
            (str(name), described(_dtype(inner, depth + 1)), _shape(shape)) for name, inner, shape in form
        ]
        dtype = np.lib.format.descr_to_dtype(fields)
        if dtype.itemsize == 0:  # an array of it has any length without memory, until a conversion allocates it
            raise ValueError("not a dtype")
        return dtype
    if not isinstance(form, str) or _DTYPE.fullmatch(form) is None:
        raise ValueError("not a dtype")
    dtype = np.dtype(form)
    if dtype.itemsize == 0 or not _is_portable(dtype):
        raise ValueError("not a dtype")
    return dtype


def _is_portable(dtype: np.dtype[Any]) -> bool:
    """Return whether a dtype has the same form on all machines; a long double does not."""
    return dtype.kind not in "fc" or dtype.itemsize <= (16 if dtype.kind == "c" else 8)
