"""The host's end of the bridge: bind a call to its tool, run it, encode its result."""

from __future__ import annotations

import asyncio
import builtins
import contextvars
import difflib
import functools
import inspect
import keyword
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
from .bound_arguments import BoundArguments
from .signatures import Tool as Tool
from .signatures import (
    accepts_keywords_only,
    callable_form,
    doc_of_tool,
    positional_form,
    shown_signature,
    signature_of_tool,
)
from .tool_loop import ANSWER_S, BLOCKED, STOPPED

if TYPE_CHECKING:
    from concurrent.futures import Future

    from .tool_loop import ToolLoop

Invoke = Callable[[str, dict[str, Any]], Any]

_SHOWN_NAME_CHARS = 100  # of a keyword or a tool's name that comes from a cell

# Keywords that models use for the parameter of DSPy's sub-LM tools; refusing them would cost an iteration.
_BATCH_TOOL = "llm_query_batched"
KEYWORD_CORRECTIONS: Mapping[str, tuple[str, Sequence[str]]] = {
    "llm_query": ("prompt", ("query", "question", "text", "message", "input", "content", "prompts")),
    _BATCH_TOOL: (
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
    doc = doc_of_tool(tool)
    signature = signature_of_tool(tool)
    if signature is None:
        return ToolSpec(name, doc)
    parameters = shown_signature(signature).parameters.values()
    return ToolSpec(
        name,
        doc,
        tuple(Parameter(p.name, int(p.kind), None if p.default is p.empty else repr(p.default)) for p in parameters),
    )


def bind(name: str, tool: Tool, args: Sequence[Any], kwargs: Mapping[str, Any]) -> BoundArguments:
    """Return the arguments of a call, as the tool's signature binds them.

    Raises:
        TypeError: If they do not match the signature; the text names a close match for an unknown keyword.
    """
    kwargs = _correct_keywords(name, kwargs)
    signature = signature_of_tool(tool)
    if signature is None:
        return BoundArguments.without_signature(args, kwargs)
    try:
        bound = BoundArguments.bind(signature, args, kwargs)
    except TypeError as error:
        raise TypeError(
            f"{name}() {_reason(error, signature, kwargs)}. Signature: {name}{shown_signature(signature)}"
        ) from None
    if name == _BATCH_TOOL and isinstance(prompts := next(iter(bound.values()), None), str):
        bound = bound.convert(lambda _, value: [value] if value is prompts else value)
    return bound


def call(tool: Tool, arguments: Mapping[str, Any]) -> Any:
    """Call ``tool`` with arguments from :func:`bind`, or with other arguments by name.

    They are passed as they were in the call, but by keyword to a tool that accepts keywords only. DSPy's wrappers are
    such tools, although their signatures show positional parameters.
    """
    if not isinstance(arguments, BoundArguments):
        signature = signature_of_tool(tool)
        arguments = BoundArguments.from_names({} if signature is None else signature.parameters, arguments)
    keywords_only = accepts_keywords_only(tool)
    args, kwargs = arguments.as_passed(by_keyword=keywords_only)
    return (positional_form(tool) if args and keywords_only else callable_form(tool))(*args, **kwargs)


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
        self._tool_loop: ToolLoop | None = None
        self._tools: Mapping[str, Tool] = {}
        self._observer: ToolObserver | None = None

    def begin_cell(
        self,
        tools: Mapping[str, Tool],
        context: contextvars.Context,
        tool_loop: ToolLoop | None,
        observer: ToolObserver | None = None,
    ) -> None:
        """Offer ``tools`` until the next cell; calls run in ``context`` and are reported to ``observer``.

        Async tools run on ``tool_loop`` if one is given and answers, else on a loop of their own.
        """
        self._tools, self._context, self._tool_loop = dict(tools), context, tool_loop
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
        self._tools, self._context, self._tool_loop = {}, contextvars.Context(), None
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
        """Await the coroutine of an async tool, called from its worker thread, and return the result.

        Raises:
            RuntimeError: If it must run on a loop that is blocked or does not run.
        """
        wanted = self._tool_loop
        if wanted is not None and not wanted.is_blocked and wanted.loop.is_running():
            begun, result = self._settle_on(wanted.loop, awaitable, ANSWER_S)
            if begun:
                return result
            if not wanted.is_required:
                self._tool_loop = None  # blocked: the further calls of this cell do not wait for it again
        if wanted is not None and wanted.is_required:
            if inspect.iscoroutine(awaitable):
                awaitable.close()
            blocked = wanted.is_blocked or wanted.loop.is_running()
            raise RuntimeError(BLOCKED if blocked else STOPPED)
        return self._settle_on(self._own_loop(), awaitable, None)[1]

    def _settle_on(
        self, loop: asyncio.AbstractEventLoop, awaitable: Awaitable[Any], begins_within_s: float | None
    ) -> tuple[bool, Any]:
        """Await ``awaitable`` on ``loop``; return whether it began in time, and then its result."""
        begun, claim = threading.Event(), threading.Lock()

        async def settle() -> tuple[Any, BaseException | None]:
            # Caught here and not left to the task: asyncio lets a KeyboardInterrupt end the whole loop.
            if not claim.acquire(blocking=False):  # given up
                return None, None
            begun.set()
            try:
                return await awaitable, None
            except BaseException as error:
                return None, error

        with self._lock:  # end_cell() finds every call that has started
            # The task gets a copy of this thread's context, which is this call's own.
            future = asyncio.run_coroutine_threadsafe(settle(), loop)
            self._awaiting.add(future)
        try:
            if begins_within_s is not None and not begun.wait(begins_within_s) and claim.acquire(blocking=False):
                future.cancel()
                return False, None
            result, error = future.result()
        finally:
            self._awaiting.discard(future)
        if error is not None:
            raise error
        return True, result

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._async_loop is None:
                self._async_loop = LoopThread("daytona-kernel-async-tools")
            return self._async_loop.loop

    def _work(self, name: str, buffers: Sequence[values.Buffer], arrow: bool) -> ToolReply:
        try:
            tool = self._tools.get(name)
            if tool is None:
                raise NameError(f"the host offers no tool {shorten(name)!r}")
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


def _correct_keywords(name: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    corrected = dict(kwargs)
    wanted, misses = KEYWORD_CORRECTIONS.get(name, ("", ()))
    for miss in misses:
        if miss in corrected and wanted not in corrected:
            corrected[wanted] = corrected.pop(miss)
    return corrected


def _reason(error: TypeError, signature: inspect.Signature, kwargs: Mapping[str, Any]) -> str:
    """Return why a call was refused. A name in it has at most a hundred characters: a cell may send megabytes."""
    unknown = next((name for name in kwargs if name not in signature.parameters), "")
    if len(unknown) > _SHOWN_NAME_CHARS:
        return f"got an unexpected keyword argument {shorten(unknown)!r}"
    close = difflib.get_close_matches(unknown, list(signature.parameters), n=1)
    return f"{error}; did you mean {close[0]!r}?" if close else str(error)


def shorten(name: str) -> str:
    """Return the beginning of a name that a cell sent."""
    return name if len(name) <= _SHOWN_NAME_CHARS else f"{name[:_SHOWN_NAME_CHARS]}..."
