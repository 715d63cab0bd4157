"""``daytona-kernel attach``: ``jupyter console`` on a session, or a plain prompt whose cells run in it."""

from __future__ import annotations

import code
import codeop
import contextlib
import importlib.util
import shlex
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from ..errors import KernelError
from ..monitor.live import live
from ..monitor.shared_client import CellFailed
from ..session.session_file import find_session

if TYPE_CHECKING:
    from collections.abc import Callable

_QUIT_WORDS = frozenset({"exit", "exit()", "quit", "quit()"})


class Console(code.InteractiveConsole):
    """Python's own prompt; what is typed goes to ``run`` as soon as it is whole."""

    def __init__(self, run: Callable[[str], Any], report: Callable[[CellFailed], object]) -> None:
        super().__init__()
        self._run, self._report = run, report

    def runsource(self, source: str, filename: str = "<input>", symbol: str = "single") -> bool:
        """Run a cell, unless more of it is to come; return whether it is."""
        if source.strip() in _QUIT_WORDS:
            raise EOFError
        try:
            if codeop.compile_command(source, filename, symbol) is None:
                return True
        except (SyntaxError, ValueError, OverflowError):
            pass  # a magic, a top-level await, or a mistake: the kernel knows
        if source.strip():
            try:
                self._run(source)
            except CellFailed as failed:
                self._report(failed)
        return False

    def interact(self, banner: str | None = None, exitmsg: str | None = None) -> None:
        """Read and run until the input ends."""
        try:
            super().interact(banner, exitmsg)
        except EOFError:
            return


def open_jupyter_console(session_id: str) -> int | None:
    """Run ``jupyter console`` on a session whose host lives, and return its exit code.

    None if there is no host, or no such program; its command is told then.

    Raises:
        SessionNotFound: If there is no such session.
    """
    record = find_session(session_id)
    if not record.host_lives:
        return None
    if importlib.util.find_spec("jupyter_console") is None:
        print(
            "jupyter console is not installed here (extra `jupyter`). Where it is:\n"
            f"    jupyter console --existing {shlex.quote(record.connection_file)}",
            file=sys.stderr,
        )
        return None
    print(
        f"Session {session_id}. Ctrl-D leaves it as it is.{_running_cell_text(session_id)}", file=sys.stderr, flush=True
    )
    command = [sys.executable, "-m", "jupyter_console", "--existing", record.connection_file]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the console's: it interrupts the cell
    try:
        return subprocess.Popen(command, preexec_fn=_restore_sigint).wait()
    finally:
        signal.signal(signal.SIGINT, before)


def _running_cell_text(session_id: str) -> str:
    """Return what has to end before the console can answer."""
    with contextlib.suppress(KernelError):
        if (running := live(session_id).inspect().running) is not None:
            return f" A cell has run for {running.elapsed_s:.0f} s; the console answers when it is over."
    return ""


def _restore_sigint() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
