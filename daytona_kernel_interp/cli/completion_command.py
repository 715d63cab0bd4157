"""``daytona-kernel completion``: a script that completes commands, options and files in a shell.

shtab generates it from the parser. The script is static: a shell completes without starting Python.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from .terminal import write

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from .terminal import Commands

_SHELLS = ("bash", "zsh", "fish")


def add_commands(commands: Commands, build_parser: Callable[[], argparse.ArgumentParser]) -> None:
    """Add ``completion``, whose script completes what ``build_parser`` returns."""
    completion = commands.add_parser("completion", help="print a script that completes commands in a shell")
    completion.add_argument("shell", choices=_SHELLS, metavar="SHELL", help=f"one of {', '.join(_SHELLS)}")
    completion.set_defaults(command=lambda options: _print_script(options.shell, build_parser()))


def _print_script(shell: str, parser: argparse.ArgumentParser) -> int:
    import shtab

    write(sys.stdout, shtab.complete(parser, shell))
    return 0
