"""The arguments of one call of a tool, by name for observers and exactly as they were passed for the tool.

A dict of names cannot express every call: ``f(1, x=2)`` of ``def f(x, /, **more)`` has two arguments called ``x``.
DSPy's callbacks receive the dict, and the tool is called with :meth:`BoundArguments.as_passed`.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_Kind = inspect.Parameter


class BoundArguments(dict[str, Any]):
    """Arguments by name: those of ``**kwargs`` are further keys, those of ``*args`` a tuple under its name.

    Where two arguments have one name, the dict has the one of the parameter.
    """

    _parameters: Mapping[str, inspect.Parameter]
    _arguments: Mapping[str, Any]  # by parameter; ``*args`` is a tuple, ``**kwargs`` a dict
    _positional: int  # how many were passed by position

    @classmethod
    def _of(cls, parameters: Mapping[str, inspect.Parameter], arguments: Mapping[str, Any], positional: int) -> Any:
        flat: dict[str, Any] = {}
        for name, value in arguments.items():
            if parameters[name].kind is _Kind.VAR_KEYWORD:
                flat = {**value, **flat}
            else:
                flat[name] = value
        ordered = {name: flat[name] for name in arguments if name in flat}
        bound = cls({**ordered, **flat})
        bound._parameters, bound._arguments, bound._positional = parameters, arguments, positional
        return bound

    @classmethod
    def bind(cls, signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> BoundArguments:
        """Return the arguments as ``signature`` binds them.

        Raises:
            TypeError: If they do not match it.
        """
        rest = next((p.name for p in signature.parameters.values() if p.kind is _Kind.VAR_KEYWORD), None)
        hidden = {p.name for p in signature.parameters.values() if p.kind is _Kind.POSITIONAL_ONLY}
        # Signature.bind of Python before 3.13 refuses these keywords, which ``**kwargs`` may contain.
        apart = {} if rest is None else {name: value for name, value in kwargs.items() if name in hidden}
        found = dict(
            signature.bind(*args, **{name: value for name, value in kwargs.items() if name not in apart}).arguments
        )
        if rest is not None and apart:
            found[rest] = {**found.get(rest, {}), **apart}
        bound: BoundArguments = cls._of(signature.parameters, found, len(args))
        return bound

    @classmethod
    def without_signature(cls, args: Sequence[Any], kwargs: Mapping[str, Any]) -> BoundArguments:
        """Return the arguments of a builtin without a signature; those by position are called ``arg0`` and so on."""
        parameters = {f"arg{index}": _Kind(f"arg{index}", _Kind.POSITIONAL_ONLY) for index in range(len(args))}
        named = {**{name: args[index] for index, name in enumerate(parameters)}, "kwargs": dict(kwargs)}
        rest = {"kwargs": _Kind("kwargs", _Kind.VAR_KEYWORD)}
        bound: BoundArguments = cls._of({**parameters, **rest}, named, len(args))
        return bound

    @classmethod
    def from_names(cls, parameters: Mapping[str, inspect.Parameter], arguments: Mapping[str, Any]) -> BoundArguments:
        """Return arguments that are known by name only, for a tool with these parameters; none if it shows none."""
        if not parameters:
            args = [value for name, value in arguments.items() if name.startswith("arg") and name[3:].isdigit()]
            kwargs = {
                name: value for name, value in arguments.items() if not (name.startswith("arg") and name[3:].isdigit())
            }
            return cls.without_signature(args, kwargs)
        rest = next((p for p in parameters.values() if p.kind is _Kind.VAR_KEYWORD), _Kind("_", _Kind.VAR_KEYWORD))
        known = {name for name in parameters if name != rest.name}
        named = {name: arguments[name] for name in parameters if name in known and name in arguments}
        extra = {name: value for name, value in arguments.items() if name not in known}
        every = {**parameters, rest.name: rest}
        bound: BoundArguments = cls._of(every, {**named, rest.name: extra}, 0)
        return bound

    def convert(self, change: Callable[[str, Any], Any]) -> BoundArguments:
        """Return a copy in which each argument is ``change(name of its parameter, value)``."""

        def converted(name: str, value: Any) -> Any:
            kind = self._parameters[name].kind
            if kind is _Kind.VAR_POSITIONAL:
                return tuple(change(name, item) for item in value)
            if kind is _Kind.VAR_KEYWORD:
                return {key: change(name, item) for key, item in value.items()}
            return change(name, value)

        arguments = {name: converted(name, value) for name, value in self._arguments.items()}
        changed: BoundArguments = self._of(self._parameters, arguments, self._positional)
        return changed

    def as_passed(self, *, by_keyword: bool = False) -> tuple[list[Any], dict[str, Any]]:
        """Return the positional arguments and the keywords of the call, with as many positions as it had.

        Args:
            by_keyword: Pass by keyword what can be passed so.
        """
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        variable = next((p.name for p in self._parameters.values() if p.kind is _Kind.VAR_POSITIONAL), "")
        positional = 0 if by_keyword else self._positional
        for name, parameter in self._parameters.items():
            if name not in self._arguments:
                continue
            value = self._arguments[name]
            if parameter.kind is _Kind.VAR_KEYWORD:
                kwargs.update(value)
            elif parameter.kind is _Kind.VAR_POSITIONAL:
                args.extend(value)
            elif parameter.kind is _Kind.POSITIONAL_ONLY or (
                parameter.kind is _Kind.POSITIONAL_OR_KEYWORD
                and (len(args) < positional or self._arguments.get(variable))
            ):
                args.append(value)
            else:
                kwargs[name] = value
        return args, kwargs
