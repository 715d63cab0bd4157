"""The parts of a structured value, and where in it a part is that cannot be encoded."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import sys
from collections import abc
from typing import TYPE_CHECKING, Any

from .libraries import UnsupportedValue
from .records import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ARGUMENTS = "()"  # the root of a call's arguments, encoded as [args, kwargs]
FIELDS = ""  # the root of a dict whose keys are the names of values
_MAX_STEPS = 16
_MAX_KEY_CHARS = 40
_MAX_CHILDREN = 1_000_000
_SEQUENCES = (list, tuple, collections.deque)


def record_fields(value: Any) -> abc.Mapping[str, Any] | None:
    """Return the fields of a record, dataclass or namedtuple; None for other values."""
    if isinstance(value, Record):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        try:
            return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        except AttributeError as error:
            raise UnsupportedValue(f"{type(value).__name__} has a field without a value: {error}") from None
    fields = getattr(type(value), "_fields", None)
    if isinstance(value, tuple) and isinstance(fields, tuple):
        return dict(zip(fields, value, strict=False))
    return None


def adapt(value: Any, *, models_only: bool) -> tuple[Any] | None:
    """Return the replacement of ``value`` by an adapter of a library that is already loaded; nothing is imported."""
    if "pydantic" not in sys.modules:
        return None
    from .pydantic_codec import adapt, adapt_other

    return adapt(value) or (None if models_only else adapt_other(value))


def find_part(value: Any, fails: Callable[[Any], bool], root: str) -> str:
    """Return the expression of the innermost part of ``value`` that ``fails``, such as ``answer.items[3]``.

    Args:
        value: A value that fails.
        fails: Whether a part alone fails.
        root: The name of the value. :data:`ARGUMENTS` and :data:`FIELDS` take the name from the first steps.
    """
    steps: list[tuple[str, Any]] = []
    while len(steps) < _MAX_STEPS:
        found = next(((step, part) for step, part in _parts(value) if fails(part)), None)
        if found is None:
            return _expression(root, steps)
        steps.append(found[0])
        value = found[1]
    return _expression(root, steps) + "..."


def _parts(value: Any) -> Iterator[tuple[tuple[str, Any], Any]]:
    """Yield each part of a value with its step: the kind of access, and the index, key or name."""
    fields = record_fields(value)
    if fields is None:
        model = adapt(value, models_only=True)
        fields = record_fields(model[0]) if model is not None else None
    if fields is not None:
        parts: Iterator[tuple[tuple[str, Any], Any]] = ((("field", name), part) for name, part in fields.items())
    elif isinstance(value, abc.Mapping):
        keys = ((("key", None), key) for key in value)
        parts = itertools.chain(((("item", key), part) for key, part in value.items()), keys)
    elif isinstance(value, _SEQUENCES):
        parts = ((("item", index), part) for index, part in enumerate(value))
    elif isinstance(value, (set, frozenset, abc.KeysView, abc.ValuesView, abc.ItemsView)):
        parts = ((("member", None), part) for part in value)
    else:
        return
    yield from itertools.islice(parts, _MAX_CHILDREN)


def _expression(root: str, steps: list[tuple[str, Any]]) -> str:
    if root == ARGUMENTS and len(steps) > 1:
        (_, place), (_, name), *steps = steps
        root = f"argument {name + 1}" if place == 0 else f"argument {name}"
    elif root == FIELDS and steps:
        (_, name), *steps = steps
        root = str(name)
    return root + "".join(map(_step, steps))


def _step(step: tuple[str, Any]) -> str:
    kind, key = step
    if kind == "field":
        return f".{key}"
    if kind == "member":
        return "{...}"
    if kind == "key":
        return ".keys()"
    if isinstance(key, str) and len(key) > _MAX_KEY_CHARS:
        return f"[{key[:_MAX_KEY_CHARS]!r}...]"
    return f"[{key!r}]" if isinstance(key, str) or (type(key) is int and abs(key) < 1 << 63) else "[...]"
