"""``KernelInterpreter``: DSPy's CodeInterpreter contract, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import keyword
import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dspy.primitives import code_interpreter as dspy_interpreter
from dspy.primitives.code_interpreter import CodeInterpreterError, FinalOutput
from dspy.utils import callback as dspy_callback

from . import settings
from .cell import Cell, CellError, Output
from .errors import KernelError
from .kernel import CellResult, DiedInCell, Kernel, ToolAborted
from .loop import io_loop
from .sandboxes.base import RunningSandbox, Sandbox
from .sandboxes.local import LocalSandbox
from .tools import InvalidTool, Tool, ToolRunner, bind, call, describe
from .tunnel import Tunnel
from .wire import values
from .wire.calls import Field, Preamble
from .wire.errors import RemoteProtocolError

log = logging.getLogger(__name__)

# DSPy before 3.3 has no class of its own for errors that the model can mend.
CodeExecutionError: type[CodeInterpreterError] = getattr(dspy_interpreter, "CodeExecutionError", CodeInterpreterError)

_LATE_NOTE = "[printed after an earlier cell had ended]\n"
_SHUTDOWN_S = 10.0

_executing: contextvars.ContextVar[frozenset[int]] = contextvars.ContextVar("daytona_kernel_executing", default=frozenset())


def _with_callbacks(method: Any) -> Any:
    """Report ``method`` to DSPy's callbacks, where DSPy (from 3.3.1) has hooks for interpreters.

    Before, its decorator would report interpreters as modules.
    """
    if hasattr(dspy_callback.BaseCallback, "on_interpreter_execute_start"):
        return dspy_callback.with_callbacks(method)
    return method


class KernelInterpreter:
    """A Python REPL for ``dspy.RLM`` and DSPy's other code-writing modules: a real IPython kernel in a sandbox.

    Nothing starts before the first :meth:`start` or :meth:`execute`. One call at a time; state is kept between calls until
    :meth:`shutdown`. Use it as a context manager, or call :meth:`shutdown`, to end the sandbox at a time of your choosing; one that is
    forgotten ends with its interpreter object, or with this process.

    Args:
        tools: Host functions that code can call by name; ``async def`` ones too. The dict stays ``interpreter.tools`` and may
            be changed between calls.
        output_fields: What SUBMIT takes: ``{"name": str, "type": str}`` dicts, ``type`` optional. None: one value.
        sandbox: Where the kernel runs: ``"local"``, a description such as :class:`LocalSandbox`, or None for the
            choice in the environment variable ``DAYTONA_KERNEL_SANDBOX``.
        execution_timeout: Seconds for one cell, host tool time included. The cell is interrupted and its variables are kept;
            only code that no interrupt reaches costs the kernel.
        max_output_chars: Characters of output that one cell may return; the middle of what exceeds it is left out and the
            whole kept in a file in the sandbox. None: no limit.
        max_value_bytes: Largest value, either way, in bytes. None: no limit.
        on_output: Called with each output as it arrives, on a background thread.
        callbacks: DSPy callbacks for this interpreter.
    """

    execution_instructions = (
        "The REPL is a real IPython kernel: variables, imports and functions stay between steps; magics, `!shell` and "
        "top-level `await` work. Print what you want to see, or make it the last expression. Tools are plain functions "
        "(`await tool.aio(...)` in async code); their errors are exceptions you can catch by type. End with SUBMIT(...)."
    )

    def __init__(
        self,
        tools: Mapping[str, Tool] | None = None,
        output_fields: list[dict[str, Any]] | None = None,
        *,
        sandbox: Sandbox | str | None = None,
        execution_timeout: float | None = None,
        max_output_chars: int | None = settings.MAX_OUTPUT_CHARS,
        max_value_bytes: int | None = settings.MAX_VALUE_BYTES,
        on_output: Callable[[Output], None] | None = None,
        callbacks: list[Any] | None = None,
    ) -> None:
        self.tools: dict[str, Tool] = dict(tools or {})
        self.output_fields = output_fields
        self.execution_timeout = execution_timeout
        self.max_output_chars, self.max_value_bytes = max_output_chars, max_value_bytes
        self.on_output = on_output
        self.callbacks = list(callbacks or [])
        self._sandbox = sandbox
        self._outputs: list[Output] = []
        self._lock = threading.Lock()  # held by the call that runs
        self._session: _Session | None = None
        self._ended: str | None = None  # why there will be no further cell
        self._finalizer: weakref.finalize[Any, KernelInterpreter] | None = None

    # --- lifecycle ----------------------------------------------------------------------------------

    @_with_callbacks
    def start(self) -> None:
        """Start sandbox and kernel. Does nothing if they run.

        Raises:
            CodeInterpreterError: If they cannot be started, or were shut down.
        """
        with self._sole_call("start"):
            io_loop().run(self._ensure_session())

    async def astart(self) -> None:
        """Like :meth:`start`, without blocking the caller's loop."""
        with self._sole_call("astart"):
            await io_loop().arun(self._ensure_session())

    @_with_callbacks
    def shutdown(self) -> None:
        """End kernel and sandbox. A call running in another thread ends in an error. Calling it again does nothing."""
        self._ended = self._ended or "it was shut down"
        session, self._session = self._session, None
        if session is not None:
            io_loop().run(session.aclose())
        if self._finalizer is not None:
            self._finalizer.detach()

    async def ashutdown(self) -> None:
        """Like :meth:`shutdown`, without blocking the caller's loop."""
        await asyncio.get_running_loop().run_in_executor(None, contextvars.copy_context().run, self.shutdown)

    def __enter__(self) -> KernelInterpreter:
        """Return the interpreter; it starts with the first call, as DSPy's own does."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Shut down."""
        self.shutdown()

    async def __aenter__(self) -> KernelInterpreter:
        """Return the interpreter."""
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Shut down."""
        await self.ashutdown()

    def spawn(self) -> KernelInterpreter:
        """Return a fresh, unstarted interpreter of the same configuration."""
        return KernelInterpreter(
            dict(self.tools),
            self.output_fields,
            sandbox=self._sandbox,
            execution_timeout=self.execution_timeout,
            max_output_chars=self.max_output_chars,
            max_value_bytes=self.max_value_bytes,
            on_output=self.on_output,
            callbacks=self.callbacks,
        )

    # --- cells --------------------------------------------------------------------------------------

    @_with_callbacks
    def execute(self, code: str, variables: dict[str, Any] | None = None) -> Any:
        """Run ``code`` as one cell, with ``variables`` bound first, and return what it gave.

        Returns:
            ``FinalOutput`` if it called SUBMIT. Else what it printed; or, if it printed nothing, the value of its last
            expression (its repr, where RLM would not show the value); or the prints followed by the repr.
            ``""`` if there is neither.

        Raises:
            SyntaxError: The code does not compile; nothing of it ran.
            CodeExecutionError: It raised, or was interrupted; variables are kept. Its text ends with what was printed.
                (``CodeInterpreterError`` on DSPy before 3.3.)
            CodeInterpreterError: The session is over, or the call was wrong: bad names, a value that cannot
                be sent, a second call at the same time.
        """
        with self._sole_call("execute"):
            cell = self._prepare(code, variables)
            context = self._context()
            try:
                io_loop().run(self._ensure_session())
                result = io_loop().run(self._run(code, cell, context, None))
            except KernelError as error:
                raise self._over(error) from error
            except (DiedInCell, ToolAborted) as error:
                self._raise_unwrapped(error)
            return self._conclude(result, cell)

    async def aexecute(self, code: str, variables: dict[str, Any] | None = None) -> Any:
        """Like :meth:`execute`, without blocking the caller's loop; async tools run on it."""
        with self._sole_call("aexecute"):
            cell = self._prepare(code, variables)
            context = self._context()
            try:
                await io_loop().arun(self._ensure_session())
                result = await io_loop().arun(self._run(code, cell, context, asyncio.get_running_loop()))
            except KernelError as error:
                raise self._over(error) from error
            except (DiedInCell, ToolAborted) as error:
                self._raise_unwrapped(error)
            return self._conclude(result, cell)

    def __call__(self, code: str, variables: dict[str, Any] | None = None) -> Any:
        """Same as :meth:`execute`."""
        return self.execute(code, variables)

    def interrupt(self) -> None:
        """Interrupt the running cell, from another thread. Variables are kept; without a running cell nothing happens."""
        session = self._session
        if session is not None:
            io_loop().run(session.kernel.interrupt())

    @property
    def outputs(self) -> list[Output]:
        """Typed outputs of the last cell, in order: text, displayed data, the result, the error."""
        return list(self._outputs)

    @property
    def connection_info(self) -> dict[str, Any]:
        """The kernel's Jupyter connection info, for further clients on this machine. It holds the session key.

        Raises:
            CodeInterpreterError: If nothing runs.
        """
        if self._session is None:
            raise CodeInterpreterError("There is no kernel to connect to: call start() first.")
        return dict(self._session.kernel.connection_info)

    @_with_callbacks
    def invoke_tool(self, tool_name: str, kwargs: dict[str, Any]) -> Any:
        """Run one host tool with its arguments by name; DSPy's callbacks see every call through this method."""
        result = call(self.tools[tool_name], kwargs)
        if hasattr(result, "__await__"):
            session = self._session
            if session is None:
                raise RuntimeError("the interpreter was shut down")
            return session.tools.wait_for(result)
        return result

    # --- what one call needs ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def _sole_call(self, what: str) -> Iterator[None]:
        if id(self) in _executing.get():
            raise CodeInterpreterError(
                f"{what}() was called by a tool of the same interpreter, whose cell is still running: use another interpreter there."
            )
        if not self._lock.acquire(blocking=False):
            raise CodeInterpreterError(f"{what}() was called while another call runs: one interpreter runs one cell at a time.")
        try:
            yield
        finally:
            self._lock.release()

    def _context(self) -> contextvars.Context:
        context = contextvars.copy_context()
        context.run(_executing.set, _executing.get() | {id(self)})
        return context

    def _prepare(self, code: str, variables: Mapping[str, Any] | None) -> Preamble:
        if not isinstance(code, str):
            raise CodeInterpreterError(f"code must be a str, not {type(code).__name__}.")
        try:
            code.encode("utf-8")
        except UnicodeEncodeError as error:
            raise SyntaxError(f"Invalid Python syntax. The code holds a lone surrogate at position {error.start}.") from None
        for name in variables or {}:
            if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
                raise CodeInterpreterError(f"Invalid variable name: {name!r}. A variable's name must be a Python identifier.")
        try:
            tools = tuple(describe(name, tool) for name, tool in self.tools.items())
        except InvalidTool as error:
            raise CodeInterpreterError(f"{error}.") from None
        return Preamble(
            variables={name: self._sendable(name, value) for name, value in (variables or {}).items()},
            tools=tools,
            fields=_fields(self.output_fields),
            max_output_chars=self.max_output_chars,
            max_value_bytes=self.max_value_bytes,
        )

    def _sendable(self, name: str, value: Any) -> Any:
        if name.startswith("__dspy_"):
            return _dspy_json_form(name, value)
        try:
            values.dumps(value, max_bytes=self.max_value_bytes)
        except (values.UnsupportedValue, values.ValueTooLarge) as error:
            raise CodeInterpreterError(f"Variable {name!r} cannot be sent to the kernel: {error}.") from error
        return value

    async def _ensure_session(self) -> None:
        if self._ended is not None:
            raise CodeInterpreterError(f"This interpreter cannot run code any more: {self._ended}. Create a new one.")
        if self._session is not None:
            return
        try:
            session = await _Session.start(self._resolve_sandbox(), self)
        except KernelError as error:
            raise CodeInterpreterError(f"{type(error).__name__}: {error}") from error
        self._session = session
        self._finalizer = weakref.finalize(self, _close_forgotten, session)
        if self._ended is not None:  # shut down from another thread meanwhile
            self._session = None
            await session.aclose()
            raise CodeInterpreterError(f"This interpreter cannot run code any more: {self._ended}. Create a new one.")

    def _resolve_sandbox(self) -> Sandbox:
        choice = self._sandbox if self._sandbox is not None else settings.sandbox_choice()
        if choice is None and settings.has_daytona_key():
            choice = "daytona"
        if choice is None:
            raise CodeInterpreterError(
                "No sandbox was chosen: set DAYTONA_API_KEY to use Daytona, or pass sandbox=\"local\" to run the kernel as a child "
                "process of this one, where the model's code runs as you and without isolation."
            )
        if choice == "local":
            return LocalSandbox()
        if choice == "daytona":
            raise CodeInterpreterError(
                'Daytona sandboxes are not part of this version yet: pass sandbox="local" (no isolation) until they are.'
            )
        if isinstance(choice, str) or isinstance(choice, type) or not isinstance(choice, Sandbox):
            raise CodeInterpreterError(f"There is no sandbox {choice!r}: pass \"local\", or a description such as LocalSandbox().")
        return choice

    async def _run(
        self, code: str, preamble: Preamble, context: contextvars.Context, caller_loop: asyncio.AbstractEventLoop | None
    ) -> CellResult:
        session = self._session
        if session is None:
            raise CodeInterpreterError(f"This interpreter cannot run code any more: {self._ended}.")
        session.tools.begin_cell(self.tools, context, caller_loop)
        return await session.kernel.run(
            code, preamble, session.tools, timeout_s=self.execution_timeout, on_output=self._guarded_on_output()
        )

    def _guarded_on_output(self) -> Callable[[Output], None] | None:
        on_output = self.on_output
        if on_output is None:
            return None

        def report(output: Output) -> None:
            try:
                on_output(output)
            except Exception:
                log.warning("on_output raised; the cell goes on", exc_info=True)

        return report

    # --- what a cell gave ---------------------------------------------------------------------------------

    def _conclude(self, result: CellResult, preamble: Preamble) -> Any:
        cell = result.cell
        self._outputs = cell.outputs
        if cell.submission is not None:
            return FinalOutput(self._submitted(cell))
        text = (_LATE_NOTE + result.late if result.late else "") + cell.text()
        if result.interrupted is not None or result.timed_out:
            raise self._interrupted(result, text)
        if cell.error is not None:
            raise _cell_error(cell.error, cell.failed_to_compile, text)
        return _returned(cell, text, raw_only=any(name.startswith("__dspy_") for name in preamble.variables))

    def _submitted(self, cell: Cell) -> Any:
        try:
            answer = values.loads(cell.submission or [])
        except RemoteProtocolError as error:
            raise CodeInterpreterError(f"The sandbox sent a SUBMIT that is no value: {error}.") from error
        names = [field.name for field in _fields(self.output_fields) or (Field("output"),)]
        if not isinstance(answer, dict) or list(answer) != names:
            raise CodeInterpreterError("The sandbox sent a SUBMIT whose fields are not the output fields.")
        return answer

    def _interrupted(self, result: CellResult, text: str) -> CodeInterpreterError:
        if result.timed_out:
            summary = f"TimeoutError: the cell was interrupted after execution_timeout={self.execution_timeout:g} s; variables kept"
        else:
            summary = "KeyboardInterrupt: the cell was interrupted; variables kept"
        return CodeExecutionError(_with_output(summary, result.cell.error, text))

    def _over(self, error: KernelError) -> CodeInterpreterError:
        """Note that the session has ended by ``error``, and return what to raise for it."""
        self._ended = self._ended or str(error)
        return CodeInterpreterError(f"{type(error).__name__}: {error}")

    def _raise_unwrapped(self, wrapper: DiedInCell | ToolAborted) -> None:
        if isinstance(wrapper, ToolAborted):
            raise wrapper.error
        self._outputs = wrapper.cell.outputs
        if wrapper.cell.submission is not None:
            log.warning("the kernel ended after SUBMIT: %s", wrapper.error)
        self._over(wrapper.error)
        summary = f"{type(wrapper.error).__name__}: {wrapper.error}"
        stderr = getattr(wrapper.error, "stderr", "")
        if stderr.strip():
            summary += f"\nLast words of the kernel:\n{stderr.strip()[-2000:]}"
        raise CodeInterpreterError(_with_output(summary, None, wrapper.cell.text())) from wrapper.error

    # --- copies: a fresh, unstarted interpreter of the same configuration -----------------------------------

    def __copy__(self) -> KernelInterpreter:
        """Return :meth:`spawn`'s: two objects never share a kernel."""
        return self.spawn()

    def __deepcopy__(self, memo: dict[int, Any]) -> KernelInterpreter:
        """Return :meth:`spawn`'s: kernels cannot be copied."""
        return self.spawn()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the configuration; tools must be picklable."""
        keywords = {
            "sandbox": self._sandbox,
            "execution_timeout": self.execution_timeout,
            "max_output_chars": self.max_output_chars,
            "max_value_bytes": self.max_value_bytes,
            "on_output": self.on_output,
            "callbacks": self.callbacks,
        }
        return _rebuild, (dict(self.tools), self.output_fields, keywords)


class _Session:
    """A running sandbox with its tunnel, kernel and tools."""

    def __init__(self, sandbox: RunningSandbox, tunnel: Tunnel, kernel: Kernel, tools: ToolRunner) -> None:
        self.sandbox, self.tunnel, self.kernel, self.tools = sandbox, tunnel, kernel, tools

    @classmethod
    async def start(cls, description: Sandbox, owner: KernelInterpreter) -> _Session:
        async with contextlib.AsyncExitStack() as stack:
            sandbox = await description.start()
            stack.push_async_callback(sandbox.stop)
            tunnel = await Tunnel.open(sandbox.address)
            stack.push_async_callback(tunnel.aclose)
            kernel = await Kernel.start(tunnel, max_value_bytes=owner.max_value_bytes)
            weak = weakref.WeakMethod(owner.invoke_tool)
            tools = ToolRunner(lambda name, arguments: _invoke(weak, name, arguments), owner.max_value_bytes)
            stack.pop_all()
        return cls(sandbox, tunnel, kernel, tools)

    async def aclose(self) -> None:
        self.tools.close()
        async with contextlib.AsyncExitStack() as stack:  # whatever one step raises, the others are done
            stack.push_async_callback(self.sandbox.stop)
            stack.push_async_callback(self.tunnel.aclose)
            stack.push_async_callback(self.kernel.aclose)


def _invoke(weak: weakref.WeakMethod[Any], name: str, arguments: dict[str, Any]) -> Any:
    method = weak()
    if method is None:
        raise RuntimeError("the interpreter is gone")
    return method(name, arguments)


def _close_forgotten(session: _Session) -> None:
    """End the sandbox of an interpreter that was dropped, or still ran at the end of the process."""
    with contextlib.suppress(Exception):
        io_loop().submit(session.aclose()).result(_SHUTDOWN_S)


def _rebuild(tools: dict[str, Tool], output_fields: Any, keywords: dict[str, Any]) -> KernelInterpreter:
    return KernelInterpreter(tools, output_fields, **keywords)


def _fields(output_fields: list[dict[str, Any]] | None) -> tuple[Field, ...] | None:
    if output_fields is None:
        return None
    return tuple(Field(str(field["name"]), str(field.get("type", ""))) for field in output_fields)


def _dspy_json_form(name: str, value: Any) -> Any:
    """Return the JSON form in which DSPy's own interpreters send their ``__dspy_`` variables; Flex compares it as text."""
    from pydantic_core import to_jsonable_python

    try:
        return to_jsonable_python(value)
    except ValueError as error:
        raise CodeInterpreterError(f"Variable {name!r} cannot be sent to the kernel: {error}.") from error


