"""IPython's shell as the kernel uses it: what a cell shows, its pager, its shell lines, its errors."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Any

from ipykernel.displayhook import ZMQShellDisplayHook
from ipykernel.zmqshell import ZMQDisplayPublisher
from IPython.core.autocall import ZMQExitAutocall
from IPython.core.error import UsageError
from IPython.utils.text import LSString, SList
from traitlets import Instance, Type, default

from .error_text import format_error, visible_frames, without_colours
from .forked import end_child
from .ipykernel_compat import HookedShell
from .shell_lines import run_shell_line
from .tool_errors import ToolError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .output import CellStream, OutputBudget

_PID = os.getpid()  # of the kernel, which imports this
_GROUP = getattr(builtins, "BaseExceptionGroup", ())
_OTHER_SUBMITS = ("FINAL", "FINAL_VAR")  # what SUBMIT is called in other implementations of RLM
_NO_TEXT = "<exception str() failed>"  # the text that Python's own tracebacks use


class DisplayHook(ZMQShellDisplayHook):
    """Publishes the last expression. A text beyond the cell's limit is cut like printed output."""

    budget: OutputBudget | None = None
    shell: Any
    session: Any
    active = failed = False  # while a value is shown; whether one of its representations raised an error

    def start_displayhook(self) -> None:
        """Begin the message."""
        super().start_displayhook()
        self.active, self.failed = True, False

    def finish_displayhook(self) -> None:
        """Send the message."""
        self.active = False
        if os.getpid() == _PID:
            super().finish_displayhook()

    def write_format_data(self, format_dict: Mapping[str, object], md_dict: object = None) -> None:
        """Write the representations into the message.

        A value that is not the cell's result is a display: one of several, or one whose display raised an error.
        """
        if self.budget is not None:
            format_dict = self.budget.fit(format_dict)
        if os.getpid() != _PID:  # a forked child has no connection
            print(format_dict.get("text/plain", ""))
        if self.failed or self.shell.shows_all_values:
            content: dict[str, object] = {"data": {}, "metadata": {}, "transient": {}}
            self.msg = self.session.msg("display_data", content, parent=self.parent_header)
        super().write_format_data(format_dict, md_dict)

    def cull_cache(self) -> None:
        """Drop the oldest of a thousand results, without the warning that IPython prints in the current cell."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            super().cull_cache()


class DisplayPublisher(ZMQDisplayPublisher):
    """Publishes displays within the cell's limits."""

    budget: OutputBudget | None = None
    streams: Sequence[CellStream] = ()  # what child processes wrote to them before comes before a display

    def publish(self, data: Mapping[str, object], *args: Any, **kwargs: Any) -> None:
        """Publish a display. In a forked child, which has no connection, print its text."""
        if os.getpid() != _PID:
            print(data.get("text/plain", ""))
            return
        for stream in self.streams:
            stream.drain()
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

    @property
    def shows_all_values(self) -> bool:
        """Whether the code wants to see the value of every line, not only of a cell's last one."""
        return bool(self.ast_node_interactivity == "all")

    # A cell's source and its transformed code. ipykernel transforms a cell first, and run_cell does it again.
    transformed: tuple[str, str] | None = None

    def transform_cell(self, raw_cell: str) -> str:
        """Translate magics to Python, once per cell."""
        raw_cell = raw_cell.removeprefix("\ufeff")  # a byte-order mark
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

    async def run_ast_nodes(self, *args: Any, **kwargs: Any) -> bool:
        """Run the code of a cell. A child that it has forked ends here, and does not become a second kernel."""
        try:
            failed: bool = await super().run_ast_nodes(*args, **kwargs)
        finally:
            if os.getpid() != _PID:
                end_child(getattr(kwargs.get("result"), "error_in_exec", None))
        return failed

    def init_user_ns(self) -> None:
        """Fill the namespace. ``open`` is Python's: IPython's hides it from ``mock.patch("builtins.open")``."""
        super().init_user_ns()
        self.user_ns.pop("open", None)

    def init_magics(self) -> None:
        """Have IPython's magics, but none that prints the key of the session."""
        super().init_magics()
        register: Any = self.register_magic_function
        register(_refuse_connect_info, magic_name="connect_info")

    def showtraceback(self, exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        """Publish an exception. A SystemExit has a traceback like any other exception.

        The text is Python's, unless the code has chosen one of IPython's with ``%xmode``.
        """
        kwargs["exception_only"] = False
        error = exc_tuple[1] if exc_tuple else sys.exc_info()[1]
        if type(error) is NameError and error.name in _OTHER_SUBMITS and "SUBMIT" in self.user_ns:
            error.args = (f"name {error.name!r} is not defined: use SUBMIT(...)",)
        own = isinstance(error, _GROUP) or message_of(error) is _NO_TEXT
        other = error is None or isinstance(error, UsageError) or hasattr(error, "_render_traceback_")
        if not own and (other or self.InteractiveTB.mode != "Plain"):
            super().showtraceback(exc_tuple, *args, **kwargs)
            return
        etype, value, tb = self.exception_info(exc_tuple)
        self.publish_traceback(etype, value, [format_error(etype, value, tb, self._cell_name)])

    def _cell_name(self, file: str) -> str | None:
        found = self.compile.format_code_name(file)
        return None if found is None else " ".join(found)

    def exception_info(self, exc_tuple: Any = None) -> Any:
        """Return type, value and traceback of an exception, without this package's frames."""
        etype, value, tb = super().exception_info(exc_tuple)
        return etype, value, visible_frames(tb)

    def publish_traceback(self, etype: type[BaseException], evalue: object, lines: list[str]) -> None:
        """Publish an error, its text and its traceback cut to the cell's limit."""
        if os.getpid() != _PID:
            if not isinstance(evalue, SystemExit):
                sys.stderr.write("\n".join(map(str, lines)))
            return
        hook: Any = self.displayhook
        if hook.active:
            hook.failed = True
        text = "\n".join(map(str, lines))
        if isinstance(evalue, ToolError):
            # str(evalue) begins with its type, and the last line of a traceback adds that type again.
            text = text.replace(f"{evalue.type}: {evalue}", str(evalue), 1)
            evalue = evalue.message
        budget: OutputBudget | None = getattr(self.displayhook, "budget", None)
        text, message = without_colours(text), without_colours(message_of(evalue))
        if budget is not None:
            text, message = budget.clip(text), budget.clip(message)
        super().publish_traceback(etype, message, [text])


def _refuse_connect_info(line: str) -> None:
    """Refuse to print the connection file, which has the key of the session."""
    raise UsageError("%connect_info is not available: the connection of this kernel belongs to its host")


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
