"""Sessions for the commands that run cells in one: the choice of a session, and a client of it.

A session whose host lives is joined as one more Jupyter client; its host keeps it. A session without a host is
attached for the time of the command, and detached afterwards, so that it lives on.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from .. import KernelInterpreter
from ..client.outputs import CellError
from ..errors import KernelError, SessionNotFound
from ..interpreter.interpreter import CodeInterpreterError
from ..monitor.shared_client import SharedClient, list_sessions
from ..session.session_file import SessionRecord, find_session
from .terminal import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ..client.cell_result import CellResult
    from ..client.outputs import Output


def select_session(session_id: str | None, *, hosted: bool | None = None) -> SessionRecord:
    """Return the record of the session ``session_id``, or of the only session on this machine.

    Args:
        session_id: The id, or None.
        hosted: Where no id is given: whether only sessions with a host count, or only those without; None: all.

    Raises:
        SessionNotFound: If there is no session with this id.
        CommandError: If there is none or several, and no id was given.
    """
    if session_id is not None:
        return find_session(session_id)
    found = [each for each in list_sessions() if hosted is None or hosted == each.host_lives]
    kind = {None: "", True: " with a host", False: " without a host"}[hosted]
    if not found:
        raise CommandError(f"No session{kind} is alive on this machine.")
    if len(found) > 1:
        ids = ", ".join(each.id for each in found)
        raise CommandError(f"{len(found)} sessions{kind} are alive on this machine: name one of {ids}.")
    return found[0]


@contextlib.contextmanager
def open_session(record: SessionRecord) -> Iterator[SessionClient]:
    """Join the session, or attach it if its host is gone.

    Raises:
        SessionNotFound: If nothing is left of it, or its kernel does not answer.
    """
    if record.host_lives:
        with SharedClient(record) as shared:
            yield shared
    else:
        with AttachedClient(record.id) as attached:
            attached.last_cell()
            yield attached


class InterpreterClient:
    """Runs cells in the session of an interpreter of this process."""

    def __init__(self, interpreter: KernelInterpreter) -> None:
        self._interpreter = interpreter

    def run(
        self,
        code: str,
        variables: Mapping[str, object] | None = None,
        *,
        timeout_s: float | None = None,
        on_output: Callable[[Output], None] | None = None,
    ) -> CellResult:
        """Run one cell and return its result, as :meth:`SharedClient.run` does.

        Raises:
            KernelError: If the session is over.
            KeyboardInterrupt: At Ctrl-C, after the cell was interrupted.
        """
        self._interpreter.execution_timeout = timeout_s
        self._interpreter.on_output = on_output
        try:
            return self._interpreter.run(code, variables)
        except CodeInterpreterError as error:
            raise as_kernel_error(error) from error


class AttachedClient(InterpreterClient):
    """Runs cells in a session whose host is gone, as its host. :meth:`last_cell` must be called first.

    ``on_output`` gets the outputs of that cell.

    Raises:
        SessionNotFound: If nothing is left of the session.
    """

    def __init__(self, session_id: str, on_output: Callable[[Output], None] | None = None) -> None:
        try:
            super().__init__(KernelInterpreter.attach(session_id, max_output_chars=None, on_output=on_output))
        except CodeInterpreterError as error:
            raise SessionNotFound(str(error.__cause__ or error)) from error

    def __enter__(self) -> AttachedClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._interpreter.detach()

    def last_cell(self) -> CellError | None:
        """Wait for the cell that ran when the session was attached, and return its error, if any.

        Raises:
            KernelError: If the session is over.
        """
        try:
            self._interpreter.resume()
        except (CodeInterpreterError, SyntaxError) as error:  # before DSPy 3.3 the class does not tell them apart
            if isinstance(error, KernelError):
                raise as_kernel_error(error) from error
            outputs = self._interpreter.outputs
            shown = next((output for output in reversed(outputs) if isinstance(output, CellError)), None)
            return shown or CellError(type(error).__name__, str(error), "")
        return None


def as_kernel_error(error: Exception) -> KernelError:
    """Return the package's own error behind one of the interpreter, whose text also has output and stderr."""
    cause = error.__cause__
    return cause if isinstance(cause, KernelError) else KernelError(str(error))


SessionClient = SharedClient | InterpreterClient
