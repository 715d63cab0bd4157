"""``daytona-kernel ls`` and ``inspect``: the sessions on this machine, without a client of their kernels."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ..config import daytona_credential
from ..errors import KernelError
from ..formatting import table
from ..monitor.live import live
from ..monitor.shared_client import list_sessions, session_row
from .daytona_commands import find_sandboxes, show_sandboxes
from .terminal import is_session_id, refusing, write

if TYPE_CHECKING:
    import argparse


def list_all(options: argparse.Namespace) -> int:
    """Print the sessions on this machine and, if a key is set, the sandboxes at Daytona."""
    sessions = list_sessions()
    if not sessions:
        write(sys.stderr, "No sessions on this machine.\n")
    else:
        rows = [("SESSION", "HOST", "SANDBOX", "STARTED"), *map(session_row, sessions)]
        write(sys.stdout, "".join(f"{line}\n" for line in table(rows)))
    if daytona_credential() is not None:
        show_sandboxes(find_sandboxes())
    return 0


def inspect(options: argparse.Namespace) -> int:
    """Print the variables of a session and its running cell, or one variable."""
    session, name = options.session, options.name
    if session is not None and name is None and not is_session_id(session):
        session, name = None, session  # `inspect NAME`
    with refusing(KernelError, NameError):
        write(sys.stdout, f"{live(session).inspect(name, private=options.private)}\n")
    return 0
