"""``dspy.RLM.acall`` without blocking the caller's event loop.

``RLM.aforward`` awaits the model, but calls the interpreter's ``execute()`` in the middle of a coroutine. The loop then
stands still while a cell runs, and a tool that needs that loop, such as one of an MCP session, waits for ever.

:func:`install_async` wraps two methods of ``RLM``. Within ``_aexecute_iteration`` the interpreter is a
:class:`DeferringInterpreter`, whose ``execute`` only returns a note of the call. ``_process_execution_result`` returns
that note to the wrapper instead of processing it. The wrapper awaits the cell, and then has RLM's own methods make of
its result, or of its error, what they would have made of it. Both wrappers do nothing for other interpreters.

These are private methods of DSPy. Nothing is wrapped before DSPy 3.3, where RLM treats the result of a cell in another
way, or if one of them has other parameters than expected, and a subclass
that overrides one of them works as before; ``execute()`` then blocks the loop, as DSPy has it.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import dspy

from ..config import rlm_keyword_wanted
from .dspy_compat import REOPENS

if TYPE_CHECKING:
    from collections.abc import Mapping

_ITERATION, _EXECUTE, _PROCESS = "_aexecute_iteration", "_execute_code", "_process_execution_result"
_PARAMETERS = {
    _EXECUTE: ["self", "repl", "code", "input_args"],
    _PROCESS: ["self", "pred", "code", "result", "history", "output_field_names"],
}
_WRAPPED = "_daytona_kernel_awaits"  # marks the wrappers


@dataclass
class DeferredExecution:
    """The note of a call of ``execute``, and later of what its result is needed for."""

    code: str
    variables: Mapping[str, object] | None
    processing: dict[str, Any] = field(default_factory=dict)  # arguments of _process_execution_result


class DeferringInterpreter:
    """An interpreter whose ``execute`` returns a note of the call; everything else reaches the interpreter."""

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._interpreter, name)

    def execute(self, code: str, variables: Mapping[str, object] | None = None) -> DeferredExecution:
        """Return the note; nothing runs."""
        return DeferredExecution(code, variables)


class _Outcome:
    """An interpreter whose ``execute`` ends as the awaited cell did."""

    def __init__(self, value: object, error: Exception | None) -> None:
        self._value, self._error = value, error

    def execute(self, code: str, variables: object = None) -> object:
        if self._error is not None:
            raise self._error
        return self._value


def install_async() -> bool:
    """Wrap the methods of ``dspy.RLM``, and return whether anything was changed."""
    rlm: Any = dspy.RLM
    if REOPENS or not rlm_keyword_wanted() or not _has_expected_methods(rlm):
        return False
    originals = {name: getattr(rlm, name) for name in (_ITERATION, _EXECUTE, _PROCESS)}
    iterate, process = originals[_ITERATION], originals[_PROCESS]
    signature = inspect.signature(process)

    @functools.wraps(process)
    def process_result(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = signature.bind(self, *args, **kwargs).arguments
        note = given["result"]
        if not isinstance(note, DeferredExecution):
            return process(self, *args, **kwargs)
        note.processing = given
        return note

    @functools.wraps(iterate)
    async def iterate_awaiting(self: Any, repl: Any, *args: Any, **kwargs: Any) -> Any:
        execute = getattr(repl, "_execute_for_rlm", None)
        if execute is None or any(getattr(type(self), name) is not method for name, method in wrapped.items()):
            return await iterate(self, repl, *args, **kwargs)
        note = await iterate(self, DeferringInterpreter(repl), *args, **kwargs)
        if not isinstance(note, DeferredExecution):  # the code had no valid fence, and nothing was executed
            return note
        value, error = None, None
        try:
            value = await execute(note.code, note.variables)
        except Exception as raised:  # RLM decides which errors the model reads
            error = raised
        result = originals[_EXECUTE](self, _Outcome(value, error), note.code, note.variables or {})
        return process(**{**note.processing, "result": result})

    setattr(iterate_awaiting, _WRAPPED, True)
    wrapped = {_ITERATION: iterate_awaiting, _EXECUTE: originals[_EXECUTE], _PROCESS: process_result}
    for name in (_ITERATION, _PROCESS):
        setattr(rlm, name, wrapped[name])
    _wrap_forward(rlm)
    return True


def _wrap_forward(rlm: Any) -> None:
    """Let ``aforward`` start the caller's own interpreter first: at Daytona that may take a minute."""
    forward = rlm.aforward

    @functools.wraps(forward)
    async def aforward(self: Any, *args: Any, **kwargs: Any) -> Any:
        factory = kwargs.get("interpreter_factory") or getattr(self, "_interpreter_factory", None)
        start = getattr(factory, "_start_for_rlm", None)
        if start is not None:
            await start()
        return await forward(self, *args, **kwargs)

    rlm.aforward = aforward


def _has_expected_methods(rlm: Any) -> bool:
    iterate = getattr(rlm, _ITERATION, None)
    if not inspect.iscoroutinefunction(iterate) or getattr(iterate, _WRAPPED, False):
        return False
    if list(inspect.signature(iterate).parameters)[:2] != ["self", "repl"]:
        return False
    if not inspect.iscoroutinefunction(getattr(rlm, "aforward", None)):
        return False
    methods = {name: getattr(rlm, name, None) for name in _PARAMETERS}
    return all(
        inspect.isfunction(method) and list(inspect.signature(method).parameters) == _PARAMETERS[name]
        for name, method in methods.items()
    )
