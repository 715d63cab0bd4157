"""Convert a call's arguments to the types that the tool's annotations ask for.

A cell has no instance of a host's class to pass; it passes a dict, or an object that arrives as a record. A parameter
annotated with a pydantic model or a dataclass, also within a list or the like, gets a validated instance. Nothing else
is converted: a tool that is annotated with ``int`` gets what the cell passed. Without pydantic (DSPy installs it)
nothing is converted.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
import weakref
from typing import TYPE_CHECKING, Any

from .signatures import innermost

if TYPE_CHECKING:
    from collections.abc import Callable

    from .bound_arguments import BoundArguments

_MAX_DEPTH = 8
# Built once: for a dataclass this takes almost as long as the rest of a call. Weak: a tool may hold the interpreter,
# which must remain collectable.
_validators_by_tool: weakref.WeakKeyDictionary[Any, dict[str, Any]] = weakref.WeakKeyDictionary()


def validate_arguments(tool: Callable[..., Any], arguments: BoundArguments) -> BoundArguments:
    """Return the arguments, with validated instances instead of dicts and records.

    Raises:
        pydantic.ValidationError: If they are invalid; the text names each invalid field.
    """
    if "__signature__" in getattr(tool, "__dict__", {}):  # a wrapper that validates itself, such as DSPy's
        return arguments
    validators = _validators_of(tool)
    if not validators:
        return arguments
    return arguments.convert(
        lambda name, value: validators[name].validate_python(value) if name in validators else value
    )


def _validators_of(tool: Callable[..., Any]) -> dict[str, Any]:
    """Return a validator for each parameter that needs one."""
    try:
        if tool not in _validators_by_tool:
            _validators_by_tool[tool] = _build_validators(tool)
        return _validators_by_tool[tool]
    except (TypeError, KeyError):  # not hashable or weakly referable; or a bound method, which is new at each use
        return _build_validators(tool)


def _build_validators(tool: Callable[..., Any]) -> dict[str, Any]:
    wanted: dict[str, Any] = {}
    try:
        from pydantic import BaseModel, TypeAdapter  # optional: a kernel can be driven without pydantic
    except ImportError:
        return {}
    try:
        signature = inspect.signature(tool)
        hints = typing.get_type_hints(inspect.unwrap(_annotated_function(tool)), include_extras=True)
    except Exception:  # builtins, and annotations with names that exist for type checkers only
        return {}
    for parameter in signature.parameters.values():
        hint: Any = hints.get(parameter.name)
        if _is_structured(hint, BaseModel):
            wanted[parameter.name] = TypeAdapter(hint)
    return wanted


def _annotated_function(tool: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that has the annotations: of a partial, or of an object with ``__call__``."""
    tool = innermost(tool)
    if inspect.isroutine(tool) or isinstance(tool, type):
        return tool
    called: Callable[..., Any] = type(tool).__call__
    return called


def _is_structured(hint: Any, model: type, depth: int = 0) -> bool:
    if inspect.isclass(hint) and (dataclasses.is_dataclass(hint) or issubclass(hint, model)):
        return True
    return depth < _MAX_DEPTH and any(_is_structured(inner, model, depth + 1) for inner in typing.get_args(hint))
