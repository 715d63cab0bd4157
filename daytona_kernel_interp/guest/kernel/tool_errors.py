"""Exceptions that a failed tool raises in the cell."""

from __future__ import annotations

import builtins
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...wire.comm import ToolFailure


class ToolError(RuntimeError):
    """A host tool failed.

    ``str(error)`` is ``"<Type>: <message>"``, ``error.type`` and ``error.message`` are its parts. The exception's
    class carries the host class's name and is also a subclass of that class's nearest builtin ancestor, so
    ``except KeyError`` catches the host's KeyError.
    """

    type: str
    message: str

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


def to_exception(failure: ToolFailure) -> ToolError:
    """Return the exception to raise in the cell for ``failure``."""
    for base in (*failure.bases, None):
        try:
            error = _error_class(failure.type, base)(failure.message)
        except TypeError:
            continue  # such as UnicodeDecodeError, which takes other arguments: try the next base
        error.type, error.message = failure.type, failure.message
        return error
    raise AssertionError("ToolError itself takes one message")


@lru_cache(maxsize=256)
def _error_class(name: str, base_name: str | None) -> type[ToolError]:
    base = getattr(builtins, base_name, None) if base_name else None
    bases: tuple[type, ...] = (ToolError,)
    if isinstance(base, type) and issubclass(base, Exception) and not issubclass(ToolError, base):
        bases = (ToolError, base)
    return type(name, bases, {"__module__": ToolError.__module__, "__str__": ToolError.__str__})
