"""The demo's display: in colours where rich is installed, else as plain text."""

from __future__ import annotations

import importlib.util
import re
import sys
import textwrap
import threading

WIDTH = 100
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # text of the sandbox must not control the terminal


class Screen:
    """A display whose methods may be called in any thread; printed text is shown line by line."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._line = ""
        self.coloured = importlib.util.find_spec("rich") is not None
        if self.coloured:
            from rich.console import Console

            self._console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)

    def title(self, text: str) -> None:
        """Begin a part of the run."""
        self._show((f"\n── {text} {'─' * (WIDTH - 4 - len(text))}", "bold cyan"))

    def fact(self, name: str, text: str) -> None:
        """Show one named line of the heading or the summary."""
        for number, line in enumerate(textwrap.wrap(_clean(text), WIDTH - 12)):
            self._show((f"  {name if number == 0 else '':<10}", "cyan"), (line, ""))

    def reasoning(self, text: str) -> None:
        """Show the model's reason for a step."""
        self._show((f"{textwrap.fill(_clean(text), WIDTH)}\n", "italic"))

    def code(self, code: str) -> None:
        """Show the code of a step."""
        text = f"{textwrap.indent(_clean(code), '    ')}\n"
        if not self.coloured:
            self._show((text, ""))
            return
        from rich.syntax import Syntax

        with self._lock:
            syntax = Syntax("", "python", theme="ansi_dark", background_color="default")
            self._console.print(syntax.highlight(text), soft_wrap=True)

    def output(self, text: str, *, error: bool = False) -> None:
        """Show printed text; an unfinished line is shown when it ends."""
        with self._lock:
            *lines, self._line = (self._line + text).split("\n")
            for line in lines:
                self._print(("  │ ", "dim"), (_clean(line), "red" if error else ""))

    def call(self, request: str, answer: str, *, error: bool = False) -> None:
        """Show a tool call and its result."""
        self._show(
            ("  ▶ ", "magenta"),
            (_clean(request), "magenta"),
            (" → ", "dim"),
            (_clean(answer), "red" if error else ""),
        )

    def _show(self, *parts: tuple[str, str]) -> None:
        """Print texts and their styles as a line of its own, below an unfinished line of output."""
        with self._lock:
            if self._line:
                self.output("\n")
            self._print(*parts)

    def _print(self, *parts: tuple[str, str]) -> None:
        if not self.coloured:
            print("".join(text for text, _ in parts), flush=True)
            return
        from rich.text import Text

        self._console.print(Text.assemble(*parts), soft_wrap=True)


def short(value: object, limit: int = 60) -> str:
    """Return ``value``'s repr, cut in the middle to ``limit`` characters."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 12]} … {text[-9:]}"


def _clean(text: str) -> str:
    return _CONTROL.sub("�", text.expandtabs(4))
