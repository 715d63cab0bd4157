"""Adapter for pydantic models; imported only if pydantic is already loaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from .records import Record


def adapt(value: Any) -> tuple[Any] | None:
    """Return the replacement of a model in a tuple of one, or None for other values.

    A model with a custom serializer, such as dspy.Image, is replaced by the serializer's result. Any other model is
    replaced by a record of its fields, whose values keep their types.
    """
    if not isinstance(value, BaseModel):
        return None
    cls = type(value)
    if cls.__pydantic_decorators__.model_serializers:
        return (value.model_dump(),)
    fields = {name: getattr(value, name) for name in cls.model_fields}
    return (Record(cls.__name__, {**fields, **(value.model_extra or {})}),)


def adapt_other(value: Any) -> tuple[Any] | None:
    """Return the JSON form of types that pydantic supports, such as patterns, addresses and deques, or None.

    DSPy's own interpreter sends the same form. Iterators are excluded: they would be consumed, and may be infinite.
    """
    if isinstance(value, Iterator):
        return None
    try:
        return (to_jsonable_python(value),)
    except (ValueError, TypeError, RecursionError):
        return None
