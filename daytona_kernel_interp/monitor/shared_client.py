"""Sessions that another process started, for the command line: listed, joined or taken up.

A session whose host lives is joined as one more Jupyter client; its host notices nothing. One whose host is gone is
taken up, and left to live on afterwards.
"""

from __future__ import annotations

import contextlib
import queue
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import zmq
from jupyter_client.blocking.client import BlockingKernelClient

from ..client.messages import max_message_bytes
from ..client.output_collector import OutputArrived, OutputCollector
from ..errors import KernelError, SessionNotFound
from ..sandboxes.select import adopt
from ..session.session_file import SessionRecord, find_session, list_records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..client.outputs import Output

_READY_S = 10.0
_INTERRUPT_S = 10.0
_PROBE_S = 0.1  # between questions until the first is heard of
_ANSWER_S = 120.0  # for a large value
_POLL_S = 0.2  # between looks whether the time is over, while nothing comes


@dataclass(frozen=True)
class SessionSummary:
    """A line of the list of sessions."""

    id: str
    host: int | None  # its process; None: gone
    sandbox: str  # kind of sandbox
    started: float  # seconds since the epoch


class CellFailed(Exception):
    """A cell did not end well; ``outputs`` are what it showed, the message says how it ended."""

    def __init__(self, message: str, outputs: list[Output]) -> None:
        super().__init__(message)
        self.outputs = outputs


class SessionClient(Protocol):
    """A session that may be given cells."""

    def run(self, code: str, timeout_s: float | None = None) -> Any:
        """Run one cell and return what it submitted, if it did; what it shows is reported as it comes.

        Raises:
            CellFailed: If it raised, was interrupted, or the session is over.
            KeyboardInterrupt: At Ctrl-C, when the cell was interrupted.
        """

    def last_cell(self) -> None:
        """Wait for the cell that ran when the session was taken up, and report what it shows.

        Raises:
            CellFailed, KeyboardInterrupt: As for :meth:`run`.
        """


def list_sessions() -> list[SessionSummary]:
    """Return this user's sessions on this machine, the newest first; records of what is gone are deleted."""
    listed = []
    for record in list_records():
        if record.host_lives or _sandbox_lives(record):
            host = record.pid if record.host_lives else None
            listed.append(SessionSummary(record.id, host, str(record.sandbox.get("kind", "?")), record.started))
        else:
            record.delete()
            record.remove_endpoints()
    return listed


@contextlib.contextmanager
def open_session(session_id: str, on_output: Callable[[Output], None]) -> Iterator[SessionClient]:
    """Join the session, or take it up if its host is gone.

    Raises:
        SessionNotFound: If there is no such session, or nothing of it is left.
    """
    record = find_session(session_id)
    if record.host_lives:
        client = SharedClient(record, on_output)
        try:
            yield client
        finally:
            client.close()
        return
    host = _AttachedClient(session_id, on_output)
    try:
        yield host
    finally:
        host.close()


def _sandbox_lives(record: SessionRecord) -> bool:
    try:
        return adopt(record.sandbox).may_be_alive()
    except KernelError:
        return True  # of a kind that this version does not know: not ours to judge


