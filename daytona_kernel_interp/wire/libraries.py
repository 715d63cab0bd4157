"""Libraries: which module of ours carries the values of which library.

Such a value is ``{"$": "LIBRARY.KIND", "v": [tree, pieces]}``. ``tree`` is a value like any other, ``pieces`` are
base64 text, or the index of a buffer from 64 KiB on. What they mean stands in the module, which is imported only if its
library is loaded already, or a value that came asks for it. It has two functions: ``take_apart(value)`` returns the
kind, the tree and the buffers, or None if the value is not its own; ``put_together(kind, tree, buffers, claim)`` builds
the value and raises whatever it likes if they are wrong. It calls ``claim`` with the size in bytes of what takes more
memory than its buffers, before it takes any.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from .errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Parts = tuple[str, Any, list[Any]]

_MODULES = {
    "numpy": ".numpy_values",
    "pandas": ".pandas_values",
    "polars": ".polars_values",
    "pyarrow": ".arrow_values",
    "PIL": ".image_values",
}
_INSTALL = {"PIL": "pillow"}
# Kinds whose tree begins with what stands for the value where its library is missing.
_WITH_SUBSTITUTE = {"numpy.scalar", "pandas.scalar"}


class UnsupportedValue(TypeError):
    """No codec carries this value."""


class MissingLibrary(RemoteProtocolError):
    """A value came whose library is not installed here."""


def take_apart(value: Any) -> Parts | None:
    """Return what carries ``value``, its kind with the library's name before it, or None if no library of ours does."""
    for cls in type(value).__mro__:
        library = cls.__module__.partition(".")[0]
        if library in _MODULES and library in sys.modules:
            parts: Parts | None = _module(library).take_apart(value)
            if parts is not None:
                return f"{library}.{parts[0]}", parts[1], parts[2]
    return None


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
        module = _module(library)
    except ImportError as error:
        if tag in _WITH_SUBSTITUTE:
            return tree[0]
        missing = str(error.name or library).partition(".")[0]
        name = _INSTALL.get(missing, missing)
        raise MissingLibrary(
            f"a value of {library} came, and {name} is not installed where it arrived: "
            f"install {name} there, or send plain Python"
        ) from None
    return module.put_together(kind, tree, buffers, claim)


def _module(library: str) -> Any:
    return importlib.import_module(_MODULES[library], __package__)
