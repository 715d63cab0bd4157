"""IPython's shell as the kernel uses it: what a cell shows, its pager, its shell lines, its errors."""

from __future__ import annotations

import builtins
import subprocess
import sys
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipykernel.displayhook import ZMQShellDisplayHook
from ipykernel.zmqshell import ZMQDisplayPublisher
from IPython.core import interactiveshell
from IPython.core.autocall import ZMQExitAutocall
from IPython.utils.text import LSString, SList
from traitlets import Instance, Type, default

from .ipykernel_compat import HookedShell
from .shell_lines import run_shell_line
from .tool_errors import ToolError

if TYPE_CHECKING:
    import types
    from collections.abc import Mapping

    from .output import OutputBudget

PACKAGE_FOLDER = str(Path(__file__).parent)
_IPYTHON = str(Path(interactiveshell.__file__).parent)
_GROUP = getattr(builtins, "BaseExceptionGroup", ())
_OTHER_SUBMITS = ("FINAL", "FINAL_VAR")  # what SUBMIT is called in other implementations of RLM
_NO_TEXT = "<exception str() failed>"  # the text that Python's own tracebacks use


class DisplayHook(ZMQShellDisplayHook):
    """Publishes the last expression. A text beyond the cell's limit is cut like printed output."""

    budget: OutputBudget | None = None

    def write_format_data(self, format_dict: Mapping[str, object], md_dict: object = None) -> None:
        """Write the representations into the execute_result message."""
        if self.budget is not None:
            format_dict = self.budget.fit(format_dict)
        super().write_format_data(format_dict, md_dict)

    def cull_cache(self) -> None:
        """Drop the oldest of a thousand results, without the warning that IPython prints in the current cell."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            super().cull_cache()


class DisplayPublisher(ZMQDisplayPublisher):
    """Publishes displays within the cell's limits."""

    budget: OutputBudget | None = None

    def publish(self, data: Mapping[str, object], *args: Any, **kwargs: Any) -> None:
        """Publish a display."""
        super().publish(data if self.budget is None else self.budget.fit(data), *args, **kwargs)


class ExitCell(ZMQExitAutocall):
    """The functions ``exit`` and ``quit`` of a cell."""

    def __call__(self, *code: object) -> None:
        """End the cell as ``sys.exit`` does; the kernel goes on."""
        raise SystemExit(*code)


class Shell(HookedShell):
    """IPython's shell, whose tracebacks have no frames of this package."""

    displayhook_class = Type(DisplayHook)
    display_pub_class = Type(DisplayPublisher)
    exiter = Instance(ExitCell)

    @default("exiter")
    def _default_exiter(self) -> ExitCell:
        return ExitCell(self)

    # A cell's source and its transformed code. ipykernel transforms a cell first, and run_cell does it again.
    transformed: tuple[str, str] | None = None

    def transform_cell(self, raw_cell: str) -> str:
        """Translate magics to Python, once per cell."""
        known, self.transformed = self.transformed, None
        if known is not None and known[0] == raw_cell:
            return known[1]
        cell: str = super().transform_cell(raw_cell)
        self.transformed = (raw_cell, cell)
        return cell

    def payloadpage_page(self, strg: Any, start: int = 0, *args: object, **kwargs: object) -> None:
        """Print what IPython would show in a pager, such as the answer to ``obj?``."""
        text = str(strg.get("text/plain", "") if isinstance(strg, dict) else strg)
        if start > 0:
            text = "\n".join(text.split("\n")[start:])
        print(text)

    def system_piped(self, cmd: str) -> None:
        """Run a shell line and print what it prints. Its exit code is ``_exit_code``, as IPython has it."""
        _refuse_background(cmd)
        command = self.var_expand(cmd, depth=1)
        sys.stderr.flush()
        self._note_exit_code(run_shell_line(command, _print_at_once), cmd)

    system = system_piped

    def getoutput(self, cmd: str, split: bool = True, depth: int = 0) -> Any:
        """Run a shell line and return what it prints: a list of lines, or a string without ``split``."""
        _refuse_background(cmd)
        command = self.var_expand(cmd, depth=depth + 1)
        pieces: list[str] = []
        code = run_shell_line(command, pieces.append)
        text = "".join(pieces)
        self._note_exit_code(code, cmd)
        return SList(text.splitlines()) if split else LSString(text)

    def _note_exit_code(self, code: int, cmd: str) -> None:
        self.user_ns["_exit_code"] = code
        if code and getattr(self, "system_raise_on_error", False):
            raise subprocess.CalledProcessError(code, cmd)

    def showtraceback(self, exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        """Publish an exception. A group, and an exception whose text raises an error, look as in Python.

        IPython writes a group to stderr with its own frames, and fails at an exception whose text raises an error.
        A SystemExit has a traceback like any other exception.
        """
        kwargs["exception_only"] = False
        error = exc_tuple[1] if exc_tuple else sys.exc_info()[1]
        if type(error) is NameError and error.name in _OTHER_SUBMITS and "SUBMIT" in self.user_ns:
            error.args = (f"name {error.name!r} is not defined: use SUBMIT(...)",)
        if not isinstance(error, _GROUP) and message_of(error) is not _NO_TEXT:
            super().showtraceback(exc_tuple, *args, **kwargs)
            return
        etype, value, tb = self.exception_info(exc_tuple)
        while tb is not None and tb.tb_frame.f_code.co_filename.startswith(_IPYTHON):
            tb = tb.tb_next
        self.publish_traceback(etype, value, ["".join(traceback.format_exception(etype, value, tb))])

    def exception_info(self, exc_tuple: Any = None) -> Any:
        """Return type, value and traceback of an exception, without this package's frames."""
        etype, value, tb = super().exception_info(exc_tuple)
        return etype, value, _without_our_frames(tb)

    def publish_traceback(self, etype: type[BaseException], evalue: object, lines: list[str]) -> None:
        """Publish an error, its text and its traceback cut to the cell's limit."""
        if isinstance(evalue, ToolError):
            # str(evalue) begins with its type, and the last line of a traceback adds that type again.
            lines = [*lines[:-1], str(lines[-1]).replace(f"{evalue.type}: {evalue}", str(evalue), 1)]
            evalue = evalue.message
        budget: OutputBudget | None = getattr(self.displayhook, "budget", None)
        if budget is not None:
            lines = [budget.clip("\n".join(map(str, lines)))]
        text = message_of(evalue)
        super().publish_traceback(etype, text if budget is None else budget.clip(text), lines)


def _refuse_background(cmd: str) -> None:
    if cmd.rstrip().endswith("&"):
        raise OSError("Background processes are not supported in a shell line. Use subprocess.Popen(...)")


def _print_at_once(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def message_of(error: object) -> str:
    """Return an exception's text, or a substitute if its ``__str__`` fails."""
    try:
        return str(error)
    except BaseException:  # code of the session, which may raise anything
        return _NO_TEXT


def _without_our_frames(tb: types.TracebackType | None) -> types.TracebackType | None:
    kept = []
    while tb is not None:
        if not tb.tb_frame.f_code.co_filename.startswith(PACKAGE_FOLDER):
            kept.append(tb)
        tb = tb.tb_next
    for entry, following in zip(kept, [*kept[1:], None], strict=True):
        entry.tb_next = following
    return kept[0] if kept else None
