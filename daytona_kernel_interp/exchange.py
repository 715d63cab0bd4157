"""``Exchange``: the part of the interpreter that moves values without running code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dspy.primitives.code_interpreter import CodeInterpreterError

from .dspy_versions import CodeExecutionError
from .loop import io_loop
from .wire import values
from .wire.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .cell import Cell


class Exchange:
    """Base class of the interpreter, whose private methods it calls."""

    if TYPE_CHECKING:
        _prepare: Callable[..., Any]
        _sole_call: Callable[..., Any]
        _translated: Callable[..., Any]
        _run: Callable[..., Any]
        _context: Callable[..., Any]
        start: Callable[..., Any]
        _session: Any

    def get(self, name: str) -> Any:
        """Return a copy of a variable of the session.

        Raises:
            CodeExecutionError: If there is none of that name, or its value cannot leave the sandbox.
            CodeInterpreterError: As for ``execute``; or if a library that the value needs is missing here.
        """
        if not isinstance(name, str) or not name.isidentifier():
            raise CodeInterpreterError(f"get() takes the name of one variable, not {name!r}.")
        cell = self._exchange("get", {}, name)
        if cell.variable is None:
            raise CodeInterpreterError(f"The sandbox did not send variable {name!r}.")
        try:
            return values.loads(cell.variable)
        except RemoteProtocolError as error:
            raise CodeInterpreterError(f"Variable {name!r} cannot be decoded: {error}.") from error

    def put(self, **variables: Any) -> None:
        """Bind variables in the session, as ``execute`` binds those of a cell.

        Raises:
            CodeInterpreterError: As for ``execute``.
        """
        self._exchange("put", variables, None)

    def _exchange(self, what: str, variables: Mapping[str, Any], wanted: str | None) -> Cell:
        request = self._prepare("", variables, wanted)
        if self._session is None:
            self.start()
        with self._sole_call(what), self._translated():
            cell: Cell = io_loop().run(self._run(request, self._context(), None)).cell
        if cell.error is not None:
            raise CodeExecutionError(f"{what}(): {cell.error.summary}")
        return cell
