"""The command line ``daytona-kernel``.

One module per group of commands: each adds its parsers and runs its commands. Commands import what they need when
they run, so that ``--help`` answers at once. What a command does belongs to the package that offers it in Python
as well; here are options, exit codes and what a terminal shows. Nothing imports this package.
"""

from .command_line import main

__all__ = ["main"]
