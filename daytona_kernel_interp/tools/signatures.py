"""The parameters of a tool: of a function, a partial, a builtin, a callable object or a ``dspy.Tool``.

DSPy hides parameters in two ways. ``dspy.Tool`` accepts keywords only, and so does the wrapper in which ``dspy.RLM``
hands one to an interpreter; the function behind it has the signature. For a tool of an MCP server that function is
``func(*args, **kwargs)``, and ``Tool.args`` lists the parameters. Nothing of DSPy is imported here: a ``dspy.Tool`` is
recognized by its attributes, and the one of a wrapper is found in the wrapper's closure.
"""

from __future__ import annotations

import enum
import functools
import inspect
import keyword
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Tool = Callable[..., Any]

_MAX_DEFAULT_CHARS = 16  # of a text; a longer one may be a key
_MIN_SECRET_CHARS = 6  # many variables have values such as "", "1" or "true"
_PLAIN_NUMBERS = (bool, int, float, complex)
_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_REQUIRED = "(Required)"  # what DSPy appends to the description of an MCP tool's parameter


class ShownDefault:
    """A default value as others may see it: its repr if that cannot be a secret, and otherwise an ellipsis.

    A default may be a key, or an object with one. It would reach the sandbox with the tool's signature, and the model
    with a TypeError about it. Short texts are shown, unless they are the value of an environment variable
    and have the length of a secret.
    """

    def __init__(self, default: object) -> None:
        if isinstance(default, enum.Enum):  # without its value
            self._text = f"{type(default).__name__}.{default.name}"
        elif type(default) is str:
            secret = len(default) >= _MIN_SECRET_CHARS and default in os.environ.values()
            self._text = "..." if secret or len(default) > _MAX_DEFAULT_CHARS else repr(default)
        else:
            self._text = repr(default) if default is None or type(default) in _PLAIN_NUMBERS else "..."

    def __repr__(self) -> str:
        return self._text


def signature_of_tool(tool: Tool) -> inspect.Signature | None:
    """Return the parameters that calls of ``tool`` may use; None for a builtin without a signature."""
    wrapped = dspy_tool_of(tool)
    try:
        signature = inspect.signature(tool if wrapped is None else wrapped.func)
    except (TypeError, ValueError):
        return None
    if wrapped is not None and all(parameter.kind in _VARIABLE for parameter in signature.parameters.values()):
        names = wrapped.args.keys() - signature.parameters.keys()
        return _signature_of_args(wrapped, signature) if names else signature
    return signature


def shown_signature(signature: inspect.Signature) -> inspect.Signature:
    """Return the signature without annotations, and with defaults that may be shown."""
    empty = inspect.Parameter.empty
    bare = [
        parameter.replace(
            annotation=empty, default=empty if parameter.default is empty else ShownDefault(parameter.default)
        )
        for parameter in signature.parameters.values()
    ]
    return signature.replace(parameters=bare, return_annotation=inspect.Signature.empty)


def doc_of_tool(tool: Tool) -> str:
    """Return the docstring of a tool, of the function in a partial, or the description of a ``dspy.Tool``."""
    wrapped = dspy_tool_of(tool)
    if wrapped is not None and isinstance(wrapped.desc, str):
        return inspect.cleandoc(wrapped.desc)
    return inspect.getdoc(innermost(tool)) or ""


def innermost(tool: Tool) -> Tool:
    """Return the function that a partial calls in the end; any other tool unchanged."""
    while isinstance(tool, functools.partial):
        tool = tool.func
    return tool


def accepts_keywords_only(tool: Tool) -> bool:
    """Return whether a Python function, method or callable object accepts no positional arguments.

    Its own code decides: a wrapper can show the signature of another function.
    """
    if _is_dspy_tool(tool):
        return True
    function: Any = tool if inspect.isroutine(tool) or isinstance(tool, type) else type(tool).__call__
    bound = inspect.ismethod(function) or function is not tool
    while hasattr(function, "__func__"):
        function = function.__func__
    code = getattr(function, "__code__", None)  # a class or a builtin has none
    return code is not None and code.co_argcount <= int(bound) and not code.co_flags & inspect.CO_VARARGS


def positional_form(tool: Tool) -> Tool:
    """Return the function behind a tool that accepts keywords only; the tool itself if none is known."""
    wrapped = dspy_tool_of(tool)
    if wrapped is not None:
        return wrapped.func  # type: ignore[no-any-return]
    behind: Tool = getattr(tool, "__wrapped__", tool)
    return behind


def callable_form(tool: Tool) -> Tool:
    """Return what calls the tool: ``acall`` of a ``dspy.Tool`` whose function is async, else the tool."""
    if _is_dspy_tool(tool):
        function: Any = tool.func  # type: ignore[attr-defined]
        call = type(function).__call__
        if inspect.iscoroutinefunction(innermost(function)) or inspect.iscoroutinefunction(call):
            acall: Tool = tool.acall  # type: ignore[attr-defined]
            return acall
    return tool


def dspy_tool_of(tool: Tool) -> Any:
    """Return the ``dspy.Tool`` that ``tool`` is, or that it wraps for an interpreter; None if there is none."""
    if _is_dspy_tool(tool):
        return tool
    function = getattr(tool, "__wrapped__", None)
    if function is None or not inspect.isfunction(tool):
        return None
    for cell in tool.__closure__ or ():
        try:
            content = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
        if _is_dspy_tool(content) and content.func is function:
            return content
    return None


def _is_dspy_tool(value: object) -> bool:
    if not any(cls.__module__.partition(".")[0] == "dspy" for cls in type(value).__mro__):
        return False
    return callable(getattr(value, "func", None)) and isinstance(getattr(value, "args", None), Mapping)


def _signature_of_args(tool: Any, signature: inspect.Signature) -> inspect.Signature:
    """Return the signature that ``Tool.args`` describes, in its order, which DSPy shows to the model."""
    parameters = list(_parameters_of_args(tool.args, getattr(tool, "arg_desc", None) or {}))
    rest = next((p for p in signature.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD), None)
    if rest is not None:
        name = rest.name
        while name in tool.args:
            name += "_"
        parameters.append(rest.replace(name=name))
    return inspect.Signature(parameters)


def _parameters_of_args(args: Mapping[str, Any], descriptions: Mapping[str, str]) -> Iterator[inspect.Parameter]:
    kind: Any = inspect.Parameter.POSITIONAL_OR_KEYWORD
    optional = False
    for name, schema in args.items():
        if not name.isidentifier() or keyword.iskeyword(name):  # passed in ``**kwargs``
            kind = inspect.Parameter.KEYWORD_ONLY
            continue
        described = schema if isinstance(schema, Mapping) else {}
        required = "default" not in described and str(descriptions.get(name, "")).endswith(_REQUIRED)
        optional = optional or not required
        default: object = described.get("default", ...)
        if required and (kind is inspect.Parameter.KEYWORD_ONLY or not optional):
            default = inspect.Parameter.empty
        yield inspect.Parameter(name, kind, default=default)
