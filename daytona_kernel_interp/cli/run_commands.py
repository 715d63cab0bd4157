"""``daytona-kernel demo``, ``run`` and ``exec``: code in a fresh kernel, or in the kernel of a running session.

A session whose host lives is joined as one more Jupyter client; its host keeps it. A session without a host is
attached for the time of the command, and detached afterwards, so that it lives on.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import tokenize
from typing import TYPE_CHECKING

from .. import KernelInterpreter, demo
from ..client.outputs import CellError
from ..errors import KernelDied, KernelError, SessionNotFound
from ..interpreter.interpreter import CodeInterpreterError
from ..monitor.shared_client import SharedClient, list_sessions
from ..sandboxes.select import select_sandbox
from ..session.session_file import SessionRecord, find_session
from .progress import show_start_progress
from .terminal import FAILED, CommandError, is_session_id, refusing, require_sandbox, write, write_output

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from ..client.cell_result import CellResult
    from ..client.outputs import Output

# Runs first, so that the code finds what `python` would give it, and sys.exit() ends it without IPython's advice.
_SCRIPT_SETUP = """
import sys as _sys, warnings as _warnings
_sys.argv[:] = _argv
_warnings.filterwarnings("ignore", "To exit: use", UserWarning)
del _argv, _sys, _warnings
"""

# The argument of sys.exit() in the last cell: IPython keeps its exception, as `python` does at its prompt.
_EXIT_ARGUMENT = (
    "[(lambda code: code if code is None or isinstance(code, int) else str(code))(__import__('sys').last_value.code)]"
)


def run_demo(options: argparse.Namespace) -> int:
    """Run the demo to its answer."""
    try:
        demo.run(demo.DemoOptions(options.model, options.file, options.question, options.output, options.record))
    except demo.InvalidDemoOptions as error:
        raise CommandError(str(error)) from error
    except demo.DemoFailed as error:
        raise CommandError(str(error), FAILED) from error
    return 0


def run_script(options: argparse.Namespace) -> int:
    """Run a script in a fresh kernel."""
    path: Path = options.script
    try:
        with tokenize.open(path) as file:  # as Python reads it: UTF-8, or what the file declares
            code = file.read()
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}.") from error
    except (SyntaxError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} is not a Python script: {error}.") from error
    variables = {"_argv": [str(path), *options.arguments], "__file__": str(path.absolute())}
    return _run_in_fresh_kernel(options, code, variables, show_value=False)


def run_code(options: argparse.Namespace) -> int:
    """Run code in a fresh kernel or in that of a running session, and show its last expression."""
    session, code = options.session, options.code
    if code is None and session and not is_session_id(session):
        session, code = "", session  # `exec --session CODE`: argparse took the code for the id
    if code is None:
        raise CommandError("no code was given: CODE, or - to read it from standard input.")
    if code == "-":
        code = sys.stdin.read()
        if not code.strip():
            raise CommandError("standard input has no code.")
    if session is None:
        return _run_in_fresh_kernel(options, code, {"_argv": ["-c"]}, show_value=True)
    if options.sandbox is not None:
        raise CommandError("--sandbox is for a fresh kernel, --session names a running one: give one of them.")
    try:
        with open_session(select_session(session or None)) as client:
            return _report(client, client.run(code, timeout_s=options.timeout, on_output=write_output))
    except SessionNotFound:
        raise
    except KernelError as error:
        return report_failure(error)


def _run_in_fresh_kernel(
    options: argparse.Namespace, code: str, variables: Mapping[str, object], *, show_value: bool
) -> int:
    """Run ``code`` in a kernel of its own, with ``variables`` set, and return the exit code."""
    require_sandbox(options.sandbox)
    with refusing(KernelError):
        sandbox = select_sandbox(options.sandbox)
    with KernelInterpreter(sandbox=sandbox, max_output_chars=None) as interpreter:
        client = InterpreterClient(interpreter)
        on_output = functools.partial(write_output, show_value=show_value)
        try:
            with show_start_progress(sys.stderr):
                client.run(_SCRIPT_SETUP, variables)
            return _report(client, client.run(code, timeout_s=options.timeout, on_output=on_output))
        except KernelError as error:
            return report_failure(error)


def _report(client: SessionClient, result: CellResult) -> int:
    """Write a submission or an error and return the exit code."""
    if result.error is None:
        if result.submission is not None:
            fields = dict(result.submission)
            write(sys.stdout, f"{fields['output'] if list(fields) == ['output'] else fields!r}\n")
        return 0
    if result.error.name == "SystemExit":
        return _exit_code(client)
    report_error(result.error)
    return FAILED


def report_error(error: CellError) -> None:
    """Write why a cell failed; its output was written as it arrived."""
    traceback = error.traceback.rstrip()
    if not traceback.endswith(error.summary):  # a timeout: the traceback is that of the interrupt
        traceback = f"{error.summary}\n{traceback}".rstrip()
    write(sys.stderr, f"{traceback}\n")


def _exit_code(client: SessionClient) -> int:
    """Return what the last cell's ``sys.exit(argument)`` means to the shell; a text is written and means failure."""
    try:
        result = client.run(_EXIT_ARGUMENT)
    except KernelError:
        return FAILED
    match result.value:
        case [None]:
            return 0
        case [int(code)]:
            return code & 0xFF
        case [text]:
            write(sys.stderr, f"{text}\n")
    return FAILED


