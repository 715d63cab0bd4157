"""The description of the runtime for the model: DSPy puts ``execution_instructions`` into the action prompt.

DSPy (3.3.1 and later) reads the attribute from the interpreter *factory*, which may be the class itself, an
:class:`InterpreterFactory` or the factory that ``dspy.RLM(interpreter=...)`` makes.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, TypeVar

from ..tools.binding import describe
from ..tools.signatures import signature_of_tool

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..tools.binding import Tool
    from ..wire.comm import ToolSpec

Interpreter = TypeVar("Interpreter")

KERNEL_INSTRUCTIONS = (
    "The REPL is a live IPython kernel: all state (variables, imports, functions) stays between steps; magics, "
    "`!shell` and top-level `await` work; files stay in the working folder; figures are shown. You see what is "
    "printed and the value of the last line. Tools are plain functions (`await tool.aio(...)` in async code); "
    "their errors are exceptions that you can catch by type. Input variables are set anew at every step: keep "
    "changes under other names. End with SUBMIT(...)."
)

_PREFIXES = {int(inspect.Parameter.VAR_POSITIONAL): "*", int(inspect.Parameter.VAR_KEYWORD): "**"}


class ExecutionInstructions:
    """Descriptor of ``execution_instructions``: the text, and on an instance also the tools in its ``tools`` dict."""

    def __get__(self, instance: object | None, owner: type) -> str:
        return with_tools(KERNEL_INSTRUCTIONS, getattr(instance, "tools", {}))


class InterpreterFactory(functools.partial[Interpreter]):
    """Creates interpreters of one configuration; ``KernelInterpreter.factory(...)`` returns one.

    DSPy reads ``execution_instructions`` from the factory, and refuses a factory that is an interpreter itself: this
    class has neither ``start``, ``execute`` nor ``shutdown``. It can be pickled if its options can.
    """

    execution_instructions = ExecutionInstructions()

    @property
    def tools(self) -> Mapping[str, Tool]:
        """The tools of each interpreter."""
        tools: Mapping[str, Tool] = self.args[0]
        return tools

    def __deepcopy__(self, memo: dict[int, object]) -> InterpreterFactory[Interpreter]:
        """Return the factory itself: it never changes, and its tools need not be copyable."""
        return self


def with_tools(text: str, tools: Mapping[str, Tool]) -> str:
    """Return ``text`` followed by one line for each tool: its signature and its docstring, as RLM lists its own."""
    lines = []
    for name, tool in tools.items():
        try:
            spec = describe(name, tool)
        except (TypeError, ValueError):  # the next execute() refuses it
            continue
        doc = spec.doc.replace("\n", "  ") or "No description"
        lines.append(f"- `{name}({_parameters(spec, tool)})` - {doc}")
    return "\n".join([text, "Tools of this interpreter:", *lines]) if lines else text


def _parameters(spec: ToolSpec, tool: Tool) -> str:
    if spec.parameters is None:
        return "..."
    signature = signature_of_tool(tool)
    declared = {} if signature is None else signature.parameters
    parts = []
    for parameter in spec.parameters:
        text, annotation = parameter.name, declared[parameter.name].annotation
        if annotation is not inspect.Parameter.empty:
            text += f": {annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)}"
        if parameter.default is not None:
            text += f"={parameter.default}" if annotation is inspect.Parameter.empty else f" = {parameter.default}"
        parts.append(_PREFIXES.get(parameter.kind, "") + text)
    return ", ".join(parts)
