"""Values as plain JSON, for callers that need no more than that."""

from __future__ import annotations

import collections
import datetime
import enum
from collections import abc
from typing import Any

from . import libraries
from .structure import adapt, record_fields
from .unpacking import MAX_DEPTH, MAX_RANGE


def json_form(value: Any, depth: int = 0) -> Any:
    """Return ``value`` as plain JSON: sets as lists, dates as ISO text, unsupported types as their repr.

    For callers that pass the result to ``json.dumps`` without a fallback.
    """
    if depth > MAX_DEPTH:
        return "..."
    if value is None or isinstance(value, (bool, int, float, str)):
        return _plain_scalar(value)
    if isinstance(value, enum.Enum):
        return json_form(value.value, depth + 1)
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    fields = record_fields(value) or (value if isinstance(value, abc.Mapping) else None)
    if fields is not None:
        return {str(key): json_form(item, depth + 1) for key, item in fields.items()}
    if isinstance(value, (list, tuple, set, frozenset, collections.deque)) or (
        isinstance(value, range) and not value[MAX_RANGE:]
    ):
        return [json_form(item, depth + 1) for item in value]
    plain = adapt(value, models_only=True) or libraries.plain_form(value)
    return repr(value) if plain is None else json_form(plain[0], depth + 1)


def _plain_scalar(value: Any) -> Any:
    """Return a scalar as its exact builtin type; Enum members and other subclasses are converted."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind.__str__(value) if kind is str else kind(value)
    raise AssertionError("a scalar is one of these")