def report_failure(error: KernelError) -> int:
    """Write why a session is over, with the last text of the kernel's process; return the exit code."""
    write(sys.stderr, f"{type(error).__name__}: {error}\n")
    if isinstance(error, KernelDied) and (stderr := error.stderr.strip()):
        write(sys.stderr, f"Last output of the kernel's process:\n{stderr[-2000:]}\n")
    return FAILED


# --- sessions and their clients ---------------------------------------------------------------------------


def select_session(session_id: str | None, *, hosted: bool | None = None) -> SessionRecord:
    """Return the record of the session ``session_id``, or of the only session on this machine.

    Args:
        session_id: The id, or None.
        hosted: Where no id is given: whether only sessions with a host count, or only those without; None: all.

    Raises:
        SessionNotFound: If there is no session with this id.
        CommandError: If there is none or several, and no id was given.
    """
    if session_id is not None:
        return find_session(session_id)
    found = [each for each in list_sessions() if hosted is None or hosted == each.host_lives]
    kind = {None: "", True: " with a host", False: " without a host"}[hosted]
    if not found:
        raise CommandError(f"No session{kind} is alive on this machine.")
    if len(found) > 1:
        ids = ", ".join(each.id for each in found)
        raise CommandError(f"{len(found)} sessions{kind} are alive on this machine: name one of {ids}.")
    return found[0]


@contextlib.contextmanager
def open_session(record: SessionRecord) -> Iterator[SessionClient]:
    """Join the session, or attach it if its host is gone.

    Raises:
        SessionNotFound: If nothing is left of it, or its kernel does not answer.
    """
    if record.host_lives:
        with SharedClient(record) as shared:
            yield shared
    else:
        with AttachedClient(record.id) as attached:
            attached.last_cell()
            yield attached


class InterpreterClient:
    """Runs cells in the session of an interpreter of this process."""

    def __init__(self, interpreter: KernelInterpreter) -> None:
        self._interpreter = interpreter

    def run(
        self,
        code: str,
        variables: Mapping[str, object] | None = None,
        *,
        timeout_s: float | None = None,
        on_output: Callable[[Output], None] | None = None,
    ) -> CellResult:
        """Run one cell and return its result, as :meth:`SharedClient.run` does.

        Raises:
            KernelError: If the session is over.
            KeyboardInterrupt: At Ctrl-C, after the cell was interrupted.
        """
        self._interpreter.execution_timeout = timeout_s
        self._interpreter.on_output = on_output
        try:
            return self._interpreter.run(code, variables)
        except CodeInterpreterError as error:
            raise as_kernel_error(error) from error


class AttachedClient(InterpreterClient, contextlib.AbstractContextManager["AttachedClient"]):
    """Runs cells in a session whose host is gone, as its host. :meth:`last_cell` must be called first.

    ``on_output`` gets the outputs of that cell.

    Raises:
        SessionNotFound: If nothing is left of the session.
    """

    def __init__(self, session_id: str, on_output: Callable[[Output], None] | None = None) -> None:
        try:
            super().__init__(KernelInterpreter.attach(session_id, max_output_chars=None, on_output=on_output))
        except CodeInterpreterError as error:
            raise SessionNotFound(str(error.__cause__ or error)) from error

    def __exit__(self, *_: object) -> None:
        self._interpreter.detach()

    def last_cell(self) -> CellError | None:
        """Wait for the cell that ran when the session was attached, and return its error, if any.

        Raises:
            KernelError: If the session is over.
        """
        try:
            self._interpreter.resume()
        except (CodeInterpreterError, SyntaxError) as error:  # before DSPy 3.3 the class does not tell them apart
            if isinstance(error, KernelError):
                raise as_kernel_error(error) from error
            outputs = self._interpreter.outputs
            shown = next((output for output in reversed(outputs) if isinstance(output, CellError)), None)
            return shown or CellError(type(error).__name__, str(error), "")
        return None


def as_kernel_error(error: Exception) -> KernelError:
    """Return the package's own error behind one of the interpreter, whose text also has output and stderr."""
    cause = error.__cause__
    return cause if isinstance(cause, KernelError) else KernelError(str(error))


SessionClient = SharedClient | InterpreterClient
