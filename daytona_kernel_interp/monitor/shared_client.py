"""The sessions on this machine, and a client that joins one of another process.

The client is one more Jupyter client of the session's kernel: its cells share the variables, and the session's host
keeps the session.
"""

from __future__ import annotations

import contextlib
import datetime
import queue
import time
from typing import TYPE_CHECKING, Any

import zmq
from jupyter_client.blocking.client import BlockingKernelClient

from ..client.cell_result import CellResult
from ..client.messages import max_message_bytes
from ..client.output_collector import OutputArrived, OutputCollector
from ..client.outputs import CellError
from ..codec import values
from ..codec.libraries import has_arrow
from ..errors import KernelError, SessionNotFound, TunnelLost
from ..sandboxes.select import adopt
from ..session.session_file import SessionRecord, list_records
from ..wire.comm import PREAMBLE_KEY, Preamble
from ..wire.protocol_errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..client.outputs import Output

_READY_S = 10.0
_INTERRUPT_S = 10.0
_PROBE_S = 0.1  # between probes until the first answer arrives
_ANSWER_S = 120.0  # for a large value
_POLL_S = 0.2  # between checks of deadline and heartbeat while no message arrives


def list_sessions() -> list[SessionRecord]:
    """Return this user's sessions on this machine, the newest first, and delete the records of ended ones."""
    listed = []
    for record in list_records():
        if record.host_lives or _sandbox_lives(record):
            listed.append(record)
        else:
            record.delete()
            record.remove_endpoints()
    return listed


def session_row(record: SessionRecord) -> tuple[str, str, str, str]:
    """Return the texts of a table's row: id, host, kind of sandbox and start time."""
    host = f"process {record.pid}" if record.host_lives else "gone"
    started = datetime.datetime.fromtimestamp(record.started).isoformat(" ", "seconds")
    return record.id, host, str(record.sandbox.get("kind", "?")), started


def _sandbox_lives(record: SessionRecord) -> bool:
    try:
        return adopt(record.sandbox).may_be_alive()
    except KernelError:
        return True  # a kind of sandbox that this version does not know: its record must not be deleted


