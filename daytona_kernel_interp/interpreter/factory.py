"""Interpreter factories for ``interpreter_factory=``: what DSPy calls when a run needs an interpreter of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from .instructions import ExecutionInstructions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..tools.binding import Tool

Interpreter = TypeVar("Interpreter")


class InterpreterFactory(Generic[Interpreter]):
    """Creates interpreters of one configuration; ``KernelInterpreter.factory(...)`` returns one.

    DSPy reads ``execution_instructions`` from the factory, and refuses a factory that is an interpreter itself: this
    class has neither ``start``, ``execute`` nor ``shutdown``. It never changes, so its copies are the same object. It
    can be pickled if its options can.
    """

    execution_instructions = ExecutionInstructions()

    def __init__(
        self, create: Callable[..., Interpreter], tools: Mapping[str, Tool], options: Mapping[str, object]
    ) -> None:
        self._create, self._options = create, dict(options)
        self.tools = dict(tools)

    def __call__(self) -> Interpreter:
        """Return a new, unstarted interpreter."""
        return self._create(dict(self.tools), **self._options)

    def __copy__(self) -> InterpreterFactory[Interpreter]:
        """Return the factory itself."""
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> InterpreterFactory[Interpreter]:
        """Return the factory itself."""
        return self
