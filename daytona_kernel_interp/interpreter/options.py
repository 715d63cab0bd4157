"""The options of an interpreter: their names, their types, and the sentences that refuse a wrong one.

The constructor raises TypeError for a value of the wrong type and ValueError for a wrong value. ``tools``,
``output_fields`` and the limits may be changed between calls, so each call checks them again.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NoReturn, TypedDict

from ..sandboxes.base import Sandbox
from ..sandboxes.daytona import DaytonaSandbox
from ..tools.binding import Tool, describe
from ..wire.comm import OutputField, ToolSpec

if TYPE_CHECKING:
    import asyncio

    from ..client.outputs import Output

_SANDBOX_NAMES = ("daytona", "local")
_LIMITS = ("execution_timeout", "max_output_chars", "max_value_bytes")

# Options whose types are checked here: the types, and the words for them.
_TYPES: dict[str, tuple[Any, str]] = {
    "output_fields": ((list, tuple), "a list of fields or None"),
    "execution_timeout": ((int, float), "a positive number or None"),
    "max_output_chars": (int, "a positive integer or None"),
    "max_value_bytes": (int, "a positive integer or None"),
    "record": ((str, os.PathLike), "the path of a notebook or None"),
    "on_output": (Callable, "a function that takes an output, or None"),
    "callbacks": ((list, tuple), "a list of DSPy callbacks or None"),
}

# Options of other DSPy interpreters, above all of the DaytonaInterpreter in Daytona's guide.
_REPLACEMENTS = {
    "sandbox_params": "describe the sandbox with sandbox=DaytonaSandbox(...)",
    "max_retries": "a cell is never run twice; sandbox=DaytonaSandbox(resume_lifetime=...) says how long a lost link "
    "is resumed",
    "retry_delay": "a lost link is resumed at once, and a cell is never run twice",
    "max_concurrent_tool_calls": "tool calls run side by side without an option",
    "tool_claim_lease_seconds": "a tool call has no time limit of its own; execution_timeout limits the cell",
    "timeout": "the limit of one cell is execution_timeout=",
    "api_key": "set DAYTONA_API_KEY in the environment or in .env",
    "api_url": "set DAYTONA_API_URL in the environment or in .env",
}


class InterpreterOptions(TypedDict, total=False):
    """The keyword options of :class:`~.interpreter.KernelInterpreter`."""

    sandbox: Sandbox | str | None
    execution_timeout: float | None
    max_output_chars: int | None
    max_value_bytes: int | None
    record: str | os.PathLike[str] | None
    on_output: Callable[[Output], None] | None
    callbacks: list[object] | None
    async_tools: str | asyncio.AbstractEventLoop


@dataclass(frozen=True)
class CallSettings:
    """The settings of one call, as the interpreter's attributes were when it began."""

    tools: Mapping[str, Tool]
    output_fields: Sequence[Mapping[str, object]] | None
    execution_timeout: float | None = None
    max_output_chars: int | None = None
    max_value_bytes: int | None = None
    on_output: Callable[[Output], None] | None = None
    seed: int | None = None

    def limits(self) -> dict[str, float | None]:
        """Return the names and values of the limits, as a recording lists them."""
        return {name: getattr(self, name) for name in _LIMITS}

    def check(self) -> None:
        """Check the limits, which may have been changed since the constructor checked them.

        Raises:
            TypeError: If one is not a number; a size must be an int.
            ValueError: If it is not positive. None: no limit.
        """
        for name, limit in self.limits().items():
            check_option(name, limit)


def check_option(name: str, value: Any) -> None:
    """Check the type of an option, and the value of a limit or of a recording's path. None is always allowed.

    Raises:
        TypeError: If the value has the wrong type; a size must be an int.
        ValueError: If a limit is not positive, or the path is empty or a folder.
    """
    if value is None:
        return
    types, wanted = _TYPES[name]
    if not isinstance(value, types) or isinstance(value, bool):
        shown = type(value).__name__ if name in ("output_fields", "record", "callbacks") else repr(value)
        raise TypeError(f"{name} must be {wanted}, not {shown}.")
    if name in _LIMITS and not value > 0:
        raise ValueError(f"{name} must be {wanted}, not {value!r}.")
    if name == "record" and (not os.fspath(value) or os.path.isdir(value)):
        raise ValueError(f"record must be the path of a notebook, not {os.fspath(value)!r}.")


def refuse_options(class_name: str, unknown: Mapping[str, object], known: Sequence[str]) -> NoReturn:
    """Raise TypeError for the first of ``unknown``, with the option that replaces it or is most similar.

    Raises:
        TypeError: Always.
    """
    name = next(iter(unknown))
    text = f"{class_name}() has no option {name!r}"
    if name in _REPLACEMENTS:
        raise TypeError(f"{text}: {_REPLACEMENTS[name]}.")
    if name in {field.name for field in fields(DaytonaSandbox)}:
        raise TypeError(f"{text}: it belongs to the sandbox, sandbox=DaytonaSandbox({name}=...).")
    similar = difflib.get_close_matches(name, known, n=1)
    raise TypeError(f"{text}; did you mean {similar[0]!r}?" if similar else f"{text}. Options: {', '.join(known)}.")


def check_tools(tools: Mapping[str, Tool]) -> tuple[ToolSpec, ...]:
    """Return the descriptions of ``tools``.

    Raises:
        TypeError: If it is not a mapping, or a tool cannot be called.
        ValueError: If a name is not an identifier.
    """
    if not isinstance(tools, Mapping):
        raise TypeError(f"tools must be a dict of names and functions, not {type(tools).__name__}.")
    return tuple(describe(name, tool) for name, tool in tools.items())


def check_output_fields(output_fields: Sequence[Mapping[str, object]] | None) -> tuple[OutputField, ...] | None:
    """Return the fields that SUBMIT takes, or None for one value without a name.

    Raises:
        TypeError: If it is not a list of field dicts.
        ValueError: If two fields have the same name.
    """
    check_option("output_fields", output_fields)
    if output_fields is None:
        return None
    checked: list[OutputField] = []
    given: Any
    for given in output_fields:
        if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
            raise TypeError(f'An output field is {{"name": str, "type": str}}, "type" optional; not {given!r}.')
        if given["name"] in (field.name for field in checked):
            raise ValueError(f"Two output fields are called {given['name']!r}.")
        checked.append(OutputField(given["name"], str(given.get("type") or "")))
    return tuple(checked)


def check_sandbox(sandbox: Sandbox | str | None) -> None:
    """Check that ``sandbox`` names or describes one. None is left to the environment, which is read at the start.

    Raises:
        TypeError: If it is neither a name nor a description.
        ValueError: If there is no sandbox of that name.
    """
    names = " or ".join(map(repr, _SANDBOX_NAMES))
    if isinstance(sandbox, str):
        if sandbox not in _SANDBOX_NAMES:
            similar = difflib.get_close_matches(sandbox.lower(), _SANDBOX_NAMES, n=1)
            hint = f"did you mean {similar[0]!r}?" if similar else f"pass {names}, or a description."
            raise ValueError(f"There is no sandbox {sandbox!r}; {hint}")
    elif sandbox is not None and (isinstance(sandbox, type) or not isinstance(sandbox, Sandbox)):
        shown = f"the class {sandbox.__name__}" if isinstance(sandbox, type) else repr(sandbox)
        raise TypeError(
            f"sandbox must be {names}, or a description such as DaytonaSandbox() or LocalSandbox(), not {shown}."
        )
