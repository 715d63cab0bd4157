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

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_MAX_DEPTH = 8
# Built once: for a dataclass this takes almost as long as the rest of a call. Weak: a tool may hold the interpreter,
# which must remain collectable.
_validators_by_tool: weakref.WeakKeyDictionary[Any, dict[str, tuple[Any, bool]]] = weakref.WeakKeyDictionary()


def validate_arguments(tool: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments by name, with validated instances instead of dicts and records.

    Raises:
        pydantic.ValidationError: If they are invalid; the text names each invalid field.
    """
    if "__signature__" in getattr(tool, "__dict__", {}):  # a wrapper that validates itself, such as DSPy's
        return dict(arguments)
    validators = _validators_of(tool)
    return {name: _convert(validators.get(name), value) for name, value in arguments.items()}


def _convert(validator: tuple[Any, bool] | None, value: Any) -> Any:
    if validator is None:
        return value
    adapter, is_variable = validator
    if is_variable:
        return tuple(adapter.validate_python(item) for item in value)
    return adapter.validate_python(value)


def _validators_of(tool: Callable[..., Any]) -> dict[str, tuple[Any, bool]]:
    """Return a validator for each parameter that needs one, and whether the parameter is variadic."""
    try:
        if tool not in _validators_by_tool:
            _validators_by_tool[tool] = _build_validators(tool)
        return _validators_by_tool[tool]
    except (TypeError, KeyError):  # not hashable or weakly referable; or a bound method, which is new at each use
        return _build_validators(tool)


def _build_validators(tool: Callable[..., Any]) -> dict[str, tuple[Any, bool]]:
    wanted: dict[str, tuple[Any, bool]] = {}
    try:
        from pydantic import BaseModel, TypeAdapter  # optional: a kernel can be driven without pydantic
    except ImportError:
        return {}
    try:
        signature = inspect.signature(tool)
        hints = typing.get_type_hints(inspect.unwrap(tool), include_extras=True)
    except Exception:  # builtins, and annotations with names that exist for type checkers only
        return {}
    for parameter in signature.parameters.values():
        hint: Any = hints.get(parameter.name)
        if _is_structured(hint, BaseModel):
            wanted[parameter.name] = (TypeAdapter(hint), parameter.kind is parameter.VAR_POSITIONAL)
    return wanted


def _is_structured(hint: Any, model: type, depth: int = 0) -> bool:
    if inspect.isclass(hint) and (dataclasses.is_dataclass(hint) or issubclass(hint, model)):
        return True
    return depth < _MAX_DEPTH and any(_is_structured(inner, model, depth + 1) for inner in typing.get_args(hint))
