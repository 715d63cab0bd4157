"""The host's end of the bridge: bind a call to its tool, run it, encode its result."""

from __future__ import annotations

import asyncio
import builtins
import contextvars
import difflib
import enum
import functools
import inspect
import keyword
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..codec import values
from ..config import MAX_TOOL_THREADS
from ..runtime.event_loop import DaemonThreads, LoopThread
from ..wire.comm import Parameter, ToolFailure, ToolSpec
from .argument_types import validate_arguments

if TYPE_CHECKING:
    from concurrent.futures import Future

Tool = Callable[..., Any]
Invoke = Callable[[str, dict[str, Any]], Any]

_MAX_DEFAULT_CHARS = 16  # of a text; a longer one may be a key
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

# Keywords that models use for the parameter of DSPy's sub-LM tools; refusing them would cost an iteration.
KEYWORD_CORRECTIONS: Mapping[str, tuple[str, Sequence[str]]] = {
    "llm_query": ("prompt", ("query", "question", "text", "message", "input", "content", "prompts")),
    "llm_query_batched": (
        "prompts",
        ("queries", "questions", "texts", "messages", "inputs", "batch", "prompt", "prompt_list"),
    ),
}


class ToolAborted(Exception):
    """Carries a tool's BaseException, such as KeyboardInterrupt, to the caller's thread.

    It is meant for the host, not for the cell. Raised directly it would end the event loop's thread.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(repr(error))
        self.error = error


@dataclass(frozen=True)
class ToolReply:
    """The reply to the cell: ``op`` is ``result`` or ``error``."""

    op: str
    buffers: list[values.Buffer]


class ToolObserver(Protocol):
    """An observer of a cell's calls; its methods run on the I/O loop."""

    def call_started(
        self, call_id: int, name: str, buffers: Sequence[values.Buffer], context: contextvars.Context
    ) -> Any:
        """Note a call that will run in ``context``; the return value is passed to :meth:`call_ended`."""

    def call_ended(self, note: Any, op: str, buffers: Sequence[values.Buffer]) -> None:
        """Note the reply to a call, as in :class:`ToolReply`."""


def describe(name: object, tool: Tool) -> ToolSpec:
    """Return the description of ``tool`` that is sent to the cell.

    Raises:
        ValueError: If the name is not an identifier.
        TypeError: If the tool cannot be called.
    """
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(
            f"Invalid tool name {name!r}: a tool is called by its name, so it must be a Python identifier."
        )
    if not callable(tool):
        raise TypeError(f"Tool {name!r} is not callable: pass a function, not {type(tool).__name__}.")
    doc = inspect.getdoc(tool) or ""
    signature = _signature(tool)
    if signature is None:
        return ToolSpec(name, doc)
    parameters = _plain(signature).parameters.values()
    return ToolSpec(
        name,
        doc,
        tuple(Parameter(p.name, int(p.kind), None if p.default is p.empty else repr(p.default)) for p in parameters),
    )


