"""The command line ``daytona-kernel``.

``command_line`` has the parser with the options of all commands and runs a command; the other modules carry the
commands out, one module per group. They are imported when a command runs, so that ``--help`` answers at once. What a
command does is also available from Python, in the package that implements it; this package holds options, exit codes
and terminal output. Nothing imports it.
"""

from .command_line import main

__all__ = ["main"]
