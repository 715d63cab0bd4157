"""``daytona-kernel ls``, ``inspect``, ``gc`` and ``image``: sessions, and sandboxes and snapshots at Daytona.

Nothing here runs code in a kernel.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ..config import SNAPSHOT_VARIABLE, daytona_credential
from ..errors import KernelError, SandboxFailed
from ..formatting import duration, table
from ..monitor.live import live
from ..monitor.shared_client import list_sessions, session_row
from ..runtime.event_loop import io_loop
from ..sandboxes.daytona import orphans
from ..sandboxes.daytona.snapshot_build import build_snapshot
from ..sandboxes.daytona.snapshot_image import KernelImage, write_context
from ..session.session_file import forget_sandboxes, list_records
from .progress import Progress
from .terminal import FAILED, CommandError, is_session_id, refusing, require_daytona_key, write

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from ..sandboxes.daytona.orphans import ManagedSandbox


def list_all(options: argparse.Namespace) -> int:
    """Print the sessions on this machine and, if a key is set, the sandboxes at Daytona."""
    sessions = list_sessions()
    if not sessions:
        write(sys.stderr, "No sessions on this machine.\n")
    else:
        rows = [("SESSION", "HOST", "SANDBOX", "STARTED"), *map(session_row, sessions)]
        write(sys.stdout, "".join(f"{line}\n" for line in table(rows)))
    if daytona_credential() is not None:
        _show_sandboxes(_find_sandboxes())
    return 0


def inspect(options: argparse.Namespace) -> int:
    """Print the variables of a session and its running cell, or one variable."""
    session, name = options.session, options.name
    if session is not None and name is None and not is_session_id(session):
        session, name = None, session  # `inspect NAME`
    with refusing(KernelError, NameError):
        write(sys.stdout, f"{live(session).inspect(name, private=options.private)}\n")
    return 0


def collect_garbage(options: argparse.Namespace) -> int:
    """Delete orphaned sandboxes at Daytona, after a confirmation."""
    require_daytona_key()

    def find() -> list[ManagedSandbox]:
        older_than_s, all_owners, kept = options.older_than * 3600, options.all_owners, options.kept
        found = _find_sandboxes()
        return [sandbox for sandbox in found if sandbox.is_orphaned(older_than_s, all_owners=all_owners, kept=kept)]

    orphaned = find()
    if not orphaned:
        write(sys.stderr, "No orphaned sandboxes at Daytona.\n")
        return 0
    _show_sandboxes(orphaned)
    if not options.yes:
        if not sys.stdin.isatty():
            raise CommandError("standard input is not a terminal that could confirm the deletion: give --yes.")
        write(sys.stderr, f"Delete {len(orphaned)}? [y/N] ")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            return 0
        shown = {sandbox.id for sandbox in orphaned}  # one may have been attached meanwhile
        orphaned = [sandbox for sandbox in find() if sandbox.id in shown]
    ids = [sandbox.id for sandbox in orphaned]
    with refusing(SandboxFailed, exit_code=FAILED):
        io_loop().run(orphans.delete_sandboxes(ids))
    forget_sandboxes(set(ids))
    write(sys.stderr, f"Deleted {len(ids)}.\n")
    return 0


def _find_sandboxes() -> list[ManagedSandbox]:
    """Return the sandboxes of this package at Daytona.

    Raises:
        CommandError: If Daytona cannot be reached or refuses.
    """
    in_use = {str(record.sandbox.get("id")) for record in list_records() if record.host_lives}
    with refusing(SandboxFailed):
        return io_loop().run(orphans.find_sandboxes(in_use))


def _show_sandboxes(found: Sequence[ManagedSandbox]) -> None:
    """Print sandboxes as a table."""
    if not found:
        write(sys.stderr, "No sandboxes at Daytona.\n")
        return
    rows = [("SANDBOX AT DAYTONA", "STATE", "MADE BY", "IDLE")]
    for sandbox in found:
        owner = sandbox.owner + ("" if sandbox.host_lives else ", gone") + (", kept" if sandbox.kept else "")
        rows.append((sandbox.id, sandbox.state, owner, duration(sandbox.idle_s, missing="")))
    write(sys.stdout, "".join(f"{line}\n" for line in table(rows)))


def build_image(options: argparse.Namespace) -> int:
    """Make a snapshot of the image at Daytona and print how to use it."""
    require_daytona_key()
    image = _image(options)
    name = options.name or image.name()
    resources = {what: getattr(options, what) for what in ("cpu", "memory", "disk", "region")}
    task = f"building the snapshot {name}"
    with Progress(task, sys.stderr) as progress:
        progress.line(f"{task}; a first build takes minutes")
        built = io_loop().run(build_snapshot(image, name, progress.line, **resources))
    write(sys.stderr, f"{'The snapshot is ready' if built else 'The snapshot existed already'}. To use it:\n")
    write(sys.stdout, f"export {SNAPSHOT_VARIABLE}={name}\n")
    return 0


def write_image(options: argparse.Namespace) -> int:
    """Write the image's build files into a folder."""
    try:
        write_context(options.folder, _image(options))
    except (OSError, SandboxFailed) as error:
        raise CommandError(f"the files cannot be written into {options.folder}: {error}.") from error
    write(sys.stdout, f"docker build -t daytona-kernel {options.folder}\n")
    return 0


def _image(options: argparse.Namespace) -> KernelImage:
    with refusing(TypeError, ValueError):
        return KernelImage(packages=tuple(options.package), data=not options.no_data)
