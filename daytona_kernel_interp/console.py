"""A prompt whose cells run in a session: ``daytona-kernel attach``."""

from __future__ import annotations

import code
import codeop
from typing import TYPE_CHECKING, Any

from .visiting import CellFailed

if TYPE_CHECKING:
    from collections.abc import Callable

_LEAVE = frozenset({"exit", "exit()", "quit", "quit()"})


class Console(code.InteractiveConsole):
    """Python's own prompt; what is typed goes to ``run`` as soon as it is whole."""

    def __init__(self, run: Callable[[str], Any], report: Callable[[CellFailed], object]) -> None:
        super().__init__()
        self._run, self._report = run, report

    def runsource(self, source: str, filename: str = "<input>", symbol: str = "single") -> bool:
        """Run a cell, unless more of it is to come; return whether it is."""
        if source.strip() in _LEAVE:
            raise EOFError
        try:
            if codeop.compile_command(source, filename, symbol) is None:
                return True
        except (SyntaxError, ValueError, OverflowError):
            pass  # a magic, a top-level await, or a mistake: the kernel knows
        if source.strip():
            try:
                self._run(source)
            except CellFailed as failed:
                self._report(failed)
        return False

    def interact(self, banner: str | None = None, exitmsg: str | None = None) -> None:
        """Read and run until the input ends."""
        try:
            super().interact(banner, exitmsg)
        except EOFError:
            return
