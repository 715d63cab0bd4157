"""One run of the demo, from the interpreter to the answer, and its display: in colours where rich is installed."""

from __future__ import annotations

import base64
import builtins
import importlib.util
import inspect
import re
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING, Any

import dspy
from dspy.utils.callback import BaseCallback

from .. import KernelInterpreter, Recording
from ..client.outputs import CellError, DisplayData, ExecuteResult, Output, StreamText
from ..config import RLM_KEYWORD_VARIABLE
from ..formatting import duration, shorten
from ..interpreter.dspy_compat import CodeInterpreterError
from . import INSTALL, DemoFailed, InvalidDemoOptions
from .script import STEPS, classify_mistake, rule_based_lm, scripted_lm

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from . import DemoOptions

MAX_LLM_CALLS = 120
WIDTH = 100
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # text of the sandbox must not control the terminal
SIGNATURE = "text: str, question: str -> answer: str, evidence: list[str]"
INSTRUCTIONS = (
    "Answer the question about the text in two or three sentences; evidence is what the answer rests on, quoted from "
    "the text. Read the text with code, let llm_query_batched judge the passages that matter, and draw one "
    "matplotlib figure with plt.show()."
)


SCRIPT = (
    "none. The steps were written in advance and a simple rule answers llm_query; the kernel, the bridge and DSPy are "
    "real. --model lets a real model do it."
)


def exception_family(name: str) -> list[str]:
    """Return the base classes of a builtin exception, nearest first; KeyError if there is no such exception."""
    found = getattr(builtins, name, None)
    if not (isinstance(found, type) and issubclass(found, BaseException)):
        raise KeyError(f"Python has no exception called {name}")
    return [base.__name__ for base in found.__mro__[1:-1]]


class DisplayingInterpreter(KernelInterpreter):
    """A KernelInterpreter that shows the text, the figures and the tool calls of its code."""

    def __init__(self, screen: Screen, folder: Path, record: Path | None) -> None:
        super().__init__(sandbox="local", record=record, on_output=self._show)
        self._screen, self._folder = screen, folder
        self.figures = self.calls = self.prompts = 0

    def invoke_tool(self, tool_name: str, kwargs: dict[str, Any]) -> Any:
        """Run a host tool, and show the call when it has ended."""
        self.calls += 1
        try:
            result = super().invoke_tool(tool_name, kwargs)
        except Exception as error:  # shown and raised again
            self._screen.call(_request(tool_name, kwargs), f"{type(error).__name__}: {error}", error=True)
            raise
        if tool_name == "llm_query_batched" and isinstance(result, list) and result:
            self.prompts += len(result)
            self._screen.call(_request(tool_name, kwargs), f"{len(result)} answers, first {_short(result[0])}")
        else:
            self.prompts += tool_name == "llm_query"
            self._screen.call(_request(tool_name, kwargs), _short(result))
        return result

    def _show(self, output: Output) -> None:
        match output:
            case StreamText(name=name, text=text):
                self._screen.output(text, error=name == "stderr")
            case CellError(traceback=traceback, summary=summary):
                self._screen.output(f"{traceback or summary}\n", error=True)
            case DisplayData(data={"image/png": str(png)}):
                self.figures += 1
                path = self._folder / f"figure-{self.figures}.png"
                path.write_bytes(base64.b64decode(png))
                self._screen.call("figure", str(path))
            case DisplayData(data=data) | ExecuteResult(data=data):
                self._screen.output(f"{data.get('text/plain', '')}\n")


