"""``daytona-kernel demo``, ``run`` and ``exec``: code in a fresh kernel, or in the kernel of a running session."""

from __future__ import annotations

import functools
import sys
import tokenize
from typing import TYPE_CHECKING

from .. import KernelInterpreter, demo
from ..errors import KernelDied, KernelError, SessionNotFound
from ..sandboxes.select import select_sandbox
from .progress import show_start_progress
from .session_client import InterpreterClient, open_session, select_session
from .terminal import FAILED, CommandError, is_session_id, require_sandbox, write, write_output

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from pathlib import Path

    from ..client.cell_result import CellResult
    from ..client.outputs import CellError
    from .session_client import SessionClient

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
    try:
        sandbox = select_sandbox(options.sandbox)
    except KernelError as error:
        raise CommandError(str(error)) from error
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
