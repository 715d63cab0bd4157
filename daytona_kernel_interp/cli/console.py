"""``daytona-kernel console`` and ``attach``: ``jupyter console``, or a plain prompt whose cells run in a session."""

from __future__ import annotations

import code
import codeop
import contextlib
import importlib.util
import os
import shlex
import sys
from typing import TYPE_CHECKING

from ..errors import KernelError
from ..formatting import duration, printable
from ..monitor.live import live
from ..monitor.shared_client import SharedClient
from .run_commands import AttachedClient, report_error, report_failure, select_session
from .terminal import CommandError, write_output

if TYPE_CHECKING:
    import argparse

    from ..session.session_file import SessionRecord
    from .run_commands import SessionClient

_QUIT_WORDS = frozenset({"exit", "exit()", "quit", "quit()"})


def open_console(options: argparse.Namespace) -> int:
    """Open a prompt in a session whose host lives: Jupyter's, on a terminal where it is installed."""
    record = select_session(options.session, hosted=True)
    if not record.host_lives:
        raise CommandError(f"session {record.id} has no host: take it over with `daytona-kernel attach {record.id}`.")
    if sys.stdin.isatty():
        open_jupyter_console(record)
    with SharedClient(record) as client:
        _run_prompt(client, record.id)
    return 0


def attach(options: argparse.Namespace) -> int:
    """Take over a session without a host, show the end of its last cell, and open a prompt in it."""
    record = select_session(options.session, hosted=False)
    if record.host_lives:
        raise CommandError(
            f"session {record.id} has a host, process {record.pid}: join it with `daytona-kernel console {record.id}`."
        )
    with AttachedClient(record.id, write_output) as client:
        try:
            error = client.last_cell()
            if error is not None:
                report_error(error)
        except KernelError as failure:
            report_failure(failure)
        _run_prompt(client, record.id)
    return 0


class Console(code.InteractiveConsole):
    """Python's own prompt; each complete input runs as a cell of ``client``."""

    def __init__(self, client: SessionClient) -> None:
        super().__init__()
        self._client = client

    def runsource(self, source: str, filename: str = "<input>", symbol: str = "single") -> bool:
        """Run a cell if ``source`` is complete; return whether more input is needed."""
        if source.strip() in _QUIT_WORDS:
            raise EOFError
        try:
            if codeop.compile_command(source, filename, symbol) is None:
                return True
        except (SyntaxError, ValueError, OverflowError):
            pass  # a magic, a top-level await, or a mistake: the kernel decides
        if source.strip():
            try:
                result = self._client.run(source, on_output=write_output)
                if result.error is not None:
                    report_error(result.error)
            except KernelError as error:
                report_failure(error)
        return False


def _run_prompt(client: SessionClient, session_id: str) -> None:
    with contextlib.suppress(EOFError):  # a word that quits
        Console(client).interact(_banner(session_id), exitmsg="")


def open_jupyter_console(record: SessionRecord) -> None:
    """Become ``jupyter console`` on a session whose host lives.

    Returns if the program is not installed here; the command that opens it elsewhere is printed then.
    """
    if importlib.util.find_spec("jupyter_console") is None:
        print(
            "jupyter console is not installed here (extra `jupyter`). To use it from another environment:\n"
            f"    jupyter console --existing {shlex.quote(record.connection_file)}",
            file=sys.stderr,
        )
        return
    print(printable(f"{_banner(record.id)}{_running_cell_text(record.id)}"), file=sys.stderr, flush=True)
    os.execv(sys.executable, [sys.executable, "-m", "jupyter_console", "--existing", record.connection_file])


def _banner(session_id: str) -> str:
    return f"Session {session_id}. Ctrl-D leaves it running."


def _running_cell_text(session_id: str) -> str:
    """Return a sentence about the cell that must end before the console can answer."""
    with contextlib.suppress(KernelError):
        if (running := live(session_id).inspect().running) is not None:
            return f" A cell has run for {duration(running.elapsed_s)}; the console answers when it has ended."
    return ""
