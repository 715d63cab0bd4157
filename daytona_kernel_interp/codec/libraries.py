"""Libraries: which module of ours carries the values of which library.

Such a value is ``{"$": "LIBRARY.KIND", "v": [tree, pieces]}``. ``tree`` is a value like any other, ``pieces`` are
base64 text, or the index of a buffer from 64 KiB on. What they mean stands in the module, which is imported only if its
library is loaded already, or a value that came asks for it. It has two functions: ``take_apart(value, arrow)`` returns
the kind, the tree and the buffers, or None if the value is not its own; ``put_together(kind, tree, buffers, claim)``
builds the value and raises whatever it likes if they are wrong. It calls ``claim`` with the size in bytes of what takes
more memory than its buffers, before it takes any. With ``arrow``, pyarrow is here and there.
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

_MODULES = {
    "numpy": ".numpy_codec",
    "pandas": ".pandas_codec",
    "polars": ".polars_codec",
    "pyarrow": ".pyarrow_codec",
    "PIL": ".pillow_codec",
}
_INSTALL = {"PIL": "pillow"}
# Kinds whose tree begins with what stands for the value where its library is missing.
_WITH_SUBSTITUTE = {"numpy.scalar", "pandas.scalar"}


class UnsupportedValue(TypeError):
    """No codec carries this value."""


class MissingLibrary(RemoteProtocolError):
    """A value came whose library is not installed here."""


def has_arrow() -> bool:
    """Whether values that came in Arrow's format can be read here."""
    if "pyarrow" in sys.modules:  # or None, which keeps it from being imported
        return sys.modules["pyarrow"] is not None
    return _is_installed("pyarrow")


@functools.cache
def _is_installed(library: str) -> bool:
    return importlib.util.find_spec(library) is not None


def take_apart(value: Any, arrow: bool = False) -> EncodedParts | None:
    """Return what carries ``value``, its kind with the library's name before it, or None if no library of ours does."""
    for cls in type(value).__mro__:
        library = cls.__module__.partition(".")[0]
        if library in _MODULES and library in sys.modules:
            parts: EncodedParts | None = _module(library).take_apart(value, arrow)
            if parts is not None:
                return f"{library}.{parts[0]}", parts[1], parts[2]
    return None


def min_size(value: Any) -> int:
    """Return what a numpy array takes at least: one that repeats its memory would be made whole to be sent."""
    if type(value).__module__ != "numpy" or not hasattr(value, "dtype") or value.dtype.hasobject:
        return 0
    return int(value.nbytes)


def plain_form(value: Any) -> tuple[Any] | None:
    """Return in a tuple of one what a scalar or array is in plain Python, or None if it is neither."""
    parts = take_apart(value)
    if parts is None or parts[0] not in {*_WITH_SUBSTITUTE, "numpy.array"}:
        return None
    return (value.tolist() if parts[0] == "numpy.array" else parts[1][0],)


def put_together(tag: str, tree: Any, buffers: Sequence[Any], claim: Callable[[int], None]) -> Any:
    """Return the value.

    Raises:
        MissingLibrary: If its library is not installed.
        RemoteProtocolError: If no library of ours has such a tag.
        Exception: If tree or buffers are wrong.
    """
    library, _, kind = tag.partition(".")
    if library not in _MODULES:
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


def _module(library: str) -> Any:
    return importlib.import_module(_MODULES[library], __package__)