class _AttachedClient:
    """A session taken up."""

    def __init__(self, session_id: str, on_output: Callable[[Output], None]) -> None:
        from .. import KernelInterpreter
        from ..interpreter.interpreter import CodeInterpreterError, FinalOutput

        self._errors, self._submission = (CodeInterpreterError, SyntaxError), FinalOutput
        self._early_outputs: list[Output] | None = []  # of the last cell, which nobody may want to see
        self._on_output = on_output
        try:
            self._interpreter = KernelInterpreter.attach(session_id, max_output_chars=None, on_output=self._take)
        except CodeInterpreterError as error:
            raise SessionNotFound(str(error.__cause__ or error)) from error

    def run(self, code: str, timeout_s: float | None = None) -> Any:
        if self._early_outputs is not None:
            with contextlib.suppress(*self._errors):
                self._interpreter.resume()
            self._early_outputs = None
        self._interpreter.execution_timeout = timeout_s
        result = self._run_on_loop(lambda: self._interpreter.execute(code))
        return result.output["output"] if isinstance(result, self._submission) else None

    def last_cell(self) -> None:
        early, self._early_outputs = self._early_outputs or [], None
        for output in early:
            self._on_output(output)
        self._run_on_loop(self._interpreter.resume)

    def close(self) -> None:
        self._interpreter.detach()

    def _take(self, output: Output) -> None:
        if self._early_outputs is None:
            self._on_output(output)
        else:
            self._early_outputs.append(output)

    def _run_on_loop(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except self._errors as error:
            raise CellFailed(str(error), self._interpreter.outputs) from error


class SharedClient:
    """A session joined.

    Raises:
        SessionNotFound: If its kernel does not answer.
    """

    def __init__(self, record: SessionRecord, on_output: Callable[[Output], None]) -> None:
        self._on_output = on_output
        self._started_cells = False
        self._client = BlockingKernelClient()
        if (limit := max_message_bytes(record.max_value_bytes)) is not None:
            self._client.context.setsockopt(zmq.MAXMSGSIZE, limit)
        try:
            self._client.load_connection_file(record.connection_file)
            self._client.start_channels(stdin=False)
            self._subscribe()
        except (OSError, RuntimeError) as error:
            self._client.stop_channels()
            raise SessionNotFound(f"the kernel of session {record.id} does not answer: {error}") from error

    def _subscribe(self) -> None:
        """Return when what the kernel publishes arrives. Asked on control: a cell that runs keeps shell waiting."""
        request_ids = set()
        for _ in range(int(_READY_S / _PROBE_S)):
            message = self._client.session.msg("kernel_info_request", {})
            request_ids.add(message["header"]["msg_id"])
            self._client.control_channel.send(message)
            with contextlib.suppress(queue.Empty):
                while True:
                    if self._client.get_iopub_msg(timeout=_PROBE_S)["parent_header"].get("msg_id") in request_ids:
                        return
        raise RuntimeError(f"nothing came within {_READY_S:g} s; native code may hold it")

    def request_control(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
        """Ask the kernel on control, see ``wire.looks``; return its answer and the buffers of that.

        Raises:
            SessionNotFound: If it does not answer.
        """
        message = self._client.session.msg("comm_msg", {"comm_id": "", "data": request})
        self._client.control_channel.send(message)
        end = time.monotonic() + _ANSWER_S
        while (left_s := end - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                answer = self._client.get_control_msg(timeout=min(_POLL_S, left_s))
                data = answer["content"].get("data")
                if answer["parent_header"].get("msg_id") == message["header"]["msg_id"] and isinstance(data, dict):
                    return data, answer["buffers"]
            if not self._client.is_alive():
                break
        raise SessionNotFound("the session's kernel does not answer: its host is gone, or native code holds the kernel")

    def run(self, code: str, timeout_s: float | None = None) -> Any:
        """Run one cell; see :meth:`SessionClient.run`."""
        # Not to stop on an error: the kernel would drop the cells that wait behind it, the host's own too.
        cell = OutputCollector(
            self._client.execute(code, allow_stdin=False, stop_on_error=False), max_output_chars=None
        )
        self._started_cells = False
        try:
            in_time = self._follow_cell(cell, timeout_s)
            if not in_time:
                self._interrupt(cell)
        except KeyboardInterrupt:
            self._interrupt(cell)
            raise
        if not in_time:
            raise CellFailed(f"the cell was interrupted after {timeout_s:g} s", cell.outputs)
        if cell.error is not None:
            raise CellFailed(cell.error.summary, cell.outputs)

    def last_cell(self) -> None:
        """Nothing: its host hears of it."""

    def close(self) -> None:
        """Leave; the session notices nothing."""
        self._client.stop_channels()

    def _follow_cell(self, cell: OutputCollector, timeout_s: float | None) -> bool:
        """Take messages until the cell is over, or return False after ``timeout_s``."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while not cell.finished:
            wait_s = _POLL_S if end is None else min(_POLL_S, end - time.monotonic())
            if wait_s <= 0:
                return False
            try:
                self._take(cell, wait_s)
            except queue.Empty:
                if not self._client.is_alive():
                    raise CellFailed("the session's kernel or its host is gone", cell.outputs) from None
        return True

    def _take(self, cell: OutputCollector, wait_s: float) -> None:
        """Take one message.

        Raises:
            queue.Empty: If none came.
        """
        if cell.idle:
            message = self._client.get_shell_msg(timeout=wait_s)
            if _belongs_to(cell, message) and message["msg_type"] == "execute_reply":
                cell.receive_reply(message)
            return
        message = self._client.get_iopub_msg(timeout=wait_s)
        self._started_cells = self._started_cells or _belongs_to(cell, message)
        for event in cell.receive_iopub(message) if _belongs_to(cell, message) else ():
            if isinstance(event, OutputArrived):
                self._on_output(event.output)

    def _interrupt(self, cell: OutputCollector) -> None:
        content = {"comm_id": "", "data": {"op": "withhold" if self._started_cells else "raise", "cell": cell.msg_id}}
        self._client.control_channel.send(self._client.session.msg("comm_msg", content))
        if self._started_cells:  # else it waits behind another's cell, which is not ours to interrupt
            self._client.control_channel.send(self._client.session.msg("interrupt_request", {}))
            self._follow_cell(cell, _INTERRUPT_S)


def _belongs_to(cell: OutputCollector, message: dict[str, Any]) -> bool:
    return bool(message["parent_header"].get("msg_id") == cell.msg_id)
