"""The demo's display: in colours where rich is installed, else as plain text."""

from __future__ import annotations

import importlib.util
import re
import sys
import textwrap
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

WIDTH = 100
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # text of the sandbox must not control the terminal


class Screen:
    """A display in plain text. Its methods may be called in any thread; printed text is shown line by line."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._line = ""

    def title(self, text: str) -> None:
        """Begin a part of the run."""
        with self._lock:
            self._end_line()
            self._rule(text)

    def fact(self, name: str, text: str) -> None:
        """Show one named line of the heading or the summary."""
        with self._lock:
            self._end_line()
            for number, line in enumerate(textwrap.wrap(_clean(text), WIDTH - 12)):
                self._fact(f"{name if number == 0 else '':<10}", line)

    def reasoning(self, text: str) -> None:
        """Show the model's reason for a step."""
        with self._lock:
            self._end_line()
            self._reasoning(textwrap.fill(_clean(text), WIDTH))

    def code(self, code: str) -> None:
        """Show the code of a step."""
        with self._lock:
            self._code(_clean(code))

    def output(self, text: str, *, error: bool = False) -> None:
        """Show printed text; an unfinished line is shown when it ends."""
        with self._lock:
            *lines, self._line = (self._line + text).split("\n")
            for line in lines:
                self._output(_clean(line), error)

    def call(self, request: str, answer: str, *, error: bool = False) -> None:
        """Show a tool call and its result."""
        with self._lock:
            self._end_line()
            self._call(_clean(request), _clean(answer), error)

    def figure(self, path: Path) -> None:
        """Show the path of a figure."""
        with self._lock:
            self._end_line()
            self._call("figure", str(path), False)

    def _end_line(self) -> None:
        if self._line:
            self.output("\n")

    # --- format -----------------------------------------------------------------------------------

    def _print(self, text: str = "") -> None:
        print(text, flush=True)

    def _rule(self, text: str) -> None:
        self._print(f"\n-- {text} {'-' * (WIDTH - 4 - len(text))}")

    def _fact(self, label: str, text: str) -> None:
        self._print(f"  {label}{text}")

    def _reasoning(self, text: str) -> None:
        self._print(text + "\n")

    def _code(self, code: str) -> None:
        self._print(textwrap.indent(code, "    ") + "\n")

    def _output(self, line: str, error: bool) -> None:
        self._print(f"  | {line}")

    def _call(self, request: str, answer: str, error: bool) -> None:
        self._print(f"  > {request} -> {answer}")


class RichScreen(Screen):
    """A display in colours."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console

        self._console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)

    def _styled(self, *parts: tuple[str, str]) -> None:
        from rich.text import Text

        self._console.print(Text.assemble(*parts), soft_wrap=True)

    def _rule(self, text: str) -> None:
        from rich.rule import Rule
        from rich.text import Text

        self._console.print()
        self._console.print(Rule(Text(text, "bold cyan"), align="left", style="cyan"))

    def _fact(self, label: str, text: str) -> None:
        self._styled((f"  {label}", "cyan"), (text, ""))

    def _reasoning(self, text: str) -> None:
        self._styled((text + "\n", "italic"))

    def _code(self, code: str) -> None:
        from rich.syntax import Syntax
        from rich.text import Text

        highlighted = Syntax("", "python", theme="ansi_dark", background_color="default").highlight(code)
        for line in highlighted.split("\n", allow_blank=True):
            self._console.print(Text("    ") + line, soft_wrap=True)

    def _output(self, line: str, error: bool) -> None:
        self._styled(("  │ ", "dim"), (line, "red" if error else ""))

    def _call(self, request: str, answer: str, error: bool) -> None:
        self._styled(("  ▶ ", "magenta"), (request, "magenta"), (" → ", "dim"), (answer, "red" if error else ""))


def open_screen() -> Screen:
    """Return a display in colours if rich is installed, else one in plain text."""
    return RichScreen() if importlib.util.find_spec("rich") is not None else Screen()


def short(value: object, limit: int = 60) -> str:
    """Return ``value``'s repr, cut in the middle to ``limit`` characters."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 12]} … {text[-9:]}"


def _clean(text: str) -> str:
    return _CONTROL.sub("�", text.expandtabs(4))
