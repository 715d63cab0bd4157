"""``daytona-kernel ls``, ``inspect``, ``attach`` and ``console``: the sessions on this machine."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ..formatting import table
from .terminal import CommandError, is_session_id, sentence, write, write_output

if TYPE_CHECKING:
    import argparse

    from .terminal import Commands


def add_commands(commands: Commands) -> None:
    """Add ``ls``, ``inspect``, ``attach`` and ``console``."""
    listing = commands.add_parser("ls", help="list the sessions on this machine and, with a key, sandboxes at Daytona")
    listing.set_defaults(command=_list)

    inspect = commands.add_parser("inspect", help="show the variables of a running session and its running cell")
    inspect.add_argument("session", nargs="?", metavar="SESSION", help="see ls; else the newest")
    inspect.add_argument("name", nargs="?", metavar="NAME", help="show this variable alone, by its own repr")
    inspect.add_argument("--private", action="store_true", help="also show names that begin with an underscore")
    inspect.set_defaults(command=_inspect)

    console = commands.add_parser("console", help="open a prompt in a running session, whose host keeps it")
    console.add_argument("session", nargs="?", metavar="SESSION", help="see ls; else the only one with a host")
    console.set_defaults(command=_console)

    attach = commands.add_parser("attach", help="take over a session whose host is gone, and open a prompt in it")
    attach.add_argument("session", nargs="?", metavar="SESSION", help="see ls; else the only one without a host")
    attach.set_defaults(command=_attach)


def _list(options: argparse.Namespace) -> int:
    from ..config import daytona_credential
    from ..monitor.shared_client import list_sessions
    from .daytona_commands import find_sandboxes, show_sandboxes

    sessions = list_sessions()
    if not sessions:
        write(sys.stderr, "No sessions on this machine.\n")
    else:
        rows = [("SESSION", "HOST", "SANDBOX", "STARTED"), *(session.row() for session in sessions)]
        write(sys.stdout, "".join(f"{line}\n" for line in table(rows)))
    if daytona_credential() is not None:
        show_sandboxes(find_sandboxes())
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from ..errors import KernelError
    from ..monitor.live import live

    session, name = options.session, options.name
    if session is not None and name is None and not is_session_id(session):
        session, name = None, session  # `inspect NAME`
    try:
        write(sys.stdout, f"{live(session).inspect(name, private=options.private)}\n")
    except (KernelError, NameError) as error:
        raise CommandError(sentence(error)) from error
    return 0


def _console(options: argparse.Namespace) -> int:
    from ..errors import SessionNotFound
    from ..monitor.shared_client import SharedClient
    from .console import open_jupyter_console, run_prompt
    from .session_client import select_session

    record = select_session(options.session, hosted=True)
    if not record.host_lives:
        raise CommandError(f"session {record.id} has no host: take it over with `daytona-kernel attach {record.id}`.")
    try:
        if sys.stdin.isatty() and (code := open_jupyter_console(record)) is not None:
            return code
        with SharedClient(record) as client:
            run_prompt(client, record.id)
    except SessionNotFound as error:
        raise CommandError(sentence(error)) from error
    return 0


def _attach(options: argparse.Namespace) -> int:
    from ..errors import KernelError, SessionNotFound
    from .console import run_prompt
    from .run_commands import report_error, report_failure
    from .session_client import AttachedClient, select_session

    record = select_session(options.session, hosted=False)
    if record.host_lives:
        raise CommandError(
            f"session {record.id} has a host, process {record.pid}: join it with `daytona-kernel console {record.id}`."
        )
    try:
        with AttachedClient(record.id) as client:
            try:
                error = client.last_cell(write_output)
                if error is not None:
                    report_error(error)
            except KernelError as failure:
                report_failure(failure)
            run_prompt(client, record.id)
    except SessionNotFound as error:
        raise CommandError(sentence(error)) from error
    return 0
