"""``daytona-kernel demo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .terminal import FAILED, CommandError, complete_files

if TYPE_CHECKING:
    import argparse

    from .terminal import Commands


def add_commands(commands: Commands) -> None:
    """Add ``demo``."""
    demo = commands.add_parser("demo", help="watch an RLM work on a long text; needs no key")
    demo.add_argument(
        "--model", nargs="?", const="", metavar="NAME", help="ask this model, not a script; the key is read from .env"
    )
    complete_files(
        demo.add_argument("--file", type=Path, metavar="PATH", help="the text to work on (with --model)"),
        demo.add_argument("--record", type=Path, metavar="PATH", help="record the session in this notebook"),
        demo.add_argument(
            "--output", type=Path, default=Path("demo-output"), metavar="FOLDER", help="where figures go (%(default)s)"
        ),
    )
    demo.add_argument("--question", metavar="TEXT", help="what to ask about it (with --model)")
    demo.set_defaults(command=_demo)


def _demo(options: argparse.Namespace) -> int:
    from .. import demo

    try:
        demo.run(demo.DemoOptions(options.model, options.file, options.question, options.output, options.record))
    except demo.InvalidDemoOptions as error:
        raise CommandError(str(error)) from error
    except demo.DemoFailed as error:
        raise CommandError(str(error), FAILED) from error
    return 0