class StepDisplay(BaseCallback):
    """A DSPy callback that shows each step of the RLM as soon as the model has written it."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self.count = 0

    def on_module_end(self, call_id: str, outputs: object, exception: BaseException | None = None) -> None:
        """Show the result of a module, if it is a step."""
        code = getattr(outputs, "code", None)
        if isinstance(code, str):
            self.count += 1
            self._screen.title(f"Step {self.count}")
            self._screen.reasoning(str(getattr(outputs, "reasoning", "")))
            self._screen.code(_without_fence(code))


def run_task(options: DemoOptions, name: str, text: str) -> None:
    """Run the RLM on ``text``, which has this name, and show it.

    Raises:
        InvalidDemoOptions: If the folder for figures cannot be made, or DSPy's keyword is switched off.
        DemoFailed: If there is no answer.
    """
    if "interpreter" not in inspect.signature(dspy.RLM.__init__).parameters:
        raise InvalidDemoOptions(f"The demo needs the interpreter= keyword of dspy.RLM: unset {RLM_KEYWORD_VARIABLE}.")
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidDemoOptions(f"The folder {options.output} cannot be made: {error.strerror}.") from error
    screen = Screen()
    _show_heading(screen, options, f"{name}, {len(text):,} characters")
    steps, began = StepDisplay(screen), time.monotonic()
    with DisplayingInterpreter(screen, options.output, options.record) as interpreter:
        prediction = _predict(options, text, interpreter, steps)
    screen.title("Answer")
    screen.fact("answer", prediction.answer)
    for number, sentence in enumerate(prediction.evidence):
        screen.fact("evidence" if number == 0 else "", f"- {sentence}")
    screen.fact(
        "took",
        f"{steps.count} steps, {interpreter.calls} calls to the host with {interpreter.prompts} prompts in them, "
        f"{interpreter.figures} figure{'s' * (interpreter.figures != 1)}, {duration(time.monotonic() - began)}",
    )
    if interpreter.recording is not None:
        screen.fact("recording", str(interpreter.recording))


def _predict(options: DemoOptions, text: str, interpreter: KernelInterpreter, steps: StepDisplay) -> Any:
    build: Any = dspy.RLM  # from DSPy 3.3 on, this package adds the keyword `interpreter`
    signature = dspy.make_signature(SIGNATURE, INSTRUCTIONS)
    if options.model is None:
        lm, sub_lm, tools = scripted_lm(STEPS), rule_based_lm("rule", classify_mistake), [exception_family]
    else:
        lm, sub_lm, tools = dspy.LM(options.model), None, []
    rlm = build(signature, interpreter=interpreter, max_llm_calls=MAX_LLM_CALLS, sub_lm=sub_lm, tools=tools)
    try:
        callbacks = [steps] if options.record is None else [steps, Recording.callback()]
        with dspy.context(lm=lm, callbacks=callbacks):
            return rlm(text=text, question=options.question)
    except CodeInterpreterError as error:
        raise DemoFailed(_first_line(error)) from error
    except Exception as error:  # a provider of models may raise anything
        if options.model is None:
            raise
        raise DemoFailed(f"{options.model} did not answer: {_first_line(error)}") from error


def _show_heading(screen: Screen, options: DemoOptions, text: str) -> None:
    screen.title("daytona-kernel demo")
    screen.fact("text", text)
    screen.fact("question", str(options.question))
    screen.fact("model", options.model or SCRIPT)
    screen.fact("sandbox", "local: a child process on this machine, without isolation")
    if not screen.coloured:
        screen.fact("colours", f"none without rich: {INSTALL}")


def _short(value: object) -> str:
    return shorten(repr(value), 60)


def _request(name: str, kwargs: Mapping[str, object]) -> str:
    prompts = kwargs.get("prompts")
    if name == "llm_query_batched" and isinstance(prompts, list):
        return f"{name}({len(prompts)} prompts)"
    return f"{name}({', '.join(_short(value) for value in kwargs.values())})"


def _without_fence(code: str) -> str:
    lines = code.strip().splitlines()
    if len(lines) >= 2 and lines[0].startswith("```") and lines[-1].strip() == "```":
        lines = lines[1:-1]
    return "\n".join(lines)


def _first_line(error: Exception, limit: int = 400) -> str:
    return shorten(f"{type(error).__name__}: {error}".splitlines()[0], limit)


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


def _clean(text: str) -> str:
    return _CONTROL.sub("�", text.expandtabs(4))
