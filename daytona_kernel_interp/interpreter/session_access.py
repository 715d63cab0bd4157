"""The session of one interpreter: started once, used by one call at a time, and over after its first fatal error.

``KernelInterpreter`` and its part :mod:`.transfer` share one :class:`SessionAccess`. It holds
no reference to the interpreter: when an interpreter is dropped without a shutdown, its ``SessionAccess`` is dropped
with it, and a finalizer closes the session. A session is started, or adopted from a host that is gone.

Three things can end a session: ``shutdown``, ``detach`` and an error after which the kernel is gone or out of reach.
From then on each call raises an error that repeats the reason. Only DSPy before 3.3 needs a new session after
``shutdown``.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import logging
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any

from .. import errors
from ..client.execution_result import ExecutionAborted
from ..errors import CellNotRun, KernelError, RecordingError
from ..monitor.inspection import Inspection, parse_inspection
from ..recording.recorder import begin_recording, begin_step
from ..runtime import cleanup
from ..runtime.event_loop import io_loop
from ..sandboxes.select import select_sandbox
from ..session.kernel_session import KernelSession
from ..tools.binding import ToolAborted
from .dspy_compat import REOPENS, CodeInterpreterError
from .dspy_errors import InvalidCall, SessionNotFound, VariableNotFound, to_dspy_error
from .result import conclude, error_text
from .sent_inputs import SentInputs

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from ..client.execution_result import ExecutionResult
    from ..client.output_collector import OutputCollector
    from ..client.outputs import Output
    from ..monitor.widget import SessionView
    from ..recording.recorder import NullStep, Recorder
    from ..recording.step_recorder import StepRecorder
    from ..sandboxes.base import Sandbox
    from ..tools.binding import Invoke
    from ..tools.tool_loop import LoopChoice, ToolLoop
    from .options import CallSettings
    from .request import CellRequest

log = logging.getLogger(__name__)

_CLOSE_S = 10.0  # for the sandbox of an interpreter that was dropped
_LOG_TAIL_CHARS = 2000
_SHUT_DOWN = "it was shut down"

# The sessions whose cells the current context runs inside of: a tool that calls its own interpreter would wait forever.
_executing: contextvars.ContextVar[frozenset[int]] = contextvars.ContextVar(
    "daytona_kernel_executing", default=frozenset()
)


class SessionAccess:
    """The session of one interpreter, and the rules for its use.

    Attributes:
        session: The running session, or None.
        recorder: Records the session, or None.
        sent_inputs: The variables that the kernel keeps from earlier cells.
        outputs: The outputs of the last cell.
        last_result: How the last cell ended; None if it did not end with its kernel alive.
    """

    def __init__(
        self, sandbox: Sandbox | str | None, invoke: Invoke, recorder: Recorder | None, loops: LoopChoice
    ) -> None:
        self.session: KernelSession | None = None
        self.recorder = recorder
        self.sent_inputs = SentInputs()
        self.outputs: list[Output] = []
        self.last_result: ExecutionResult | None = None
        self._sandbox, self._invoke, self._loops = sandbox, invoke, loops
        self._lock = threading.Lock()  # held by the call that runs
        self._pid = os.getpid()
        self._attached = False  # whether the last cell belongs to an earlier host and was not returned yet
        self._ended: str | None = None  # why there will be no further cell
        self._finalizer: weakref.finalize[[KernelSession, int], SessionAccess] | None = None

    # --- start and end ------------------------------------------------------------------------------

    def start(self, settings: CallSettings) -> None:
        """Start the session if it does not run."""
        self._loops.note_use()
        with self.exclusive("start", starts=True):
            io_loop().run(self._start_session(settings))

    async def astart(self, settings: CallSettings) -> None:
        """Start the session if it does not run, without blocking the caller's loop."""
        self._loops.note_use()
        with self.exclusive("astart", starts=True):
            await io_loop().arun(self._start_session(settings))

    async def _start_session(self, settings: CallSettings) -> None:
        if REOPENS and self._ended == _SHUT_DOWN:
            log.info("opening a new session after shutdown(), as DSPy before 3.3 needs; variables are not kept")
            self._ended = None
        self._check_not_ended()
        if self.session is not None:
            return
        try:
            session = await KernelSession.start(select_sandbox(self._sandbox), self._invoke, settings.max_value_bytes)
        except KernelError as error:  # nothing was started, so a later call may try again
            raise to_dspy_error(error, str(error)) from error
        try:
            self._check_not_ended()  # shutdown() may have been called in another thread meanwhile
            self._use_session(session, settings)
        except CodeInterpreterError:
            await session.aclose()
            raise

    def _use_session(self, session: KernelSession, settings: CallSettings) -> None:
        """Begin to use, and to record, a session that was started or adopted.

        Raises:
            CodeInterpreterError: If it cannot be recorded.
        """
        if self.recorder is not None:
            try:
                begin_recording(self.recorder, session, settings.limits(), settings.seed)
            except RecordingError as error:
                raise to_dspy_error(error, f"The session cannot be recorded: {error}") from error
            except OSError as error:
                raise CodeInterpreterError(f"The session cannot be recorded: {error}") from error
        self.session, self._pid = session, os.getpid()
        self.sent_inputs.set_cached_keys(())
        self._finalizer = weakref.finalize(self, _close_abandoned, session, self._pid)
        self._finalizer.atexit = False  # runtime.cleanup closes what is open at the end of the process

    def attach(self, session_id: str, settings: CallSettings) -> None:
        """Become the host of a session whose own host is gone, and wait for its last cell in the background."""
        with self.exclusive("attach", starts=True), self._errors_for_dspy():
            io_loop().run(self._adopt(session_id, settings, self._cell_context()))

    async def _adopt(self, session_id: str, settings: CallSettings, context: contextvars.Context) -> None:
        session = await KernelSession.adopt(session_id, self._invoke, settings.max_value_bytes)
        try:
            session.tools.begin_cell(settings.tools, context, None)
            await session.adopt_last_cell(
                timeout_s=settings.execution_timeout,
                max_output_chars=settings.max_output_chars,
                on_output=_guarded(settings.on_output),
            )
            self._use_session(session, settings)
        except BaseException:  # re-raised: the session waits for another host
            await session.release()
            raise
        self._attached = True

    def detach(self) -> None:
        """Leave the session without ending it."""
        session = self._end("its session was detached")
        if session is not None:
            io_loop().run(session.release())
        self._keep_open()

    def shutdown(self) -> None:
        """End the session and its sandbox; a call that runs in another thread ends in an error."""
        session = self._end(_SHUT_DOWN)
        if session is not None:
            if self.recorder is not None:
                self.recorder.shutting_down()
            if io_loop().is_here:  # as in a __del__ that the garbage collector runs there: the loop has to do the work
                io_loop().submit(session.aclose())
            else:
                io_loop().run(session.aclose())
        self._keep_open()

    def _end(self, reason: str) -> KernelSession | None:
        """Refuse further calls for ``reason``; return the session that the caller has to close or release, if any."""
        self._ended = reason if REOPENS and reason == _SHUT_DOWN else self._ended or reason
        session, self.session = self.session, None
        return session if self._pid == os.getpid() else None

    def _keep_open(self) -> None:
        """Let the finalizer close nothing: the session was closed or released."""
        if self._finalizer is not None:
            self._finalizer.detach()

    # --- cells --------------------------------------------------------------------------------------

    def run_cell(self, what: str, request: CellRequest, settings: CallSettings) -> object:
        """Run a cell and return what ``execute`` returns, or raise its error."""
        with self.exclusive(what), begin_step(self.recorder, request) as step:
            result = self._run(request, settings, step)
            return step.set_result(self._conclude(result, settings, raw_only=request.raw_only))

    async def arun_cell(self, what: str, request: CellRequest, settings: CallSettings) -> object:
        """Run a cell without blocking the caller's loop."""
        with self.exclusive(what), begin_step(self.recorder, request) as step:
            context, tool_loop = self._cell_context(), self._loops.for_cell(awaited=True)
            with self._errors_for_dspy():
                result = await io_loop().arun(self._cell(request, settings, context, tool_loop, step))
                if result.cell.input_evicted and request.complete_request is not None:  # nothing has run
                    whole = request.complete_request()
                    result = await io_loop().arun(self._cell(whole, settings, context, tool_loop, step))
            self._note_end(result, step)
            return step.set_result(self._conclude(result, settings, raw_only=request.raw_only))

    def exchange(self, what: str, request: CellRequest, settings: CallSettings) -> OutputCollector:
        """Run a request that moves values or files and has no code; only one that binds variables is recorded."""
        with self.exclusive(what), begin_step(self.recorder if request.variables else None, request) as step:
            return self._run(request, settings, step).cell

    def resume(self, settings: CallSettings) -> object:
        """Wait for the last cell of an attached session; return what ``execute`` would have, or raise its error."""
        with self.exclusive("resume"):
            if not self._attached or self.session is None:
                raise CodeInterpreterError("resume() is for an interpreter from attach(), before its first execute().")
            self._attached = False
            with self._errors_for_dspy():
                result = io_loop().run(self.session.last_cell())
            return None if result is None else self._conclude(result, settings)

    def _run(self, request: CellRequest, settings: CallSettings, step: StepRecorder | NullStep) -> ExecutionResult:
        context, tool_loop = self._cell_context(), self._loops.for_cell(awaited=False)
        with self._errors_for_dspy():
            result = io_loop().run(self._cell(request, settings, context, tool_loop, step))
            if result.cell.input_evicted and request.complete_request is not None:  # nothing has run
                result = io_loop().run(self._cell(request.complete_request(), settings, context, tool_loop, step))
        self._note_end(result, step)
        return result

    def _cell(
        self,
        request: CellRequest,
        settings: CallSettings,
        context: contextvars.Context,
        tool_loop: ToolLoop | None,
        step: StepRecorder | NullStep,
    ) -> Coroutine[None, None, ExecutionResult]:
        """Return the coroutine that runs a cell on the I/O loop. None of its steps comes back to this module."""
        self._check_not_ended()
        session = self.current()
        self._attached, self.last_result = False, None
        return session.run_cell(
            request.code,
            request.buffers,
            settings.tools,
            context=context,
            tool_loop=tool_loop,
            observer=step.observer,
            timeout_s=settings.execution_timeout,
            max_output_chars=settings.max_output_chars,
            on_output=_guarded(settings.on_output),
            on_sent=step.request_sent,
        )

    def _note_end(self, result: ExecutionResult, step: StepRecorder | NullStep) -> None:
        self.sent_inputs.set_cached_keys(result.cell.cached_keys)
        self.last_result = result
        step.cell_ended(result)

    def _conclude(self, result: ExecutionResult, settings: CallSettings, *, raw_only: bool = False) -> object:
        """Keep the outputs of a cell, and return what ``execute`` returns for it, or raise its error."""
        self.outputs = result.cell.outputs
        return conclude(result, settings, raw_only=raw_only)

    def interrupt(self) -> None:
        """Interrupt the running cell, if there is one."""
        session = self.session
        if session is not None:
            io_loop().run(session.kernel.interrupt())

    # --- beside a cell, in any thread ---------------------------------------------------------------

    def inspect(self, name: str | None, *, private: bool) -> Inspection:
        """Return the session's variables and running code, or one variable."""
        session = self.current("inspect(): there is no session")
        if name is not None and not isinstance(name, str):
            raise InvalidCall(f"inspect() takes the name of one variable or no name, not {name!r}.")
        try:
            answer = io_loop().run(session.kernel.inspect(name))
        except KernelError as error:
            raise to_dspy_error(error, f"inspect(): {type(error).__name__}: {error}") from error
        if answer.get("missing") is True:
            raise VariableNotFound(f"inspect(): NameError: name {name!r} is not defined")
        return parse_inspection(answer, session.id, name, private=private)

    def view(self) -> SessionView:
        """Return a widget that follows the session; it does not keep the interpreter alive."""
        session, weak_self = self.current("view(): there is no session"), weakref.ref(self)
        from ..monitor.widget import SessionView  # needs the extra `jupyter`

        def follow(since: int) -> dict[str, Any]:
            own = weak_self()
            if own is None or own.session is not session:
                raise errors.SessionNotFound("the interpreter was shut down")
            del own  # a request may take long, and the interpreter may be dropped meanwhile
            return io_loop().run(session.monitor_server.follow(since))

        return SessionView(follow, session.id)

    # --- rules --------------------------------------------------------------------------------------

    def current(self, missing: str = "There is no session") -> KernelSession:
        """Return the running session.

        Raises:
            SessionNotFound: If this process has none; the text begins with ``missing``.
        """
        if self.session is None or self._pid != os.getpid():
            raise SessionNotFound(f"{missing}: call start() first.")
        return self.session

    @contextlib.contextmanager
    def exclusive(self, what: str, *, starts: bool = False) -> Iterator[None]:
        """Refuse a call that cannot have the session for itself."""
        if id(self) in _executing.get():
            raise CodeInterpreterError(
                f"{what}() was called by a tool of the same interpreter, whose cell is still running: "
                "use another interpreter there."
            )
        if self.session is not None and self._pid != os.getpid():
            raise CodeInterpreterError(
                f"{what}() was called in a forked process, and the sandbox is its parent's: spawn() makes a new one."
            )
        if starts or self.session is not None:  # not before: a program without a session keeps its signal handlers
            cleanup.install_sigterm_handler()
        if not self._lock.acquire(blocking=False):
            raise CodeInterpreterError(
                f"{what}() was called while another call runs: one interpreter runs one cell at a time."
            )
        try:
            yield
        finally:
            self._lock.release()

    def _check_not_ended(self) -> None:
        if self._ended is not None:
            raise CodeInterpreterError(f"This interpreter cannot run code any more: {self._ended}. Create a new one.")

    def _cell_context(self) -> contextvars.Context:
        """Return a copy of the caller's context, for tools: it has DSPy's settings, and marks this session as busy."""
        context = contextvars.copy_context()
        context.run(_executing.set, _executing.get() | {id(self)})
        return context

    @contextlib.contextmanager
    def _errors_for_dspy(self) -> Iterator[None]:
        """Raise errors as the classes that DSPy expects. After all but CellNotRun the session is over."""
        try:
            yield
        except ToolAborted as aborted:
            raise aborted.error from None
        except ExecutionAborted as aborted:
            self.outputs = aborted.cell.outputs
            cause, text = aborted.error, f"{type(aborted.error).__name__}: {aborted.error}"
            if log_tail := getattr(cause, "stderr", "").strip():
                text += f"\nEnd of the kernel's log:\n{log_tail[-_LOG_TAIL_CHARS:]}"
            self._ended = self._ended or str(cause)
            raise to_dspy_error(cause, error_text(text, "", aborted.cell.text())) from cause
        except CodeInterpreterError:
            raise
        except KernelError as error:
            if not isinstance(error, CellNotRun):  # the kernel is alive
                self._ended = self._ended or str(error)
            raise to_dspy_error(error, f"{type(error).__name__}: {error}") from error


def _guarded(on_output: Callable[[Output], None] | None) -> Callable[[Output], None] | None:
    """Return ``on_output`` as a function whose errors do not end the cell."""
    return None if on_output is None else functools.partial(_report_output, on_output)


def _report_output(on_output: Callable[[Output], None], output: Output) -> None:
    try:
        on_output(output)
    except Exception:  # the user's function may raise anything
        log.warning("on_output raised; the cell goes on", exc_info=True)


def _close_abandoned(session: KernelSession, pid: int) -> None:
    """Close the session of an interpreter that was dropped, in the process that started it."""
    if pid != os.getpid():
        return
    with contextlib.suppress(Exception):  # a finalizer cannot raise; the sandbox ends itself later
        closing = io_loop().submit(session.aclose())
        if not io_loop().is_here:  # the garbage collector may run on the I/O loop, which has to do the work
            closing.result(_CLOSE_S)
