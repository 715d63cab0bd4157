"""Dispatch of values to the codec module of their library.

Such a value is ``{"$": "LIBRARY.KIND", "v": [tree, pieces]}``. ``tree`` is a value like any other, ``pieces`` are
base64 text, or the index of a buffer from 64 KiB on. The codec module of the library defines their meaning. It is
imported only if its library is already loaded, or if a received value has its tag. It has two functions.
``take_apart(value, arrow)`` returns the kind, the tree and the buffers, or None for a value of another type.
``put_together(kind, tree, buffers, claim)`` builds the value; it may raise any exception for a wrong tree or buffer.
Before it allocates more memory than its buffers take, it calls ``claim`` with the size in bytes. ``arrow`` is true if
both sides have pyarrow.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

from ..wire.protocol_errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EncodedParts = tuple[str, Any, list[Any]]

MODULES = {
    "numpy": ".numpy_codec",
    "pandas": ".pandas_codec",
    "polars": ".polars_codec",
    "pyarrow": ".pyarrow_codec",
    "PIL": ".pillow_codec",
}
_INSTALL = {"PIL": "pillow"}
# Kinds whose tree begins with a plain value, which is used where the library is not installed.
_WITH_SUBSTITUTE = {"numpy.scalar", "pandas.scalar"}


class UnsupportedValue(TypeError):
    """The error for a value that no codec can encode."""


class MissingLibrary(RemoteProtocolError):
    """The error for a received value whose library is not installed on this side."""


def has_arrow() -> bool:
    """Return whether this side can read values in Arrow's format."""
    if "pyarrow" in sys.modules:  # None in sys.modules prevents an import
        return sys.modules["pyarrow"] is not None
    return _is_installed("pyarrow")


@functools.cache
def _is_installed(library: str) -> bool:
    return importlib.util.find_spec(library) is not None


def take_apart(value: Any, arrow: bool = False) -> EncodedParts | None:
    """Return the encoded form of ``value`` and its kind ``LIBRARY.KIND``, or None if no codec module supports it."""
    for cls in type(value).__mro__:
        library = cls.__module__.partition(".")[0]
        if library in MODULES and library in sys.modules:
            parts: EncodedParts | None = _module(library).take_apart(value, arrow)
            if parts is not None:
                return f"{library}.{parts[0]}", parts[1], parts[2]
    return None


def min_size(value: Any) -> int:
    """Return the minimum size in bytes of an encoded numpy array; sending expands one with repeated memory."""
    if type(value).__module__ != "numpy" or not hasattr(value, "dtype") or value.dtype.hasobject:
        return 0
    return int(value.nbytes)


def plain_form(value: Any) -> tuple[Any] | None:
    """Return the plain Python form of a scalar or array in a tuple of one, or None for other values."""
    parts = take_apart(value)
    if parts is None or parts[0] not in {*_WITH_SUBSTITUTE, "numpy.array"}:
        return None
    return (value.tolist() if parts[0] == "numpy.array" else parts[1][0],)


def put_together(tag: str, tree: Any, buffers: Sequence[Any], claim: Callable[[int], None]) -> Any:
    """Return the decoded value.

    Raises:
        MissingLibrary: If its library is not installed.
        RemoteProtocolError: If no codec module has this tag.
        Exception: If tree or buffers are wrong.
    """
    library, _, kind = tag.partition(".")
    if library not in MODULES:
        raise RemoteProtocolError(f"values have no tag {tag[:40]!r}")
    try:
        return _module(library).put_together(kind, tree, buffers, claim)
    except ImportError as error:
        if tag in _WITH_SUBSTITUTE:
            return tree[0]
        missing = str(error.name or library).partition(".")[0]
        name = _INSTALL.get(missing, missing)
        raise MissingLibrary(
            f"a value of {library} came, and {name} is not installed where it arrived: "
            f"install {name} there, or send plain Python"
        ) from None


def arrow_stream(columns: list[Any]) -> list[Any]:
    """Return a frame's buffers: the Arrow IPC stream of its ``columns``, or none without columns."""
    return [_module("pyarrow").stream_of(columns)] if columns else []


def arrow_columns(buffers: Sequence[Any], **options: bool) -> list[Any]:
    """Return the columns in a frame's buffers, in reverse order."""
    return _module("pyarrow").columns_of(*buffers, **options)[::-1] if buffers else []


def _module(library: str) -> Any:
    return importlib.import_module(MODULES[library], __package__)