def _returned(cell: Cell, text: str, *, raw_only: bool) -> Any:
    shown = cell.value_text()
    if shown is None and cell.value is None:
        return text
    value = None
    if cell.value is not None:
        with contextlib.suppress(RemoteProtocolError):
            value = values.loads(cell.value)
    if raw_only:
        return value if value is not None else shown
    if text:
        return f"{text if text.endswith(chr(10)) else text + chr(10)}{shown}"
    return value if _visible(value) else shown


def _visible(value: Any) -> bool:
    """Whether RLM shows ``value`` as it is: it hides what is falsy, and joins lists with newlines."""
    if not value or (isinstance(value, list) and not "".join(map(str, value))):
        return False
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _cell_error(error: CellError, failed_to_compile: bool, text: str) -> Exception:
    if failed_to_compile and error.name in ("SyntaxError", "IndentationError", "TabError"):
        return SyntaxError(f"Invalid Python syntax. {error.summary}\n{error.traceback}")
    return CodeExecutionError(_with_output(error.summary, error, text))


def _with_output(summary: str, error: CellError | None, text: str) -> str:
    parts = [summary]
    if error is not None and error.traceback:
        parts.append(error.traceback)
    if text:
        parts.append(f"Output before the error:\n{text}")
    return "\n".join(parts)


__all__ = ["CodeExecutionError", "CodeInterpreterError", "FinalOutput", "KernelInterpreter", "bind"]
