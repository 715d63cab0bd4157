"""Interpreter factories for ``interpreter_factory=``: what DSPy calls when a run needs an interpreter of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .instructions import ExecutionInstructions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..tools.binding import Tool
    from .interpreter import KernelInterpreter


class InterpreterFactory:
    """Creates interpreters of one configuration; ``KernelInterpreter.factory(...)`` returns one.

    DSPy reads ``execution_instructions`` from the factory, and refuses a factory that is an interpreter itself: this
    class has neither ``start``, ``execute`` nor ``shutdown``. It never changes, so its copies are the same object. It
    can be pickled if its options can.
    """

    execution_instructions = ExecutionInstructions()

    def __init__(self, made: type[KernelInterpreter], tools: Mapping[str, Tool], options: Mapping[str, object]) -> None:
        self._class, self._options = made, dict(options)
        self.tools = dict(tools)

    def __call__(self) -> KernelInterpreter:
        """Return a new, unstarted interpreter."""
        return self._class(dict(self.tools), **self._options)  # type: ignore[arg-type]  # the constructor checked them

    def __copy__(self) -> InterpreterFactory:
        """Return the factory itself."""
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> InterpreterFactory:
        """Return the factory itself."""
        return self
