"""``daytona-kernel install`` and ``uninstall``: our kernels in the lists of Jupyter's programs."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from ..jupyter.kernelspec import Kernelspec

_NAME = re.compile(r"[A-Za-z0-9._-]+")  # jupyter_client's rule


class InstallError(Exception):
    """The message is one sentence."""


def add_commands(commands: Any) -> None:
    """Add both to the command line's parser."""
    install = commands.add_parser(
        "install", help="offer Python (Daytona) and Python (local sandbox) in Jupyter's lists of kernels"
    )
    _add_places(install)
    install.add_argument("--display-name", metavar="TEXT", help="how the list shows it (with --sandbox)")
    install.add_argument(
        *("-o", "--option"),
        dest="options",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the sandbox, such as snapshot=mine or keep=true; may be repeated (with --sandbox)",
    )
    install.set_defaults(command=_install)
    uninstall = commands.add_parser("uninstall", help="take our kernels out of Jupyter's lists")
    _add_places(uninstall)
    uninstall.set_defaults(command=_uninstall)


def _add_places(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--user", action="store_true", help="for this user, whatever the environment")
    where.add_argument("--sys-prefix", action="store_true", help="for this Python's environment (the default)")
    where.add_argument("--prefix", metavar="FOLDER", help="below FOLDER/share/jupyter")
    parser.add_argument("--sandbox", choices=("daytona", "local"), help="only the one of this sandbox")
    parser.add_argument("--name", metavar="NAME", help="what programs call it (with --sandbox)")


def _install(options: argparse.Namespace) -> int:
    from ..jupyter.kernelspec import InvalidOption, install

    try:
        for spec in _chosen_kernelspecs(options):
            target = install(spec, _folder(options))
            sys.stdout.write(f"{spec.display_name}: {target}\n")
    except InvalidOption as error:
        raise InstallError(f"{str(error).rstrip('.')}.") from error
    except OSError as error:
        raise InstallError(f"{error.filename} cannot be written: {error.strerror}; try --user or --prefix.") from error
    return 0


def _uninstall(options: argparse.Namespace) -> int:
    from ..jupyter.kernelspec import uninstall

    folder = _folder(options)
    gone = [spec for spec in _chosen_kernelspecs(options) if uninstall(spec.name, folder)]
    for spec in gone:
        sys.stdout.write(f"{spec.name} is no longer in {folder}\n")
    if not gone:
        sys.stderr.write(f"No kernel of ours is in {folder}.\n")
    return 0


def _folder(options: argparse.Namespace) -> Path:
    from ..jupyter.kernelspec import folder

    return folder(user=options.user, prefix=options.prefix)


def _chosen_kernelspecs(options: argparse.Namespace) -> list[Kernelspec]:
    """Return the kernelspecs that are meant.

    Raises:
        InstallError: If what was given fits no single one.
    """
    from ..jupyter.kernelspec import KERNELSPECS

    changed = {
        "name": options.name,
        "display_name": getattr(options, "display_name", None),
        "options": _parsed(getattr(options, "options", [])),
    }
    changed = {name: value for name, value in changed.items() if value}
    if options.sandbox is None:
        if changed:
            raise InstallError("names and options are for one kernel: say which with --sandbox daytona or local.")
        return list(KERNELSPECS)
    if options.name is not None and not _NAME.fullmatch(options.name):
        raise InstallError(f"{options.name!r} is no name of a kernel: letters, digits, dots, dashes and underscores.")
    (spec,) = (spec for spec in KERNELSPECS if spec.options["sandbox"] == options.sandbox)
    if "options" in changed:
        changed["options"] = {**spec.options, **changed["options"]}
    return [dataclasses.replace(spec, **changed)]


def _parsed(given: list[str]) -> dict[str, Any]:
    """Return options as the kernelspec has them: a value that is JSON as what it says, any other as a text."""
    parsed: dict[str, Any] = {}
    for item in given:
        name, equals, text = item.partition("=")
        if not equals or name == "sandbox":
            raise InstallError(f"{item!r} is no option: give NAME=VALUE, such as keep=true.")
        try:
            parsed[name] = json.loads(text)
        except ValueError:
            parsed[name] = text
    return parsed