class SharedClient(contextlib.AbstractContextManager["SharedClient"]):
    """One more Jupyter client of a session whose host lives; a context manager, which leaves the session at its end.

    Raises:
        SessionNotFound: If the session's kernel does not answer.
    """

    def __init__(self, record: SessionRecord) -> None:
        self._max_value_bytes = record.max_value_bytes
        self._cell_started = False
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

    def __exit__(self, *_: object) -> None:
        self._client.stop_channels()

    def _subscribe(self) -> None:
        """Wait until published messages arrive. Probes go on control, because a running cell blocks shell.

        Raises:
            RuntimeError: If none arrives in time.
        """
        request_ids = set()
        for _ in range(int(_READY_S / _PROBE_S)):
            request_ids.add(self._send_control("kernel_info_request", {}))
            with contextlib.suppress(queue.Empty):
                while True:
                    if self._client.get_iopub_msg(timeout=_PROBE_S)["parent_header"].get("msg_id") in request_ids:
                        return
        raise RuntimeError(f"no message arrived within {_READY_S:g} s; native code may block it")

    def _send_control(self, kind: str, content: dict[str, Any]) -> str:
        message = self._client.session.msg(kind, content)
        self._client.control_channel.send(message)
        return str(message["header"]["msg_id"])

    def request_control(self, request: dict[str, object]) -> tuple[dict[str, object], list[values.Buffer]]:
        """Send an inspect request on control (see :mod:`..wire.inspect_messages`); return the answer and its buffers.

        Raises:
            SessionNotFound: If the kernel does not answer.
        """
        request_id = self._send_control("comm_msg", {"comm_id": "", "data": request})
        end = time.monotonic() + _ANSWER_S
        while (left_s := end - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                answer = self._client.get_control_msg(timeout=min(_POLL_S, left_s))
                data = answer["content"].get("data")
                if answer["parent_header"].get("msg_id") == request_id and isinstance(data, dict):
                    return data, answer["buffers"]
            if not self._client.is_alive():
                break
        raise SessionNotFound("the session's kernel does not answer: its host is gone, or native code blocks it")

    def run(
        self,
        code: str,
        variables: Mapping[str, object] | None = None,
        *,
        timeout_s: float | None = None,
        on_output: Callable[[Output], None] | None = None,
    ) -> CellResult:
        """Run one cell behind the running one, and return its result; ``on_output`` gets each output as it arrives.

        Ctrl-C and a timeout interrupt the cell, or withdraw it if it still waits; what it shows until its end is
        collected either way.

        Raises:
            UnsupportedValue, ValueTooLarge: If a variable cannot be sent.
            TunnelLost: If the kernel or its host is gone; whether the cell ran is unknown.
            KeyboardInterrupt: At Ctrl-C, after the cell was interrupted.
        """
        started = time.monotonic()
        cell = OutputCollector(self._send(code, variables or {}), max_output_chars=None)
        self._cell_started = False
        try:
            in_time = self._follow_cell(cell, timeout_s, on_output)
            if not in_time:
                self._interrupt(cell, on_output)
        except KeyboardInterrupt:
            self._interrupt(cell, on_output)
            raise
        error = cell.error
        if not in_time:
            traceback = "" if error is None else error.traceback
            limit = f"execution_timeout={timeout_s:g} s"
            error = CellError("TimeoutError", f"the cell was interrupted after {limit}; variables kept", traceback)
        submission = _decode(cell.submission)
        return CellResult(
            outputs=tuple(cell.outputs),
            value=_decode(cell.value),
            error=error,
            submission=submission if isinstance(submission, dict) else None,
            duration_s=time.monotonic() - started,
        )

    def _send(self, code: str, variables: Mapping[str, object]) -> str:
        """Send an execute_request with a preamble and return its message id."""
        preamble = Preamble(
            variables=dict(variables), max_value_bytes=self._max_value_bytes, arrow=has_arrow(), shared=True
        )
        buffers = values.dumps(preamble.to_value(), max_bytes=self._max_value_bytes)
        # After an error the kernel would drop the cells that wait behind this one, the host's own included.
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": False}
        message = self._client.session.msg("execute_request", content, metadata={PREAMBLE_KEY: True})
        self._client.shell_channel.send({**message, "buffers": buffers})
        return str(message["header"]["msg_id"])

    # BlockingKernelClient.execute_interactive() cannot take the place of this loop: it sends no buffers, it waits for
    # ever where the host is gone, and Ctrl-C or its timeout end it before the outputs that follow the interrupt.
    def _follow_cell(
        self, cell: OutputCollector, timeout_s: float | None, on_output: Callable[[Output], None] | None
    ) -> bool:
        """Receive messages until the cell has finished, or return False after ``timeout_s``."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while not cell.finished:
            wait_s = _POLL_S if end is None else min(_POLL_S, end - time.monotonic())
            if wait_s <= 0:
                return False
            try:
                if cell.idle:
                    message = self._client.get_shell_msg(timeout=wait_s)
                    if _belongs_to(cell, message) and message["msg_type"] == "execute_reply":
                        cell.receive_reply(message)
                    continue
                message = self._client.get_iopub_msg(timeout=wait_s)
            except queue.Empty:
                if not self._client.is_alive():
                    raise TunnelLost(
                        "the session's kernel or its host is gone; whether the cell ran is unknown"
                    ) from None
                continue
            if not _belongs_to(cell, message):
                continue
            self._cell_started = True
            for event in cell.receive_iopub(message):
                if isinstance(event, OutputArrived) and on_output is not None:
                    on_output(event.output)
        return True

    def _interrupt(self, cell: OutputCollector, on_output: Callable[[Output], None] | None) -> None:
        content = {"comm_id": "", "data": {"op": "withhold" if self._cell_started else "raise", "cell": cell.msg_id}}
        self._send_control("comm_msg", content)
        if self._cell_started:  # else it waits behind another client's cell, which must not be interrupted
            self._send_control("interrupt_request", {})
            self._follow_cell(cell, _INTERRUPT_S, on_output)


def _decode(buffers: Sequence[values.Buffer] | None) -> object:
    """Return the value in ``buffers``, or None if there is none that can be decoded here."""
    if buffers is not None:
        with contextlib.suppress(RemoteProtocolError):
            return values.loads(buffers)
    return None


def _belongs_to(cell: OutputCollector, message: Mapping[str, Any]) -> bool:
    return bool(message["parent_header"].get("msg_id") == cell.msg_id)
