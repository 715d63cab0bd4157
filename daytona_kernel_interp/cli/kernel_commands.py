"""``daytona-kernel install`` and ``uninstall``: the package's kernelspecs in Jupyter's lists of kernels."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from typing import TYPE_CHECKING

from ..jupyter import kernelspec
from ..jupyter.kernelspec import KERNELSPECS, InvalidOption, Kernelspec
from .terminal import CommandError, sentence, write

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

_NAME = re.compile(r"[A-Za-z0-9._-]+")  # jupyter_client's rule


def install(options: argparse.Namespace) -> int:
    """Write the chosen kernelspecs."""
    folder = kernelspec.folder(user=options.user, prefix=options.prefix)
    try:
        for spec in _chosen_kernelspecs(options):
            target = kernelspec.install(spec, folder)
            write(sys.stdout, f"{spec.display_name}: {target}\n")
    except InvalidOption as error:
        raise CommandError(sentence(error)) from error
    except OSError as error:
        raise CommandError(f"{error.filename} cannot be written: {error.strerror}; try --user or --prefix.") from error
    return 0


def uninstall(options: argparse.Namespace) -> int:
    """Delete the chosen kernelspecs."""
    folder = kernelspec.folder(user=options.user, prefix=options.prefix)
    removed = [spec.name for spec in _chosen_kernelspecs(options) if kernelspec.uninstall(spec.name, folder)]
    for name in removed:
        write(sys.stdout, f"{name} was removed from {folder}\n")
    if not removed:
        write(sys.stderr, f"No kernel of this package is in {folder}.\n")
    return 0


def _chosen_kernelspecs(options: argparse.Namespace) -> list[Kernelspec]:
    """Return the kernelspecs that the options select, changed as they say.

    Raises:
        CommandError: If the options contradict each other.
    """
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
