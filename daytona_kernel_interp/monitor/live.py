"""``live()``: a running session of this machine, inspected from another process or notebook.

Inspections go through the Unix socket of the session's host, because only the host can also ask the relay. Values and
cells go through the kernel's own channels, with :class:`.shared_client.SharedClient`.
"""

from __future__ import annotations

import html
import json
import keyword
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import errors
from ..codec import values
from ..errors import KernelError, SessionNotFound, TunnelLost
from ..formatting import duration
from ..sandboxes.select import adopt
from ..session.monitor_server import SOCKET_NAME
from ..session.session_file import SessionRecord, find_session, list_records
from ..wire.protocol_errors import RemoteProtocolError
from .inspection import Inspection, clean, parse_inspection
from .shared_client import SharedClient

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..client.cell_result import CellResult
    from ..client.outputs import Output
    from .widget import SessionView

_ANSWER_S = 15.0
_MAX_ANSWER_BYTES = 8 << 20


def live(
    session_id: str | None = None,
    *,
    write: bool = False,
    execution_timeout: float | None = None,
    on_output: Callable[[Output], None] | None = None,
) -> Live:
    """Return a view of a running session of this user on this machine: of ``session_id``, or of the newest.

    The view shows what ``interpreter.inspect()`` shows, at the time when it is displayed. Reading changes nothing in
    the session.

    Args:
        session_id: The session's id; None: the newest session.
        write: Whether the view can also run cells, which see and change the session's variables.
        execution_timeout: Seconds after which a cell of this view is interrupted; None: no limit.
        on_output: Called with each output of a cell of this view as it arrives.

    Raises:
        SessionNotFound: If there is no such session, or its host is gone; the text says since when and what is left.
    """
    note = ""
    if session_id is not None:
        record = find_session(session_id)
        if not record.host_lives:
            raise SessionNotFound(_stale(record))
    else:
        found = list_records()
        alive = [record for record in found if record.host_lives]
        if not alive:
            last = f" {_stale(found[0])}" if found else ""
            raise SessionNotFound(f"No session is alive on this machine: start a KernelInterpreter first.{last}")
        record = alive[0]
        if len(alive) > 1:
            note = f"Session {record.id}, the newest of {len(alive)}: {', '.join(each.id for each in alive)}."
    return Live(record, write=write, note=note, execution_timeout=execution_timeout, on_output=on_output)


