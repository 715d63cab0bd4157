"""The parser of ``daytona-kernel``, and :func:`main`."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from .. import __version__
from . import (
    completion_command,
    daytona_commands,
    demo_command,
    kernel_commands,
    recording_commands,
    run_commands,
    session_commands,
)
from .terminal import BAD_INPUT, INTERRUPTED, PROGRAM, CommandError, show_help, write

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` names and return the exit code.

    0: success. 1: the command failed. 2: bad or missing input. 130: interrupted by Ctrl-C.
    """
    options = build_parser().parse_args(argv)
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else litellm fetches its price list at import
    try:
        return int(options.command(options))
    except CommandError as error:
        write(sys.stderr, f"{PROGRAM}: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with all commands."""
    parser = _Parser(prog=PROGRAM, description="Python cells in a real IPython kernel, inside a sandbox.")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.set_defaults(command=functools.partial(show_help, parser))
    commands = parser.add_subparsers(metavar="COMMAND")
    demo_command.add_commands(commands)
    run_commands.add_commands(commands)
    session_commands.add_commands(commands)
    recording_commands.add_commands(commands)
    daytona_commands.add_commands(commands)
    kernel_commands.add_commands(commands)
    completion_command.add_commands(commands, build_parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
