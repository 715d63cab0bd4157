"""``%load_ext daytona_kernel_interp``: magics for running sessions of this machine.

``%sandbox_sessions`` lists the sessions, ``%sandbox_vars`` shows the variables of one, ``%%sandbox`` runs a cell in it,
and ``%sandbox_get`` fetches a variable. Without a session's id, the newest session is used.
"""

from __future__ import annotations

import html
import sys
from typing import TYPE_CHECKING, TypeVar

from IPython.core.error import UsageError
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class
from IPython.display import publish_display_data

from ..client.outputs import CellError, DisplayData, ExecuteResult, StreamText
from ..errors import KernelError
from ..formatting import table
from ..monitor.live import live
from ..monitor.shared_client import list_sessions, session_row

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from IPython.core.interactiveshell import InteractiveShell

    from ..client.outputs import Output
    from ..monitor.inspection import Inspection

T = TypeVar("T")


class RemoteCellFailed(Exception):
    """A cell of ``%%sandbox`` failed. IPython shows the traceback that the session's kernel made."""

    def __init__(self, error: CellError) -> None:
        super().__init__(error.summary)
        self.lines = (error.traceback or error.summary).splitlines()

    def _render_traceback_(self) -> list[str]:  # IPython's protocol for exceptions that render themselves
        return self.lines


@magics_class
class SandboxMagics(Magics):
    """The magics of the extension."""

    @line_magic
    def sandbox_sessions(self, line: str) -> None:
        """List the sessions on this machine, the newest first."""
        if line.strip():
            raise UsageError(f"%sandbox_sessions lists all sessions and takes no arguments, not {line.strip()!r}")
        rows = [("Session", "Host", "Sandbox", "Started"), *map(session_row, list_sessions())]
        if len(rows) == 1:
            print("No sessions on this machine.")
            return
        lines = [_html_row("th", rows[0]), *(_html_row("td", row) for row in rows[1:])]
        text_html = f"<table>{''.join(lines)}</table>"
        publish_display_data({"text/plain": "\n".join(table(rows)), "text/html": text_html})

    @line_magic
    def sandbox_vars(self, line: str) -> Inspection:
        """Show a session's variables and its running cell: ``%sandbox_vars [SESSION] [--private]``."""
        given = line.split()
        private = "--private" in given
        session = " ".join(word for word in given if word != "--private")
        return _run_or_fail(lambda: live(session or None).inspect(private=private))

    @cell_magic
    def sandbox(self, line: str, cell: str) -> None:
        """Run a cell in a session: ``%%sandbox [SESSION]``. Its outputs are shown here; variables stay there."""
        session = _run_or_fail(lambda: live(line.strip() or None, write=True, on_output=_show))
        result = _run_or_fail(lambda: session.run(cell))
        if result.error is not None:
            raise RemoteCellFailed(result.error)

    @line_magic
    def sandbox_get(self, line: str) -> None:
        """Fetch a variable under the same name: ``%sandbox_get NAME [SESSION]``."""
        name, _, session = line.strip().partition(" ")
        if not name.isidentifier():
            raise UsageError("%sandbox_get takes the name of a variable, and the id of a session if not the newest")
        value = _run_or_fail(lambda: live(session.strip() or None).get(name))
        assert self.shell is not None
        self.shell.user_ns[name] = value


def _html_row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"


def _run_or_fail(work: Callable[[], T]) -> T:
    """Return what ``work`` returns; its error becomes a usage error, which IPython shows as one line."""
    try:
        return work()
    except (KernelError, NameError, TypeError) as error:
        raise UsageError(str(error)) from None


def _show(output: Output) -> None:
    match output:
        case StreamText(name=name, text=text):
            print(text, end="", flush=True, file=sys.stderr if name == "stderr" else sys.stdout)
        case DisplayData(data=data, metadata=metadata) | ExecuteResult(data=data, metadata=metadata):
            publish_display_data(dict(data), dict(metadata))


def load(shell: InteractiveShell) -> None:
    """Register the magics with a shell."""
    shell.register_magics(SandboxMagics)