class Live:
    """A running session of another process; :func:`live` creates one.

    Attributes:
        execution_timeout: Seconds after which a cell is interrupted; None: no limit.
        on_output: Called with each output of a cell as it arrives, or None.
    """

    def __init__(
        self,
        record: SessionRecord,
        *,
        write: bool,
        note: str = "",
        execution_timeout: float | None = None,
        on_output: Callable[[Output], None] | None = None,
    ) -> None:
        self._record, self._write, self._note = record, write, note
        self.execution_timeout, self.on_output = execution_timeout, on_output

    @property
    def session_id(self) -> str:
        """The session's id."""
        return self._record.id

    def inspect(self, name: str | None = None, *, private: bool = False) -> Inspection:
        """Return the session's variables and its running cell, or one variable; as ``KernelInterpreter.inspect``.

        Raises:
            ValueError: If ``name`` is not a string.
            NameError: If there is no variable ``name``.
            KernelError: If the session's host or kernel is gone, or does not answer.
        """
        if name is not None and not isinstance(name, str):
            raise ValueError(f"inspect() takes the name of one variable, or nothing; not {name!r}.")
        answer = self._request({"op": "look", "name": name})
        if answer.get("missing") is True:
            raise NameError(f"name {name!r} is not defined in session {self.session_id}")
        found = parse_inspection(answer, self.session_id, name, private=private)
        return found.noted(self._note or f"Session {self.session_id}.")

    def follow(self, since: int = 0) -> dict[str, object]:
        """Return the host's unchecked answer: an inspection, and the cells that changed after ``since``.

        :meth:`view` uses it.

        Raises:
            KernelError: As for :meth:`inspect`.
        """
        return self._request({"op": "follow", "since": since})

    def get(self, name: str) -> Any:
        """Return a copy of a variable; only while no cell runs.

        The errors have the classes of those that ``KernelInterpreter.get`` raises for the same mistake.

        Raises:
            ValueError: If ``name`` is not an identifier.
            NameError: If the session has no variable of this name.
            TypeError: If the value cannot leave the sandbox, or a cell is running.
            KernelError: If the session's host or kernel is gone, or does not answer.
        """
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"get() takes the name of one variable, not {name!r}.")
        with SharedClient(self._record) as client:
            answer, buffers = client.request_control(
                {"op": "inspect", "name": name, "value": True, "max_bytes": self._record.max_value_bytes}
            )
        if answer.get("missing") is True:
            raise NameError(f"name {name!r} is not defined in session {self.session_id}")
        if "refused" in answer:
            raise TypeError(clean(str(answer["refused"]), 1000))
        try:
            return values.loads(buffers)
        except RemoteProtocolError as error:
            raise TypeError(f"the value that the sandbox sent for {name!r} cannot be decoded: {error}") from error

    def run(self, code: str, variables: Mapping[str, object] | None = None) -> CellResult:
        """Run a cell in the session, behind the running one, and return its result; as ``KernelInterpreter.run``.

        The variables of the cell stay in the session. The host's tools cannot be called.

        Raises:
            PermissionError: If the view is read-only.
            ValueError: If a variable's name is not an identifier.
            TypeError: If a variable cannot be sent.
            KernelError: If the session's host or kernel is gone, or does not answer.
        """
        if not self._write:
            raise PermissionError(
                f"this view of session {self.session_id} is read-only: use live({self.session_id!r}, write=True)"
            )
        for name in variables or {}:
            if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
                raise ValueError(f"Invalid variable name: {name!r}. It must be a Python identifier.")
        with SharedClient(self._record) as client:
            try:
                return client.run(code, variables, timeout_s=self.execution_timeout, on_output=self.on_output)
            except (values.UnsupportedValue, values.ValueTooLarge) as error:
                raise TypeError(f"The variables cannot be sent to the kernel: {error}.") from error

    def view(self) -> SessionView:
        """Return a widget that follows the session in JupyterLab (extra ``jupyter``)."""
        from .widget import SessionView

        return SessionView(self.follow, self.session_id)

    def __repr__(self) -> str:
        """Return an inspection of this moment as text."""
        return str(self._inspected())

    def _repr_html_(self) -> str:
        found = self._inspected()
        return f"<div>{html.escape(found)}</div>" if isinstance(found, str) else found._repr_html_()

    def _inspected(self) -> Inspection | str:
        """Return an inspection of this moment, or why there is none."""
        try:
            return self.inspect()
        except KernelError as error:
            return f"Session {self.session_id}: {error}"

    def _request(self, request: dict[str, object]) -> dict[str, object]:
        """Return the host's answer to one request; see :mod:`..session.monitor_server`."""
        path = Path(self._record.connection_file).parent / SOCKET_NAME
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(_ANSWER_S)
                connection.connect(str(path))
                connection.sendall(json.dumps(request).encode("ascii") + b"\n")
                with connection.makefile("rb") as lines:
                    line = lines.readline(_MAX_ANSWER_BYTES)
            if not line.endswith(b"\n"):
                raise ValueError("its host sent an incomplete answer")
            answer = json.loads(line)
        except (OSError, ValueError, RecursionError) as error:
            raise self._ended_error(error) from error
        if not isinstance(answer, dict):
            raise KernelError("the session's host sent no answer")
        if "error" in answer:
            raise _host_error(answer)
        return answer

    def _ended_error(self, error: Exception) -> KernelError:
        """Return an error that says why the session cannot be reached."""
        try:
            record = find_session(self.session_id)
        except SessionNotFound:
            return SessionNotFound("the session is over: its host closed it")
        if not record.host_lives:
            return SessionNotFound(_stale(record))
        reason = f"closed the connection: {error}"
        if isinstance(error, TimeoutError):
            reason = f"did not answer within {_ANSWER_S:g} s"
        return TunnelLost(f"process {record.pid}, the session's host, {reason}")


def _host_error(answer: Mapping[str, object]) -> KernelError:
    """Return the error that the session's host reports, of the same class."""
    name = answer.get("class")
    cls = getattr(errors, name, None) if isinstance(name, str) else None
    made = cls if isinstance(cls, type) and issubclass(cls, KernelError) else KernelError
    return made(clean(str(answer["error"]), 2000))


def _stale(record: SessionRecord) -> str:
    """Return the sentences that describe a session without a host."""
    seen = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.last_seen))
    ago = duration(max(0.0, time.time() - record.last_seen))
    if record.pid > 0:
        fate = f"its host, process {record.pid}, is gone; its last heartbeat was at {seen}, {ago} ago"
    else:
        fate = f"its host detached from it at {seen}, {ago} ago"
    kind = str(record.sandbox.get("kind", "?"))
    # The processes of a local sandbox were checked. A request to another kind could wake it, so none was made.
    may = "still lives" if kind == "local" else "may still live"
    left = f"Its sandbox ({kind}) {may}: KernelInterpreter.attach({record.id!r}) takes it over."
    try:
        if not adopt(record.sandbox).may_be_alive():
            left = "Its sandbox is gone too."
    except KernelError:
        left = "Nothing is left of its sandbox."
    return f"Session {record.id} has no host: {fate}. {left}"
