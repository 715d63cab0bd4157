"""``daytona-kernel doctor``, ``gc`` and ``image``: what concerns Daytona itself."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..formatting import duration, table
from .terminal import (
    FAILED,
    CommandError,
    complete_files,
    require_daytona_key,
    seconds,
    sentence,
    show_help,
    write,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from ..sandboxes.daytona.orphans import ManagedSandbox
    from ..sandboxes.daytona.snapshot_image import KernelImage
    from .terminal import Commands


def add_commands(commands: Commands) -> None:
    """Add ``doctor``, ``gc`` and ``image``."""
    doctor = commands.add_parser("doctor", help="check each step from the key to a cell in a sandbox at Daytona")
    doctor.add_argument("--snapshot", metavar="NAME", help="start from this snapshot")
    doctor.set_defaults(command=_run_doctor)

    collect = commands.add_parser("gc", help="delete sandboxes at Daytona whose process is gone; asks first")
    collect.add_argument(
        "--older-than", type=seconds, default=1.0, metavar="HOURS", help="also those idle for longer (%(default)g)"
    )
    collect.add_argument("--all-owners", action="store_true", help="also those of other machines and users")
    collect.add_argument("--kept", action="store_true", help="also those created with keep=True")
    collect.add_argument("--yes", action="store_true", help="do not ask")
    collect.set_defaults(command=_collect_garbage)

    image = commands.add_parser("image", help="the sandbox's image: a snapshot of it at Daytona, or its build files")
    image.set_defaults(command=functools.partial(show_help, image))
    image_commands = image.add_subparsers(metavar="COMMAND")
    build = image_commands.add_parser("build", help="make a snapshot of the image at Daytona; takes minutes")
    build.add_argument("--name", metavar="NAME", help="name of the snapshot (else one made of version and contents)")
    for what, unit in (("cpu", "cores"), ("memory", "GiB"), ("disk", "GiB")):
        build.add_argument(f"--{what}", type=int, metavar="N", help=f"{unit} of each sandbox (else Daytona's default)")
    build.add_argument("--region", metavar="NAME", help="region of the snapshot (else the organization's default)")
    build.set_defaults(command=_build_image)
    files = image_commands.add_parser("files", help="write the files that `docker build` needs into a folder")
    complete_files(files.add_argument("folder", type=Path, metavar="FOLDER"))
    files.set_defaults(command=_write_image)
    for parser in (build, files):
        parser.add_argument("--package", action="append", default=[], metavar="NAME", help="also install this package")
        parser.add_argument("--no-data", action="store_true", help="leave out the data-science packages")


def _run_doctor(options: argparse.Namespace) -> int:
    require_daytona_key()
    from ..sandboxes.daytona import DaytonaSandbox
    from . import doctor

    failed = False
    for check in doctor.run_checks(DaytonaSandbox(snapshot=options.snapshot)):
        took = duration(check.took_s) if check.took_s else ""
        write(sys.stdout, f"{'ok' if not check.advice else 'FAILED':8}{check.name:10}{took:>10}  {check.result}\n")
        if check.advice:
            failed = True
            write(sys.stdout, f"{'':30}{check.advice}\n")
    return FAILED if failed else 0


def _collect_garbage(options: argparse.Namespace) -> int:
    require_daytona_key()
    from ..errors import SandboxFailed
    from ..runtime.event_loop import io_loop
    from ..sandboxes.daytona.orphans import delete_sandboxes
    from ..session.session_file import forget_sandboxes

    def find() -> list[ManagedSandbox]:
        older_than_s, all_owners, kept = options.older_than * 3600, options.all_owners, options.kept
        found = find_sandboxes()
        return [sandbox for sandbox in found if sandbox.is_orphaned(older_than_s, all_owners=all_owners, kept=kept)]

    orphaned = find()
    if not orphaned:
        write(sys.stderr, "No orphaned sandboxes at Daytona.\n")
        return 0
    show_sandboxes(orphaned)
    if not options.yes:
        if not sys.stdin.isatty():
            raise CommandError("standard input is not a terminal that could confirm the deletion: give --yes.")
        write(sys.stderr, f"Delete {len(orphaned)}? [y/N] ")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            return 0
        shown = {sandbox.id for sandbox in orphaned}  # one may have been attached meanwhile
        orphaned = [sandbox for sandbox in find() if sandbox.id in shown]
    ids = [sandbox.id for sandbox in orphaned]
    try:
        io_loop().run(delete_sandboxes(ids))
    except SandboxFailed as error:
        raise CommandError(sentence(error), FAILED) from error
    forget_sandboxes(set(ids))
    write(sys.stderr, f"Deleted {len(ids)}.\n")
    return 0


def find_sandboxes() -> list[ManagedSandbox]:
    """Return the sandboxes of this package at Daytona.

    Raises:
        CommandError: If Daytona cannot be reached or refuses.
    """
    from ..errors import SandboxFailed
    from ..runtime.event_loop import io_loop
    from ..sandboxes.daytona import orphans
    from ..session.session_file import list_records

    in_use = {str(record.sandbox.get("id")) for record in list_records() if record.host_lives}
    try:
        return io_loop().run(orphans.find_sandboxes(in_use))
    except SandboxFailed as error:
        raise CommandError(sentence(error)) from error


def show_sandboxes(found: Sequence[ManagedSandbox]) -> None:
    """Print sandboxes as a table."""
    if not found:
        write(sys.stderr, "No sandboxes at Daytona.\n")
        return
    rows = [("SANDBOX AT DAYTONA", "STATE", "MADE BY", "IDLE")]
    for sandbox in found:
        owner = sandbox.owner + ("" if sandbox.host_lives else ", gone") + (", kept" if sandbox.kept else "")
        rows.append((sandbox.id, sandbox.state, owner, duration(sandbox.idle_s, missing="")))
    write(sys.stdout, "".join(f"{line}\n" for line in table(rows)))


def _build_image(options: argparse.Namespace) -> int:
    require_daytona_key()
    from ..config import SNAPSHOT_VARIABLE
    from ..errors import SandboxFailed
    from ..runtime.event_loop import io_loop
    from ..sandboxes.daytona.snapshot_build import build_snapshot
    from .progress import Progress

    image = _image(options)
    name = options.name or image.name()
    resources = {what: getattr(options, what) for what in ("cpu", "memory", "disk", "region")}
    task = f"building the snapshot {name}"
    try:
        with Progress(task, sys.stderr) as progress:
            progress.line(f"{task}; a first build takes minutes")
            built = io_loop().run(build_snapshot(image, name, progress.line, **resources))
    except SandboxFailed as error:
        raise CommandError(f"{error}", FAILED) from error
    write(sys.stderr, f"{'The snapshot is ready' if built else 'The snapshot existed already'}. To use it:\n")
    write(sys.stdout, f"export {SNAPSHOT_VARIABLE}={name}\n")
    return 0


def _write_image(options: argparse.Namespace) -> int:
    from ..errors import SandboxFailed
    from ..sandboxes.daytona.snapshot_image import write_context

    try:
        write_context(options.folder, _image(options))
    except (OSError, SandboxFailed) as error:
        raise CommandError(f"the files cannot be written into {options.folder}: {error}.") from error
    write(sys.stdout, f"docker build -t daytona-kernel {options.folder}\n")
    return 0


def _image(options: argparse.Namespace) -> KernelImage:
    from ..sandboxes.daytona.snapshot_image import KernelImage

    try:
        return KernelImage(packages=tuple(options.package), data=not options.no_data)
    except (TypeError, ValueError) as error:
        raise CommandError(sentence(error)) from error
