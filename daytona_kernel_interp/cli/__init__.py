"""The command line ``daytona-kernel``.

``command_line`` builds the parser and runs a command; each ``*_commands`` module declares the options of one group of
commands and carries them out. Commands import what they need when they run, so that ``--help`` answers at once. What a
command does is also available from Python, in the package that implements it; this package holds options, exit codes
and terminal output. Nothing imports it.
"""

from .command_line import main

__all__ = ["main"]
