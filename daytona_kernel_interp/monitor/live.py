"""``live()``: a running session of this machine, seen from another process or notebook. Knows no DSPy."""

from __future__ import annotations

import contextlib
import html
import json
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import KernelError, SessionNotFound, TunnelLost
from ..sandboxes.select import adopt
from ..session.session_file import SessionRecord, find_session, list_records
from .inspection import Inspection, clean, parse_inspection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..client.outputs import Output
    from .shared_client import SharedClient
    from .widget import SessionView

_SOCKET_NAME = "live"  # see monitor_server.py
_ANSWER_S = 15.0
_MAX_ANSWER_BYTES = 8 << 20


def live(session_id: str | None = None, *, write: bool = False) -> Live:
    """Return a view of a running session of this user on this machine; of the newest, unless an id is given.

    It shows what ``interpreter.inspect()`` shows, whenever it is displayed, and what it can do leaves no trace in the
    session. With ``write=True`` it can also run cells in it, which see and change the same variables.

    Raises:
        SessionNotFound: If there is no such session, or its host is gone; the text says since when, and what is left.
    """
    if session_id is not None:
        record = find_session(session_id)
        if not record.host_lives:
            raise SessionNotFound(_stale(record))
        return Live(record, write=write)
    found = list_records()
    alive = [record for record in found if record.host_lives]
    if not alive:
        last = f" {_stale(found[0])}" if found else ""
        raise SessionNotFound(f"No session is alive on this machine: start a KernelInterpreter first.{last}")
    note = f"Session {alive[0].id}, the newest of {len(alive)}: {', '.join(record.id for record in alive)}."
    return Live(alive[0], write=write, note=note if len(alive) > 1 else "")


class Live:
    """A running session, seen from outside; :func:`live` makes one."""

    def __init__(self, record: SessionRecord, *, write: bool, note: str = "") -> None:
        self._record, self._write, self._note = record, write, note

    @property
    def session_id(self) -> str:
        """The session's id."""
        return self._record.id

    def inspect(self, name: str | None = None, *, private: bool = False) -> Inspection:
        """Return what is in the session and what it runs now, or one variable; as ``KernelInterpreter.inspect``.

        Raises:
            KernelError: If its host or its kernel is gone, or does not answer.
            NameError: If there is no variable ``name``.
        """
        answer = self._request({"op": "look", "name": name})
        if answer.get("missing") is True:
            raise NameError(f"name {name!r} is not defined in session {self.session_id}")
        found = parse_inspection(answer, self.session_id, name, private=private)
        return found.noted(self._note or f"Session {self.session_id}.")

    def follow(self, since: int = 0) -> dict[str, Any]:
        """Return what :meth:`inspect` does, unchecked, and the steps that changed after ``since``; for :meth:`view`.

        Raises:
            KernelError: As for :meth:`inspect`.
        """
        return self._request({"op": "follow", "since": since})

    def get(self, name: str) -> Any:
        """Return a copy of a variable, while no cell runs.

        Raises:
            KernelError: If its host or its kernel is gone, or does not answer.
            NameError: If there is none of that name.
            TypeError: If it cannot leave the sandbox, or a cell is running.
        """
        from ..codec import values
        from ..wire.protocol_errors import RemoteProtocolError

        with self._joined(lambda output: None) as client:
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
            raise TypeError(f"what the sandbox sent of {name!r} cannot be decoded: {error}") from error

    def run(self, code: str, on_output: Callable[[Output], None], timeout_s: float | None = None) -> None:
        """Run a cell in the session, behind the one that runs; ``on_output`` gets what it shows as it comes.

        Raises:
            PermissionError: If the view is read-only.
            visiting.CellFailed: If it raised, was interrupted, or the session is over.
            KernelError: If its host or its kernel is gone, or does not answer.
        """
        if not self._write:
            raise PermissionError(
                f"this view of session {self.session_id} is read-only: live({self.session_id!r}, write=True) is not"
            )
        with self._joined(on_output) as client:
            client.run(code, timeout_s)

    def view(self) -> SessionView:
        """Return a widget that follows the session in JupyterLab (extra ``jupyter``)."""
        from .widget import make_view

        return make_view(self.follow, self.session_id)

    def __repr__(self) -> str:
        """Return what there is now, as text."""
        return self._formatted(str, str)

    def _repr_html_(self) -> str:
        return self._formatted(Inspection._repr_html_, lambda text: f"<div>{html.escape(text)}</div>")

    def _formatted(self, show: Callable[[Inspection], str], otherwise: Callable[[str], str]) -> str:
        try:
            return show(self.inspect())
        except KernelError as error:
            return otherwise(f"Session {self.session_id}: {error}")

    @contextlib.contextmanager
    def _joined(self, on_output: Callable[[Output], None]) -> Iterator[SharedClient]:
        from .shared_client import SharedClient

        client = SharedClient(self._record, on_output)
        try:
            yield client
        finally:
            client.close()

    def _request(self, request: dict[str, Any]) -> dict[str, Any]:
        path = Path(self._record.connection_file).parent / _SOCKET_NAME
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(_ANSWER_S)
                connection.connect(str(path))
                connection.sendall(json.dumps(request).encode("ascii") + b"\n")
                answer = json.loads(_read_line(connection))
        except (OSError, ValueError, RecursionError) as error:
            raise self._ended_error(error) from error
        if not isinstance(answer, dict) or "error" in answer:
            text = answer.get("error") if isinstance(answer, dict) else "its host gave no answer"
            raise KernelError(clean(str(text), 2000))
        return answer

    def _ended_error(self, error: Exception) -> KernelError:
        """Return the error that says why the session cannot be reached any more."""
        try:
            record = find_session(self.session_id)
        except SessionNotFound:
            return SessionNotFound("the session is over: its host ended it")
        if not record.host_lives:
            return SessionNotFound(_stale(record))
        why = f"does not answer within {_ANSWER_S:g} s" if isinstance(error, TimeoutError) else f"breaks off: {error}"
        return TunnelLost(f"process {record.pid}, the session's host, {why}")


def _read_line(connection: socket.socket) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while piece := connection.recv(1 << 16):
        pieces.append(piece)
        size += len(piece)
        if piece.endswith(b"\n"):
            return b"".join(pieces)
        if size > _MAX_ANSWER_BYTES:
            break
    raise ValueError("its host broke the answer off")


def _stale(record: SessionRecord) -> str:
    """Return what there is to say of a session without a host."""
    seen = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.last_seen))
    ago = _ago(max(0.0, time.time() - record.last_seen))
    if record.pid > 0:
        fate = f"its host, process {record.pid}, is gone; its last sign of life was at {seen}, {ago} ago"
    else:
        fate = f"its host let go of it at {seen}, {ago} ago"
    return f"Session {record.id} has no host: {fate}. {_remaining_text(record)}"


def _remaining_text(record: SessionRecord) -> str:
    kind = str(record.sandbox.get("kind", "?"))
    try:
        lives = adopt(record.sandbox).may_be_alive()
    except KernelError:
        return "Nothing is left of its sandbox."
    if not lives:
        return "Its sandbox is gone too."
    # Of a local one the processes were looked at; others would have to be asked, which may wake them.
    may = "still lives" if kind == "local" else "may still live"
    return f"Its sandbox ({kind}) {may}: KernelInterpreter.attach({record.id!r}) takes it up."


def _ago(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
