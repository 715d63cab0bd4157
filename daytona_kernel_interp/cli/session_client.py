"""Sessions for the commands that run cells in one: the choice of a session, and a client of it.

A session whose host lives is joined as one more Jupyter client; its host keeps it. A session without a host is
attached for the time of the command, and detached afterwards, so that it lives on.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Protocol

from .. import KernelInterpreter
from ..client.cell_result import CellResult
from ..client.outputs import CellError
from ..errors import KernelError, SessionNotFound
from ..interpreter.interpreter import CodeExecutionError, CodeInterpreterError, FinalOutput
from ..monitor.shared_client import SharedClient, list_sessions
from ..session.session_file import SessionRecord, find_session
from .terminal import CommandError, sentence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ..client.outputs import Output


class SessionClient(Protocol):
    """Runs cells in one session."""

    def run(
        self,
        code: str,
        variables: Mapping[str, object] | None = None,
        *,
        timeout_s: float | None = None,
        on_output: Callable[[Output], None] | None = None,
    ) -> CellResult:
        """Run one cell and return its result; ``on_output`` gets each output as it arrives.

        Raises:
            KernelError: If the session is over.
            KeyboardInterrupt: At Ctrl-C, after the cell was interrupted.
        """


def select_session(session_id: str | None, *, hosted: bool | None = None) -> SessionRecord:
    """Return the record of the session ``session_id``, or of the only session on this machine.

    Args:
        session_id: The id, or None.
        hosted: Where no id is given: whether only sessions with a host count, or only those without; None: all.

    Raises:
        CommandError: If there is no such session, or there are several and no id was given.
    """
    try:
        if session_id is not None:
            return find_session(session_id)
        found = [each for each in list_sessions() if hosted is None or hosted == (each.host is not None)]
        kind = {None: "", True: " with a host", False: " without a host"}[hosted]
        if not found:
            raise CommandError(f"No session{kind} is alive on this machine.")
        if len(found) > 1:
            ids = ", ".join(each.id for each in found)
            raise CommandError(f"{len(found)} sessions{kind} are alive on this machine: name one of {ids}.")
        return find_session(found[0].id)
    except SessionNotFound as error:
        raise CommandError(sentence(error)) from error


@contextlib.contextmanager
def open_session(record: SessionRecord) -> Iterator[SessionClient]:
    """Join the session, or attach it if its host is gone.

    Raises:
        SessionNotFound: If nothing is left of it, or its kernel does not answer.
    """
    with SharedClient(record) if record.host_lives else AttachedClient(record.id) as client:
        yield client


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
        """Run one cell; see :meth:`SessionClient.run`."""
        self._interpreter.execution_timeout = timeout_s
        self._interpreter.on_output = on_output
        return self._result_of(lambda: self._interpreter.execute(code, variables))

    def _result_of(self, work: Callable[[], object]) -> CellResult:
        started = time.monotonic()
        value: object = None
        error: CellError | None = None
        try:
            value = work()
        except (CodeExecutionError, SyntaxError) as raised:
            error = next(
                (output for output in reversed(self._interpreter.outputs) if isinstance(output, CellError)), None
            )
            if error is None or not (isinstance(raised, SyntaxError) or str(raised).startswith(error.summary)):
                name, _, message = str(raised).partition("\n")[0].removesuffix("; variables kept").partition(": ")
                error = CellError(name, message, "" if error is None else error.traceback)
        except CodeInterpreterError as raised:
            cause = raised.__cause__
            raise (cause if isinstance(cause, KernelError) else KernelError(str(raised))) from raised
        submission = value.output if isinstance(value, FinalOutput) else None
        outputs = tuple(self._interpreter.outputs)
        return CellResult(outputs, value, error, submission, time.monotonic() - started)


class AttachedClient(InterpreterClient):
    """Runs cells in a session whose host is gone, as its host.

    Raises:
        SessionNotFound: If nothing is left of the session.
    """

    def __init__(self, session_id: str) -> None:
        early: list[Output] = []  # of the last cell, which is not always shown
        try:
            interpreter = KernelInterpreter.attach(session_id, max_output_chars=None, on_output=early.append)
        except CodeInterpreterError as error:
            raise SessionNotFound(str(error.__cause__ or error)) from error
        super().__init__(interpreter)
        self._early_outputs: list[Output] | None = early

    def __enter__(self) -> AttachedClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._interpreter.detach()

    def run(
        self,
        code: str,
        variables: Mapping[str, object] | None = None,
        *,
        timeout_s: float | None = None,
        on_output: Callable[[Output], None] | None = None,
    ) -> CellResult:
        """Run one cell, after the one that ran when the session was attached; see :meth:`SessionClient.run`."""
        if self._early_outputs is not None:
            self._early_outputs = None
            with contextlib.suppress(CodeInterpreterError, SyntaxError):
                self._interpreter.resume()
        return super().run(code, variables, timeout_s=timeout_s, on_output=on_output)

    def last_cell(self, on_output: Callable[[Output], None]) -> CellResult:
        """Wait for the cell that ran when the session was attached, and return its result.

        Raises:
            KernelError: If the session is over.
        """
        early, self._early_outputs = self._early_outputs or [], None
        self._interpreter.on_output = on_output
        for output in early:
            on_output(output)
        return self._result_of(self._interpreter.resume)
