"""Adapter for pydantic models; imported only where pydantic is loaded already."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from .records import Record


def adapt(value: Any) -> tuple[Any] | None:
    """Return what stands for ``value``, in a tuple of one, or None if it is no model.

    A model with a serializer of its own (dspy.Image and its kin) crosses as what that serializer returns, since its
    author chose it. Any other crosses as a record of its fields, whose values keep their types.
    """
    if not isinstance(value, BaseModel):
        return None
    cls = type(value)
    if cls.__pydantic_decorators__.model_serializers:
        return (value.model_dump(),)
    fields = {name: getattr(value, name) for name in cls.model_fields}
    return (Record(cls.__name__, {**fields, **(value.model_extra or {})}),)


def adapt_other(value: Any) -> tuple[Any] | None:
    """Return the JSON form of what only pydantic knows, such as patterns, addresses and deques, or None.

    DSPy's own interpreter sends that. An iterator is none of it: it would be used up, and may never end.
    """
    if isinstance(value, Iterator):
        return None
    try:
        return (to_jsonable_python(value),)
    except (ValueError, TypeError, RecursionError):
        return None
