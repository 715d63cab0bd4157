"""``KernelInterpreter``: DSPy's CodeInterpreter contract, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import logging
import os
import secrets
import threading
import weakref
from typing import TYPE_CHECKING, Any

from dspy.primitives.code_interpreter import CodeInterpreterError, FinalOutput

from .. import config as settings
from ..client.execution import ExecutionAborted, ExecutionResult
from ..errors import CellNotRun, KernelError, RecordingError
from ..recording.recorder import NullStep, Recorder, begin_recording, begin_step
from ..runtime import cleanup as registry
from ..runtime.event_loop import io_loop
from ..sandboxes.select import preload_sdk, select_sandbox
from ..session.kernel_session import KernelSession
from ..tools.binding import Tool, ToolAborted, call, weak_method
from ..wire.comm import OutputField
from ..wire.protocol_errors import RemoteProtocolError
from .dspy_compat import REOPENS, CodeExecutionError, with_callbacks
from .introspection import InspectMixin
from .reattach import ReattachMixin
from .request import CellRequest, InvalidRequest, build_request, check_limits, fields_of, tools_of
from .result import error_text, execute_result, is_syntax_error, parse_submission, printed_text
from .sent_inputs import SentInputs
from .transfer import TransferMixin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from ..client.outputs import Output
    from ..recording.step_recorder import StepRecorder
    from ..sandboxes.base import Sandbox

__all__ = ["CodeExecutionError", "CodeInterpreterError", "FinalOutput", "KernelInterpreter"]

log = logging.getLogger(__name__)

_SHUTDOWN_S = 10.0
_SHUT_DOWN = "it was shut down"

_executing: contextvars.ContextVar[frozenset[int]] = contextvars.ContextVar(
    "daytona_kernel_executing", default=frozenset()
)


class KernelInterpreter(TransferMixin, ReattachMixin, InspectMixin):
    """A Python REPL for ``dspy.RLM`` and DSPy's other code-writing modules: a real IPython kernel in a sandbox.

    Nothing starts before the first :meth:`start` or :meth:`execute`. One call at a time; state is kept between calls
    until :meth:`shutdown`. Use it as a context manager, or call :meth:`shutdown`, to end the sandbox at a time of your
    choosing; one that is forgotten ends with its interpreter object, or with this process.

    Args:
        tools: Host functions that code can call by name; ``async def`` ones too. The dict stays
            ``interpreter.tools`` and may be changed between calls.
        output_fields: What SUBMIT takes: ``{"name": str, "type": str}`` dicts, ``type`` optional. None: one value.
        sandbox: Where the kernel runs: ``"daytona"``, ``"local"``, or a description such as :class:`DaytonaSandbox`.
            None: what ``DAYTONA_KERNEL_SANDBOX`` says, else Daytona if there is a key for it, else an error.
        execution_timeout: Seconds for one cell, host tool time included. The cell is interrupted and its variables
            are kept; only code that no interrupt reaches costs the kernel.
        max_output_chars: Characters of output that one cell may return; the middle of what exceeds it is left out
            and the whole kept in a file in the sandbox. None: no limit.
        max_value_bytes: Largest value, either way, in bytes. None: no limit.
        record: Path of a notebook that grows as the session runs, with all that a replay needs (:class:`Recording`).
            An earlier recording of that name is replaced; any other file is left alone. Further sessions of this
            process, such as those of copies, get names of their own: ``run-2.ipynb`` and so on.
        on_output: Called with each output as it arrives, on a background thread; must not block.
        callbacks: DSPy callbacks for this interpreter.
    """

    execution_instructions = (
        "The REPL is a live IPython kernel: all state (variables, imports, functions) stays between steps; magics, "
        "`!shell` and top-level `await` work; files stay in the working folder; figures are shown. You see what is "
        "printed and the value of the last line. Tools are plain functions (`await tool.aio(...)` in async code); "
        "their errors are exceptions that you can catch by type. Input variables are set anew at every step: keep "
        "changes under other names. End with SUBMIT(...)."
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
        record: str | os.PathLike[str] | None = None,
        on_output: Callable[[Output], None] | None = None,
        callbacks: list[Any] | None = None,
    ) -> None:
        self.tools: dict[str, Tool] = tools_of(tools)
        self.output_fields = output_fields
        self.execution_timeout = execution_timeout
        self.max_output_chars, self.max_value_bytes = max_output_chars, max_value_bytes
        self.on_output = on_output
        self.callbacks = list(callbacks or [])
        self._sandbox, self._record = sandbox, record
        self._recorder = None if record is None else Recorder(record)
        self.seed: int | None = None if record is None else secrets.randbelow(1 << 32)  # of the kernel's generators
        self._outputs: list[Output] = []
        self._sent_inputs = SentInputs()
        self._lock = threading.Lock()  # held by the call that runs
        self._session: KernelSession | None = None
        self._pid = os.getpid()
        self._attached = False  # to a session of another host, of whose last cell nothing was told yet
        self._ended: str | None = None  # why there will be no further cell
        self._finalizer: weakref.finalize[Any, KernelInterpreter] | None = None
        preload_sdk(sandbox)

    # --- lifecycle ----------------------------------------------------------------------------------

    @with_callbacks
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

    @with_callbacks
    def shutdown(self) -> None:
        """End kernel and sandbox. A call running in another thread ends in an error. Calling it again does nothing.

        There is no way back; only on DSPy before 3.3, which needs one, the next call opens a new session.
        """
        self._ended = _SHUT_DOWN if REOPENS else self._ended or _SHUT_DOWN
        session, self._session = self._session, None
        if session is not None and self._pid == os.getpid():
            if self._recorder is not None:
                self._recorder.shutting_down()
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
            record=self._record,
            on_output=self.on_output,
            callbacks=self.callbacks,
        )

    # --- cells --------------------------------------------------------------------------------------

    @with_callbacks
    def execute(self, code: str, variables: dict[str, Any] | None = None) -> Any:
        """Run ``code`` as one cell, with ``variables`` bound first, and return what it gave.

        Returns:
            ``FinalOutput`` if it called SUBMIT. Else what it printed; or, if it printed nothing, the value of its
            last expression (its repr, where RLM would not show the value); or the prints followed by the repr.
            ``""`` if there is neither.

        Raises:
            SyntaxError: The code does not compile; nothing of it ran.
            CodeExecutionError: It raised, or was interrupted; variables are kept. Its text ends with what was
                printed. (``CodeInterpreterError`` on DSPy before 3.3.)
            CodeInterpreterError: The session is over, or the call was wrong: bad names, a value that cannot
                be sent, a second call at the same time.
        """
        request = self._prepare(code, variables)  # first: a wrong call starts nothing
        if self._session is None:
            self.start()
        with self._sole_call("execute"), begin_step(self._recorder, request) as step, self._translated():
            run = self._run_request(request, self._context(), None, step)
            return step.set_result(self._conclude(io_loop().run(run), request))

    async def aexecute(self, code: str, variables: dict[str, Any] | None = None) -> Any:
        """Like :meth:`execute`, without blocking the caller's loop; async tools run on it."""
        with self._sole_call("aexecute"):
            request = self._prepare(code, variables)
            with begin_step(self._recorder, request) as step, self._translated():
                run = self._run_request(request, self._context(), asyncio.get_running_loop(), step)
                return step.set_result(self._conclude(await io_loop().arun(run), request))

    def __call__(self, code: str, variables: dict[str, Any] | None = None) -> Any:
        """Same as :meth:`execute`."""
        return self.execute(code, variables)

    def interrupt(self) -> None:
        """Interrupt the running cell, from another thread. Variables are kept; without a cell nothing happens."""
        session = self._session
        if session is not None:
            io_loop().run(session.kernel.interrupt())

    @property
    def outputs(self) -> list[Output]:
        """Typed outputs of the last cell, in order: text, displayed data, the result, the error."""
        return list(self._outputs)

    @property
    def recording_wanted(self) -> bool:
        """Whether sessions are recorded; ``dspy.RLM(interpreter=)`` then brings :meth:`Recording.callback` along."""
        return self._recorder is not None

    @property
    def recording(self) -> Path | None:
        """The notebook that the session is recorded in, or was; None before it starts, and without ``record=``."""
        return None if self._recorder is None else self._recorder.notebook

    @property
    def session_id(self) -> str:
        """The session's id, for :meth:`attach` and the command line.

        Raises:
            CodeInterpreterError: If nothing runs.
        """
        if self._session is None:
            raise CodeInterpreterError("There is no session: call start() first.")
        return self._session.id

    @property
    def connection_file(self) -> str:
        """Path of the kernel's Jupyter connection file, for further clients on this machine (``--existing``).

        It holds the session key and can be read by this user only.

        Raises:
            CodeInterpreterError: If nothing runs.
        """
        if self._session is None:
            raise CodeInterpreterError("There is no kernel to connect to: call start() first.")
        return str(self._session.kernel.connection_file)

    @with_callbacks
    def invoke_tool(self, tool_name: str, kwargs: dict[str, Any]) -> Any:
        """Run one host tool with its arguments by name; DSPy's callbacks see every call through this method."""
        result = call(self.tools[tool_name], kwargs)
        if not inspect.isawaitable(result):
            return result
        session = self._session
        if session is None:
            raise RuntimeError("the interpreter was shut down")
        return session.tools.wait_for(result)

    # --- what one call needs ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def _sole_call(self, what: str) -> Iterator[None]:
        if id(self) in _executing.get():
            raise CodeInterpreterError(
                f"{what}() was called by a tool of the same interpreter, whose cell is still running: "
                "use another interpreter there."
            )
        if self._session is not None and self._pid != os.getpid():
            raise CodeInterpreterError(
                f"{what}() was called in a forked process: the sandbox is its parent's. Use spawn() for an own one."
            )
        registry.install_sigterm_handler()
        if not self._lock.acquire(blocking=False):
            raise CodeInterpreterError(
                f"{what}() was called while another call runs: one interpreter runs one cell at a time."
            )
        try:
            yield
        finally:
            self._lock.release()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise the package's errors as DSPy's; after any of them the session is over."""
        try:
            yield
        except ToolAborted as aborted:
            raise aborted.error from None
        except ExecutionAborted as died:
            self._outputs = died.cell.outputs
            self._ended = self._ended or str(died.error)
            summary = f"{type(died.error).__name__}: {died.error}"
            stderr = getattr(died.error, "stderr", "").strip()
            if stderr:
                summary += f"\nLast words of the kernel:\n{stderr[-2000:]}"
            raise CodeInterpreterError(error_text(summary, None, died.cell.text())) from died.error
        except CellNotRun as error:  # the kernel lives, so the model may go on
            raise CodeExecutionError(f"{type(error).__name__}: {error}") from error
        except KernelError as error:
            self._ended = self._ended or str(error)
            raise CodeInterpreterError(f"{type(error).__name__}: {error}") from error

    def _context(self) -> contextvars.Context:
        context = contextvars.copy_context()
        context.run(_executing.set, _executing.get() | {id(self)})
        return context

    def _prepare(self, code: str, variables: Mapping[str, Any] | None, requested: Any = None) -> CellRequest:
        try:
            check_limits(execution_timeout=self.execution_timeout, max_output_chars=self.max_output_chars)
            return build_request(
                code,
                variables,
                self.tools,
                self.output_fields,
                max_output_chars=self.max_output_chars,
                max_value_bytes=self.max_value_bytes,
                inputs=self._sent_inputs,
                requested=requested,
                seed=self.seed,
            )
        except InvalidRequest as error:
            raise CodeInterpreterError(str(error)) from error.__cause__

    async def _ensure_session(self) -> KernelSession:
        if REOPENS and self._ended == _SHUT_DOWN:
            log.info("opening a new session after shutdown(), as DSPy before 3.3 needs; variables are not kept")
            self._ended = None
        if self._ended is not None:
            raise CodeInterpreterError(f"This interpreter cannot run code any more: {self._ended}. Create a new one.")
        if self._session is not None:
            return self._session
        try:
            session = await KernelSession.start(
                select_sandbox(self._sandbox), weak_method(self.invoke_tool), self.max_value_bytes
            )
        except KernelError as error:  # nothing was started, so a later call may try again
            raise CodeInterpreterError(str(error)) from error
        if self._ended is not None:  # shut down from another thread meanwhile
            await session.aclose()
            raise CodeInterpreterError(f"This interpreter cannot run code any more: {self._ended}. Create a new one.")
        try:
            self._use_session(session)
        except CodeInterpreterError:
            await session.aclose()
            raise
        return session

    def _use_session(self, session: KernelSession) -> None:
        if self._recorder is not None:
            limits = ("execution_timeout", "max_output_chars", "max_value_bytes")
            try:
                begin_recording(self._recorder, session, {name: getattr(self, name) for name in limits}, self.seed)
            except (RecordingError, OSError) as error:
                raise CodeInterpreterError(f"The session cannot be recorded: {error}") from error
        self._session, self._pid = session, os.getpid()
        self._sent_inputs.set_cached_keys(())
        self._finalizer = weakref.finalize(self, _close_abandoned, session, self._pid)
        self._finalizer.atexit = False  # the registry closes what is open then

    async def _run_request(
        self,
        request: CellRequest,
        context: contextvars.Context,
        caller_loop: asyncio.AbstractEventLoop | None,
        step: StepRecorder | NullStep,
    ) -> ExecutionResult:
        session = await self._ensure_session()
        await session.wait_last_cell()
        self._attached = False
        session.tools.begin_cell(self.tools, context, caller_loop, step.observer)
        result = await session.kernel.run(
            request.code,
            request.buffers,
            session.tools,
            timeout_s=self.execution_timeout,
            max_output_chars=self.max_output_chars,
            on_output=self._report if self.on_output is not None else None,
            on_sent=step.request_sent,
        )
        self._sent_inputs.set_cached_keys(result.cell.cached_keys)
        if result.cell.input_evicted and request.complete_request is not None:  # nothing has run
            return await self._run_request(request.complete_request(), context, caller_loop, step)
        step.cell_ended(result)
        return result

    def _report(self, output: Output) -> None:
        assert self.on_output is not None
        try:
            self.on_output(output)
        except Exception:
            log.warning("on_output raised; the cell goes on", exc_info=True)

    # --- what a cell gave ---------------------------------------------------------------------------------

    def _conclude(self, result: ExecutionResult, request: CellRequest) -> Any:
        cell = result.cell
        self._outputs = cell.outputs
        if cell.submission is not None:
            return FinalOutput(self._submitted(cell.submission))
        text = printed_text(result)
        if result.timed_out or (result.interrupted and (cell.error is not None or not cell.replied)):
            summary = "KeyboardInterrupt: the cell was interrupted; variables kept"
            if result.timed_out:
                limit = f"execution_timeout={self.execution_timeout:g} s"
                summary = f"TimeoutError: the cell was interrupted after {limit}; variables kept"
            raise CodeExecutionError(error_text(summary, cell.error, text))
        if cell.error is not None:
            whole = error_text(cell.error.summary, cell.error, text)
            raise SyntaxError(f"Invalid Python syntax. {whole}") if is_syntax_error(cell) else CodeExecutionError(whole)
        return execute_result(cell, text, raw_only=request.raw_only)

    def _submitted(self, buffers: Any) -> Any:
        try:
            return parse_submission(
                buffers, [field.name for field in fields_of(self.output_fields) or (OutputField("output"),)]
            )
        except RemoteProtocolError as error:
            raise CodeInterpreterError(f"The sandbox sent a SUBMIT {error}.") from error

    # --- copies: a fresh, unstarted interpreter of the same configuration -----------------------------------

    def __copy__(self) -> KernelInterpreter:
        """Return :meth:`spawn`'s: two objects never share a kernel."""
        return self.spawn()

    def __deepcopy__(self, memo: dict[int, Any]) -> KernelInterpreter:
        """Return :meth:`spawn`'s: kernels cannot be copied."""
        return self.spawn()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the configuration; tools must be picklable."""
        keywords: dict[str, Any] = {
            "sandbox": self._sandbox,
            "execution_timeout": self.execution_timeout,
            "max_output_chars": self.max_output_chars,
            "max_value_bytes": self.max_value_bytes,
            "record": self._record,
            "on_output": self.on_output,
            "callbacks": self.callbacks,
        }
        return functools.partial(KernelInterpreter, **keywords), (dict(self.tools), self.output_fields)


def _close_abandoned(session: KernelSession, pid: int) -> None:
    """End the sandbox of an interpreter that was dropped, or still ran at the end of the process that started it."""
    if pid != os.getpid():
        return
    with contextlib.suppress(Exception):
        closing = io_loop().submit(session.aclose())
        if not io_loop().is_here:  # the collector runs on any thread, and that one has it to do
            closing.result(_SHUTDOWN_S)
