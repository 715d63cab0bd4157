"""``KernelInterpreter``: the public class, composed of parts.

It keeps the configuration and checks it; everything else is done by its parts. :class:`.session_access.SessionAccess`
lives as long as the interpreter and has the session; :class:`.transfer.Transfer` is made for one call.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import secrets
import time
from typing import TYPE_CHECKING, Any

from .. import config
from ..recording.recorder import Recorder
from ..tools.binding import call, weak_method
from ..tools.tool_loop import AUTO, LoopChoice, check_async_tools
from . import options
from .dspy_compat import CodeExecutionError, CodeInterpreterError, FinalOutput, with_callbacks
from .dspy_errors import InvalidCall
from .instructions import ExecutionInstructions, InterpreterFactory
from .request import CellRequest, build_request
from .result import cell_result
from .session_access import SessionAccess
from .transfer import Transfer

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from typing_extensions import Never, Self, Unpack

    from ..client.cell_result import CellResult
    from ..client.outputs import Output
    from ..monitor.inspection import Inspection
    from ..monitor.widget import SessionView
    from ..sandboxes.base import Sandbox
    from ..tools.binding import Tool
    from .options import CallSettings, InterpreterOptions

__all__ = ["CodeExecutionError", "CodeInterpreterError", "FinalOutput", "KernelInterpreter"]


class KernelInterpreter:
    """A Python REPL for ``dspy.RLM`` and DSPy's other code-writing modules: a real IPython kernel in a sandbox.

    Nothing starts before the first :meth:`start` or :meth:`execute`. One call at a time; state is kept between calls
    until :meth:`shutdown`. Use it as a context manager, or call :meth:`shutdown`, to end the sandbox at a time of your
    choosing; one that is dropped ends with its interpreter object, or with this process.

    Args:
        tools: Names and host functions, ``async def`` ones too, that code can call. The dict stays
            ``interpreter.tools`` and may be changed between calls.
        output_fields: The fields of SUBMIT: ``{"name": str, "type": str}`` dicts, ``type`` optional. None: one value.
        sandbox: Where the kernel runs: ``"daytona"``, ``"local"``, or a description such as :class:`DaytonaSandbox`.
            None: the sandbox named by ``DAYTONA_KERNEL_SANDBOX``, else Daytona if there is a key for it, else an error.
        execution_timeout: Seconds for one cell, host tool time included. The cell is interrupted and its variables
            are kept; only code that no interrupt reaches costs the kernel.
        max_output_chars: Characters of output that one cell may return; the middle of longer output is left out
            and the whole kept in a file in the sandbox. None: no limit.
        max_value_bytes: Largest value, either way, in bytes. None: no limit.
        record: Path of a notebook that grows as the session runs, with all that a replay needs (:class:`Recording`).
            An earlier recording of that name is replaced; any other file is left alone. Further sessions of this
            process, such as those of copies, get names of their own: ``run-2.ipynb`` and so on.
        on_output: Called with each output as it arrives, on a background thread; must not block.
        callbacks: DSPy callbacks for this interpreter.
        async_tools: Where async tools run. ``"auto"``: on the caller's event loop under ``aexecute`` and ``RLM.acall``;
            in a thread without a loop, such as under ``dspy.asyncify``, on the one on which this interpreter was used
            last, if it runs and answers; else on a loop of their own. ``"own"``: always that. An event loop: on that
            one, or the call raises an error.

    Raises:
        TypeError: If an option has the wrong type, or there is no such option.
        ValueError: If the value of an option cannot be used.
    """

    execution_instructions = ExecutionInstructions()

    def __init__(
        self,
        tools: Mapping[str, Tool] | None = None,
        output_fields: list[dict[str, Any]] | None = None,
        *,
        sandbox: Sandbox | str | None = None,
        execution_timeout: float | None = None,
        max_output_chars: int | None = config.MAX_OUTPUT_CHARS,
        max_value_bytes: int | None = config.MAX_VALUE_BYTES,
        record: str | os.PathLike[str] | None = None,
        on_output: Callable[[Output], None] | None = None,
        callbacks: list[Any] | None = None,
        async_tools: str | asyncio.AbstractEventLoop = "auto",
        **unknown: Never,
    ) -> None:
        if unknown:
            options.refuse_options(type(self).__name__, unknown, OPTION_NAMES)
        options.check_output_fields(output_fields)
        options.check_sandbox(sandbox)
        for name, value in (("record", record), ("on_output", on_output), ("callbacks", callbacks)):
            options.check_option(name, value)
        check_async_tools(async_tools)
        options.check_tools({} if tools is None else tools)
        self.tools: dict[str, Tool] = dict(tools or {})
        self.output_fields = output_fields
        self.execution_timeout = execution_timeout
        self.max_output_chars, self.max_value_bytes = max_output_chars, max_value_bytes
        self.on_output = on_output
        self.callbacks: list[Any] = list(callbacks or ())
        self.seed: int | None = None if record is None else secrets.randbelow(1 << 32)  # of the kernel's generators
        self._settings().check()
        self._sandbox, self._record = sandbox, record
        self._starting: asyncio.Future[None] | None = None
        recorder = None if record is None else Recorder(record)
        self._async_tools = async_tools
        self._access = SessionAccess(sandbox, weak_method(self.invoke_tool), recorder, LoopChoice(async_tools))

    @classmethod
    def factory(
        cls,
        tools: Mapping[str, Tool] | None = None,
        output_fields: list[dict[str, Any]] | None = None,
        **options: Unpack[InterpreterOptions],
    ) -> InterpreterFactory[Self]:
        """Return a factory for ``dspy.RLM(interpreter_factory=...)`` and ``dspy.configure(interpreter_factory=...)``.

        Unlike a lambda or a ``functools.partial``, it has the ``execution_instructions`` that DSPy reads from a
        factory; they list ``tools``. Each call returns a new interpreter. The arguments are those of the constructor.

        Raises:
            TypeError: As for the constructor.
            ValueError: As for the constructor.
        """
        checked = cls(tools, output_fields, **options)
        return InterpreterFactory(cls, checked.tools, output_fields, **options)

    # --- lifecycle ----------------------------------------------------------------------------------

    @with_callbacks
    def start(self) -> None:
        """Start sandbox and kernel. Does nothing if they run.

        Raises:
            CodeInterpreterError: If they cannot be started, or were shut down.
        """
        self._access.start(self._settings())

    async def astart(self) -> None:
        """Like :meth:`start`, without blocking the caller's loop."""
        await self._access.astart(self._settings())

    @with_callbacks
    def shutdown(self) -> None:
        """End kernel and sandbox. A call running in another thread ends in an error. Calling it again does nothing.

        There is no way back; only on DSPy before 3.3, which needs one, the next call opens a new session.
        """
        self._access.shutdown()

    async def ashutdown(self) -> None:
        """Like :meth:`shutdown`, without blocking the caller's loop."""
        await asyncio.get_running_loop().run_in_executor(None, contextvars.copy_context().run, self.shutdown)

    def __enter__(self) -> Self:
        """Return the interpreter; it starts with the first call, as DSPy's own does."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Shut down."""
        self.shutdown()

    async def __aenter__(self) -> Self:
        """Return the interpreter."""
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Shut down."""
        await self.ashutdown()

    def spawn(self) -> KernelInterpreter:
        """Return a fresh, unstarted interpreter of the same configuration."""
        return KernelInterpreter(dict(self.tools), self.output_fields, **self._options())

    # --- cells --------------------------------------------------------------------------------------

    @with_callbacks
    def execute(self, code: str, variables: Mapping[str, object] | None = None) -> Any:
        """Run ``code`` as one cell, with ``variables`` bound first, and return its result as DSPy expects it.

        Returns:
            ``FinalOutput`` if it called SUBMIT. Else the printed text; or, if it printed nothing, the value of its
            last expression (its repr, where RLM would not show the value); or the printed text followed by the repr.
            ``""`` if there is neither.

        Raises:
            SyntaxError: The code does not compile; nothing of it ran.
            CodeExecutionError: It raised, or was interrupted; variables are kept. Its text ends with what was
                printed. (``CodeInterpreterError`` on DSPy before 3.3.)
            CodeInterpreterError: The session is over, or the call was wrong: bad names, a value that cannot
                be sent, a second call at the same time. Errors that end a session are also the package's own:
                ``except KernelDied``.
        """
        settings = self._settings()
        request = self._prepare(code, variables, settings)
        return self._access.run_cell("execute", request, settings)

    async def aexecute(self, code: str, variables: Mapping[str, object] | None = None) -> Any:
        """Like :meth:`execute`, without blocking the caller's loop."""
        settings = self._settings()
        request = build_request(code, variables, settings, self._access.sent_inputs)
        if self._access.session is None:
            await self._access.astart(settings)
        return await self._access.arun_cell("aexecute", request, settings)

    async def _start_for_rlm(self) -> None:
        """Start like :meth:`astart`; runs that begin at the same time on one loop wait for the same start."""
        if self._access.session is not None:
            return
        if self._starting is None or self._starting.done():
            self._starting = asyncio.ensure_future(self.astart())
            self._starting.add_done_callback(lambda task: task.cancelled() or task.exception())
        if self._starting.get_loop() is asyncio.get_running_loop():
            await asyncio.shield(self._starting)

    async def _execute_for_rlm(self, code: str, variables: Mapping[str, object] | None = None) -> Any:
        """Run a step of ``RLM.acall`` like :meth:`aexecute`; DSPy's callbacks see it as ``execute``."""
        return await _observed_execute(self, code, variables)

    def __call__(self, code: str, variables: Mapping[str, object] | None = None) -> Any:
        """Run code like :meth:`execute`."""
        return self.execute(code, variables)

    def run(self, code: str, variables: Mapping[str, object] | None = None) -> CellResult:
        """Run ``code`` as one cell, with ``variables`` bound first, and return everything that it did.

        An error of the cell is part of the result and is not raised.

        Raises:
            CodeInterpreterError: As for :meth:`execute`: the session is over, or the call was wrong.
            CellNotRun: If the cell was lost or interrupted before it reached the kernel.
        """
        settings = self._settings()
        request = self._prepare(code, variables, settings)
        started = time.monotonic()
        try:
            self._access.run_cell("run", request, settings)
        except (CodeExecutionError, SyntaxError):
            if self._access.last_result is None:
                raise
        result = self._access.last_result
        assert result is not None
        return cell_result(result, settings, time.monotonic() - started)

    def interrupt(self) -> None:
        """Interrupt the running cell, from another thread. Variables are kept; without a cell nothing happens."""
        self._access.interrupt()

    @property
    def outputs(self) -> list[Output]:
        """Typed outputs of the last cell, in order: text, displayed data, the result, the error."""
        return list(self._access.outputs)

    @with_callbacks
    def invoke_tool(self, tool_name: str, kwargs: dict[str, Any]) -> Any:
        """Run one host tool with keyword arguments; DSPy's callbacks see every call through this method.

        Raises:
            CodeInterpreterError: If there is no such tool, or it is async and there is no session.
        """
        if tool_name not in self.tools:
            raise InvalidCall(f"invoke_tool(): there is no tool {tool_name!r}.")
        result = call(self.tools[tool_name], kwargs)
        if not inspect.isawaitable(result):
            return result
        session = self._access.session
        if session is None:
            if inspect.iscoroutine(result):
                result.close()
            raise CodeInterpreterError("invoke_tool(): an async tool needs a session: call start() first.")
        return session.tools.wait_for(result)

    # --- values and files -----------------------------------------------------------------------------

    def get(self, name: str) -> Any:
        """Return a copy of a variable of the session.

        Raises:
            NameError: If there is no variable of that name. Also a CodeExecutionError, like the next.
            TypeError: If its value cannot leave the sandbox.
            CodeInterpreterError: As for :meth:`execute`; or if a library that the value needs is missing here.
        """
        return self._transfer().get(name)

    def put(self, **variables: Any) -> None:
        """Bind variables in the session, as :meth:`execute` binds those of a cell.

        Raises:
            TypeError: If a value cannot be sent. Also a CodeInterpreterError.
            CodeInterpreterError: As for :meth:`execute`.
        """
        self._transfer().put(variables)

    def upload(
        self, path: str | os.PathLike[str], to: str | None = None, on_progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Copy a file, or a folder with all its content, into the sandbox.

        Links to folders are left out, and so is everything that is neither a file nor a folder.

        Args:
            path: On this machine.
            to: The copy's path in the sandbox, relative to the kernel's folder; None: the same name, in that folder.
                Missing folders are made, and files of that name replaced.
            on_progress: Called after each 8 MiB with the number of bytes that arrived and the number of all bytes.

        Raises:
            OSError: If it cannot be read here.
            CodeExecutionError: If it cannot be written in the sandbox.
            CodeInterpreterError: As for :meth:`execute`.
        """
        self._transfer().upload(path, to, on_progress)

    def download(
        self, path: str, to: str | os.PathLike[str] | None = None, on_progress: Callable[[int, int], None] | None = None
    ) -> Path:
        """Copy a file, or a folder with all its content, out of the sandbox, and return the copy's path.

        A file gets its name when it is complete; an interrupted download leaves no partial file.

        Args:
            path: In the sandbox, relative to the kernel's folder.
            to: The copy's path on this machine; None: the same name in the current folder.
            on_progress: As for :meth:`upload`.

        Raises:
            OSError: If it cannot be written here.
            CodeExecutionError: If it cannot be read in the sandbox.
            CodeInterpreterError: As for :meth:`execute`; or if the sandbox names a file outside of the folder.
        """
        return self._transfer().download(path, to, on_progress)

    # --- sessions of other hosts ------------------------------------------------------------------------

    @classmethod
    def attach(
        cls,
        session_id: str,
        tools: Mapping[str, Tool] | None = None,
        output_fields: list[dict[str, Any]] | None = None,
        **options: Unpack[InterpreterOptions],
    ) -> Self:
        """Take over a session whose host process ended, with its variables, and return its interpreter.

        The session belongs to this process from then on: :meth:`shutdown` ends it, :meth:`resume` returns the result
        of the cell that was running. Tool calls that the earlier host did not answer are not made again: they raise
        ``HostLost`` in the cell. Later calls of that cell go to ``tools``. An :meth:`execute` waits until that cell is
        over.

        Args:
            session_id: The earlier host's ``interpreter.session_id``; ``daytona-kernel ls`` lists them.
            tools: As for the constructor, like everything that follows.
            output_fields: As for the constructor.
            options: The constructor's keyword arguments, but ``sandbox``.

        Raises:
            SessionNotFound: If there is no such session, or its host is alive. Also a CodeInterpreterError.
            CodeInterpreterError: If its kernel is gone, or its relay cannot be reached.
        """
        interpreter = cls(tools, output_fields, **options)
        interpreter._access.attach(session_id, interpreter._settings())
        return interpreter

    def resume(self) -> Any:
        """Wait for the cell that ran when the earlier host ended; return or raise what its execute would have.

        If the cell has ended meanwhile, its outcome and output are read from the session's journal, also if the
        earlier host received them. None if the session ran no cell. The interpreter must come from :meth:`attach`, and
        this must be its first call.

        Raises:
            CodeExecutionError: As for :meth:`execute`.
            CodeInterpreterError: As for :meth:`execute`; and if there is no attached session, or a cell was run since.
        """
        return self._access.resume(self._settings())

    def detach(self) -> None:
        """Leave the session without ending it: it waits for an :meth:`attach`, in any process, and then ends.

        The sandbox's ``resume_lifetime`` says how long it waits. This interpreter is over. Without a session nothing
        happens.
        """
        self._access.detach()

    # --- what the session has and does --------------------------------------------------------------------

    def inspect(self, name: str | None = None, *, private: bool = False) -> Inspection:
        """Return the session's variables and its running code; allowed in any thread, also while a cell runs.

        The session does not notice: no cell, no count, no output. No code of a value is run for it; only one variable,
        requested by ``name`` while no cell runs, is shown by its own ``repr``, for a second at most.
        Variables whose names begin with an underscore are counted, and shown if ``private``.

        Where native code lets nothing else run in the kernel, its relay answers, a quarter of a second later: with
        the variables as they were last seen, and the use of processor and memory.

        Raises:
            NameError: If there is no variable ``name``. Also a CodeExecutionError.
            SessionNotFound: If there is no session. Also a CodeInterpreterError.
            CodeInterpreterError: If the kernel cannot be reached.
        """
        return self._access.inspect(name, private=private)

    def view(self) -> SessionView:
        """Return a widget that follows the session in JupyterLab (extra ``jupyter``), with two requests a second.

        It shows steps as they come, the running code and its line, pending tool calls, the end of the output, and
        variables. It does not keep the interpreter alive, and ends with the session.

        Raises:
            SessionNotFound: If there is no session. Also a CodeInterpreterError.
            ImportError: If anywidget is missing.
        """
        return self._access.view()

    @property
    def recording_wanted(self) -> bool:
        """Whether sessions are recorded; ``dspy.RLM(interpreter=)`` then adds :meth:`Recording.callback`."""
        return self._access.recorder is not None

    @property
    def recording(self) -> Path | None:
        """The notebook that the session is recorded in; None before it starts, and without ``record=``."""
        return None if self._access.recorder is None else self._access.recorder.notebook

    @property
    def session_id(self) -> str:
        """The session's id, for :meth:`attach` and the command line.

        Raises:
            SessionNotFound: If there is no session. Also a CodeInterpreterError.
        """
        return self._access.current().id

    @property
    def connection_file(self) -> str:
        """Path of the kernel's Jupyter connection file, for further clients on this machine (``--existing``).

        It holds the session key and can be read by this user only.

        Raises:
            SessionNotFound: If there is no session. Also a CodeInterpreterError.
        """
        return str(self._access.current("There is no kernel to connect to").kernel.connection_file)

    # --- parts for one call -------------------------------------------------------------------------------

    def _settings(self) -> CallSettings:
        return options.CallSettings(self.tools, self.output_fields, seed=self.seed, **self._changeable())

    def _changeable(self) -> dict[str, Any]:
        """Return the keyword options that may be changed between calls."""
        names = ("execution_timeout", "max_output_chars", "max_value_bytes", "on_output")
        return {name: getattr(self, name) for name in names}

    def _prepare(self, code: str, variables: Mapping[str, object] | None, settings: CallSettings) -> CellRequest:
        """Return the request of a cell, and start the session if there is none; a wrong call starts nothing."""
        request = build_request(code, variables, settings, self._access.sent_inputs)
        if self._access.session is None:
            self.start()
        return request

    def _transfer(self) -> Transfer:
        return Transfer(self._access, self._settings(), self.start)

    # --- copies: a fresh, unstarted interpreter of the same configuration -----------------------------------

    def _options(self) -> dict[str, Any]:
        own = {"sandbox": self._sandbox, "record": self._record, "callbacks": self.callbacks}
        return {**own, "async_tools": self._async_tools, **self._changeable()}

    def __deepcopy__(self, memo: dict[int, Any]) -> KernelInterpreter:
        """Return a fresh interpreter: two objects never share a kernel."""
        return self.spawn()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle or copy the configuration; to be pickled, tools must be picklable."""
        kept = self._options()
        if not isinstance(kept["async_tools"], str):  # a loop belongs to this process
            kept["async_tools"] = AUTO
        return functools.partial(KernelInterpreter, **kept), (dict(self.tools), self.output_fields)


def _make_observed_execute() -> Callable[..., Awaitable[Any]]:
    async def execute(self: KernelInterpreter, code: str, variables: Mapping[str, object] | None = None) -> Any:
        return await self.aexecute(code, variables)

    return with_callbacks(execute)  # which tells the kind of call by the function's name


_observed_execute = _make_observed_execute()

OPTION_NAMES = tuple(
    name for name in inspect.signature(KernelInterpreter.__init__).parameters if name not in ("self", "unknown")
)
