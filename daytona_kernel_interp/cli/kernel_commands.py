"""``daytona-kernel install`` and ``uninstall``: the package's kernelspecs in Jupyter's lists of kernels."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from typing import TYPE_CHECKING

from .terminal import CommandError, sentence, write

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from ..jupyter.kernelspec import Kernelspec
    from .terminal import Commands

_NAME = re.compile(r"[A-Za-z0-9._-]+")  # jupyter_client's rule


def add_commands(commands: Commands) -> None:
    """Add ``install`` and ``uninstall``."""
    install = commands.add_parser(
        "install", help="add Python (Daytona) and Python (local sandbox) to Jupyter's list of kernels"
    )
    _add_location_options(install)
    install.add_argument("--display-name", metavar="TEXT", help="the name that the list shows (with --sandbox)")
    install.add_argument(
        *("-o", "--option"),
        dest="options",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the sandbox, such as snapshot=mine or keep=true; may be repeated (with --sandbox)",
    )
    install.set_defaults(command=_install)
    uninstall = commands.add_parser("uninstall", help="remove these kernels from Jupyter's list")
    _add_location_options(uninstall)
    uninstall.set_defaults(command=_uninstall, display_name=None, options=[])


def _add_location_options(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--user", action="store_true", help="for this user, in all environments")
    where.add_argument("--sys-prefix", action="store_true", help="for this Python's environment (the default)")
    where.add_argument("--prefix", metavar="FOLDER", help="below FOLDER/share/jupyter")
    parser.add_argument("--sandbox", choices=("daytona", "local"), help="only the kernel of this sandbox")
    parser.add_argument("--name", metavar="NAME", help="the kernel's name in programs (with --sandbox)")


def _install(options: argparse.Namespace) -> int:
    from ..jupyter.kernelspec import InvalidOption, install

    try:
        for spec in _chosen_kernelspecs(options):
            target = install(spec, _folder(options))
            write(sys.stdout, f"{spec.display_name}: {target}\n")
    except InvalidOption as error:
        raise CommandError(sentence(error)) from error
    except OSError as error:
        raise CommandError(f"{error.filename} cannot be written: {error.strerror}; try --user or --prefix.") from error
    return 0


def _uninstall(options: argparse.Namespace) -> int:
    from ..jupyter.kernelspec import uninstall

    folder = _folder(options)
    removed = [spec.name for spec in _chosen_kernelspecs(options) if uninstall(spec.name, folder)]
    for name in removed:
        write(sys.stdout, f"{name} was removed from {folder}\n")
    if not removed:
        write(sys.stderr, f"No kernel of this package is in {folder}.\n")
    return 0


def _folder(options: argparse.Namespace) -> Path:
    from ..jupyter.kernelspec import folder

    return folder(user=options.user, prefix=options.prefix)


def _chosen_kernelspecs(options: argparse.Namespace) -> list[Kernelspec]:
    """Return the kernelspecs that the options select, changed as they say.

    Raises:
        CommandError: If the options contradict each other.
    """
    from ..jupyter.kernelspec import KERNELSPECS

    if options.sandbox is None:
        if options.name or options.display_name or options.options:
            raise CommandError("names and options apply to one kernel: select it with --sandbox daytona or local.")
        return list(KERNELSPECS)
    (spec,) = (spec for spec in KERNELSPECS if spec.options["sandbox"] == options.sandbox)
    if options.name is not None and not _NAME.fullmatch(options.name):
        raise CommandError(f"{options.name!r} is not a kernel name: letters, digits, dots, dashes and underscores.")
    return [
        dataclasses.replace(
            spec,
            name=options.name or spec.name,
            display_name=options.display_name or spec.display_name,
            options={**spec.options, **_parse_options(options.options)},
        )
    ]


def _parse_options(items: Sequence[str]) -> dict[str, object]:
    """Parse ``NAME=VALUE`` items: a value that is valid JSON is decoded, any other is text."""
    parsed: dict[str, object] = {}
    for item in items:
        name, equals, text = item.partition("=")
        if not equals or name == "sandbox":
            raise CommandError(f"{item!r} is not an option: give NAME=VALUE, such as keep=true.")
        try:
            parsed[name] = json.loads(text)
        except ValueError:
            parsed[name] = text
    return parsed