def bind(name: str, tool: Tool, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the call's arguments by name, as the tool's signature binds them.

    Arguments of ``**kwargs`` are merged with the others; those of ``*args`` are a tuple under its name.

    Raises:
        TypeError: If they do not match the signature; the text names a close match for an unknown keyword.
    """
    kwargs = _correct_keywords(name, kwargs)
    signature = _signature(tool)
    if signature is None:
        return {**{f"arg{i}": value for i, value in enumerate(args)}, **kwargs}
    try:
        arguments = dict(signature.bind(*args, **kwargs).arguments)
    except TypeError as error:
        raise TypeError(
            f"{name}() {error}{_signature_hint(signature, kwargs)}. Signature: {name}{_plain(signature)}"
        ) from None
    for parameter in signature.parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            extra = arguments.pop(parameter.name, {})
            if hidden := sorted(extra.keys() & signature.parameters.keys() - {parameter.name}):
                raise TypeError(f"{name}() takes {hidden[0]!r} by position only. Signature: {name}{_plain(signature)}")
            arguments.update(extra)
    return arguments


def call(tool: Tool, arguments: Mapping[str, Any]) -> Any:
    """Call ``tool`` with arguments from :func:`bind`, by keyword wherever the signature allows it.

    DSPy's wrappers accept keywords only, although their signatures show positional parameters.
    """
    rest = dict(arguments)
    signature = _signature(tool)
    if signature is None:
        args = [rest.pop(name) for name in list(rest) if name.startswith("arg") and name[3:].isdigit()]
        return tool(*args, **rest)
    variable = next((p.name for p in signature.parameters.values() if p.kind is p.VAR_POSITIONAL), None)
    args = []
    for parameter in signature.parameters.values():
        by_position = parameter.kind is parameter.POSITIONAL_ONLY or (
            rest.get(variable or "") and parameter.kind in _POSITIONAL
        )
        if by_position and parameter.name in rest:
            args.append(rest.pop(parameter.name))
        elif parameter.name == variable:
            args.extend(rest.pop(variable, ()))
    return tool(*args, **rest)


def failure(error: BaseException) -> ToolFailure:
    """Return the data of a tool's exception that is sent to the cell."""
    bases = [
        cls.__name__
        for cls in type(error).__mro__
        if getattr(builtins, cls.__name__, None) is cls and issubclass(cls, Exception) and cls is not Exception
    ]
    try:
        message = str(error)
    except Exception:
        message = ""
    return ToolFailure(type(error).__name__, tuple(bases), message)


def weak_method(invoke: Invoke) -> Invoke:
    """Return a callable like ``method`` that does not keep its object alive."""
    weak = weakref.WeakMethod(invoke)

    def call_method(name: str, arguments: dict[str, Any]) -> Any:
        method = weak()
        if method is None:
            raise RuntimeError("the interpreter does not exist any more")
        return method(name, arguments)

    return call_method


class ToolRunner:
    """Runs one interpreter's tool calls, each in a worker thread and in its own copy of the caller's context."""

    def __init__(self, invoke: Invoke, max_value_bytes: int | None) -> None:
        self._invoke, self._max_value_bytes = invoke, max_value_bytes
        self._threads = DaemonThreads(MAX_TOOL_THREADS, "daytona-kernel-tool")
        self._async_loop: LoopThread | None = None
        self._lock = threading.Lock()
        self._awaiting: set[Future[Any]] = set()
        self._context = contextvars.Context()
        self._caller_loop: asyncio.AbstractEventLoop | None = None
        self._tools: Mapping[str, Tool] = {}
        self._observer: ToolObserver | None = None

    def begin_cell(
        self,
        tools: Mapping[str, Tool],
        context: contextvars.Context,
        caller_loop: asyncio.AbstractEventLoop | None,
        observer: ToolObserver | None = None,
    ) -> None:
        """Offer ``tools`` until the next cell; calls run in ``context`` and are reported to ``observer``.

        Async tools run on ``caller_loop`` if that loop is given and free, else on a loop of their own.
        """
        self._tools, self._context, self._caller_loop = dict(tools), context, caller_loop
        self._observer = observer

    def end_cell(self) -> None:
        """Cancel pending async calls. Threads cannot be stopped; their results are dropped.

        References to the caller's tools and context are cleared: they may hold the interpreter, which the session must
        not keep alive.
        """
        with self._lock:
            awaiting = list(self._awaiting)
        for future in awaiting:
            future.cancel()
        self._tools, self._context, self._caller_loop = {}, contextvars.Context(), None
        self._observer = None

    async def run(
        self, name: str, buffers: Sequence[values.Buffer], call_id: int = 0, *, arrow: bool = False
    ) -> ToolReply:
        """Run one call and return the reply to its cell, with frames as Arrow IPC if the cell has ``arrow``.

        Raises:
            ToolAborted: If the tool raised a BaseException that is no Exception, such as KeyboardInterrupt.
        """
        context, observer = self._context.copy(), self._observer  # a Context cannot be entered twice at the same time
        note = None if observer is None else observer.call_started(call_id, name, buffers, context)
        work = functools.partial(context.run, self._work, name, buffers, arrow)
        try:
            reply = await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except ToolAborted as aborted:
            if observer is not None:
                observer.call_ended(note, "error", values.dumps(failure(aborted.error).to_value()))
            raise
        if observer is not None:
            observer.call_ended(note, reply.op, reply.buffers)
        return reply

    def close(self) -> None:
        """Accept no further calls; does not wait for pending ones."""
        self.end_cell()
        self._threads.shutdown(cancel_futures=True)
        if self._async_loop is not None:
            self._async_loop.stop(wait=False)  # user code must not run on the I/O loop
            self._async_loop = None

    def wait_for(self, awaitable: Awaitable[Any]) -> Any:
        """Await the coroutine of an async tool, called from its worker thread, and return the result."""

        async def settle() -> tuple[Any, BaseException | None]:
            # Caught here and not left to the task: asyncio lets a KeyboardInterrupt end the whole loop.
            try:
                return await awaitable, None
            except BaseException as error:
                return None, error

        loop = self._caller_loop or self._own_loop()
        with self._lock:  # end_cell() finds every call that has started
            # The task gets a copy of this thread's context, which is this call's own.
            future = asyncio.run_coroutine_threadsafe(settle(), loop)
            self._awaiting.add(future)
        try:
            result, error = future.result()
        finally:
            self._awaiting.discard(future)
        if error is not None:
            raise error
        return result

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._async_loop is None:
                self._async_loop = LoopThread("daytona-kernel-async-tools")
            return self._async_loop.loop

    def _work(self, name: str, buffers: Sequence[values.Buffer], arrow: bool) -> ToolReply:
        try:
            tool = self._tools.get(name)
            if tool is None:
                raise NameError(f"the host offers no tool {name!r}")
            args, kwargs = values.loads(buffers)
            result = self._invoke(name, validate_arguments(tool, bind(name, tool, args, kwargs)))
            return ToolReply("result", self._encode(result, arrow))
        except Exception as error:
            return ToolReply("error", values.dumps(failure(error).to_value()))
        except BaseException as error:
            raise ToolAborted(error) from error

    def _encode(self, result: Any, arrow: bool) -> list[values.Buffer]:
        try:  # encoded now: the tool may change the value later
            return values.dumps(result, max_bytes=self._max_value_bytes, snapshot=True, arrow=arrow)
        except values.UnsupportedValue:
            return values.dumps(str(result), max_bytes=self._max_value_bytes)  # as DSPy's own interpreters do


def _signature(tool: Tool) -> inspect.Signature | None:
    try:
        return inspect.signature(tool)
    except (TypeError, ValueError):
        return None  # builtins without a signature


class _ShownDefault:
    """A default value as others may see it: its repr if that cannot be a secret, and otherwise an ellipsis.

    A default may be a key, or an object with one. It would reach the sandbox with the tool's signature, and the model
    with a TypeError about it. Short texts are shown, unless they are the value of an environment variable.
    """

    def __init__(self, default: object) -> None:
        short = type(default) is str and len(default) <= _MAX_DEFAULT_CHARS and default not in os.environ.values()
        if isinstance(default, enum.Enum):  # without its value
            self._text = f"{type(default).__name__}.{default.name}"
        else:
            shown = short or default is None or type(default) in (bool, int, float, complex)
            self._text = repr(default) if shown else "..."

    def __repr__(self) -> str:
        return self._text


def _plain(signature: inspect.Signature) -> inspect.Signature:
    """Return the signature without annotations, and with defaults that may be shown."""
    empty = inspect.Parameter.empty
    bare = [
        parameter.replace(
            annotation=empty, default=empty if parameter.default is empty else _ShownDefault(parameter.default)
        )
        for parameter in signature.parameters.values()
    ]
    return signature.replace(parameters=bare, return_annotation=inspect.Signature.empty)


def _correct_keywords(name: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    corrected = dict(kwargs)
    wanted, misses = KEYWORD_CORRECTIONS.get(name, ("", ()))
    for miss in misses:
        if miss in corrected and wanted not in corrected:
            corrected[wanted] = corrected.pop(miss)
    return corrected


def _signature_hint(signature: inspect.Signature, kwargs: Mapping[str, Any]) -> str:
    names = list(signature.parameters)
    unknown = next((keyword_name for keyword_name in kwargs if keyword_name not in names), "")
    close = difflib.get_close_matches(unknown, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
