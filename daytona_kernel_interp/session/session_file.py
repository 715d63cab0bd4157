"""Records of sessions, by which another process of this user finds them.

One file a session in Jupyter's runtime folder, ``daytona-kernel-ID.json``, mode 0600: it has the relay's secret and the
kernel's key. It goes when the session ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import stat
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_core.paths import jupyter_runtime_dir

from ..errors import SessionNotFound
from ..transport.process_identity import process_alive, process_start_mark
from ..tunnel.local_endpoints import ENDPOINTS_PREFIX

if TYPE_CHECKING:
    from collections.abc import Collection

_VERSION = 1
_MAX_BYTES = 1 << 20
_TYPES = {
    **dict.fromkeys(("id", "mark", "kernel", "connection_file", "key"), (str,)),
    "pid": (int,),
    "started": (int, float),
    "sandbox": (dict,),
    "max_value_bytes": (int, type(None)),
}
_NAME = re.compile(r"daytona-kernel-([0-9a-f]{8})\.json")


@dataclass
class SessionRecord:
    """What is known of a session."""

    id: str
    pid: int  # of its host; 0: it was let go
    mark: str  # of that process, see link/processes.py
    started: float  # seconds since the epoch
    kernel: str
    connection_file: str  # the host's own; of no use when the host is gone
    sandbox: dict[str, Any] = field(repr=False)
    key: str = field(repr=False)
    max_value_bytes: int | None = None
    version: int = _VERSION

    @classmethod
    def of_this_process(
        cls,
        session_id: str,
        *,
        kernel: str,
        key: str,
        connection_file: str,
        sandbox: dict[str, Any],
        max_value_bytes: int | None = None,
    ) -> SessionRecord:
        """Return the record of a session that this process hosts."""
        pid = os.getpid()
        return cls(
            id=session_id,
            pid=pid,
            mark=process_start_mark(pid),
            started=time.time(),
            kernel=kernel,
            connection_file=connection_file,
            sandbox=sandbox,
            key=key,
            max_value_bytes=max_value_bytes,
        )

    @property
    def host_lives(self) -> bool:
        """Whether the process that the session belongs to lives."""
        return self.pid > 0 and process_alive(self.pid, self.mark)

    @property
    def path(self) -> Path:
        """Where the record is written."""
        return _folder() / f"daytona-kernel-{self.id}.json"

    def write(self) -> None:
        """Write the record, whole or not at all.

        Raises:
            OSError: If it cannot be written.
        """
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(f".{os.getpid()}.tmp")
        unfinished.unlink(missing_ok=True)  # of an earlier process with our id, or a link to somewhere
        with open(unfinished, "x", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            json.dump(asdict(self), file)
        unfinished.replace(self.path)

    def delete(self) -> None:
        """Delete the record. Again does nothing."""
        with contextlib.suppress(OSError):
            self.path.unlink()

    def touch(self) -> None:
        """Leave a sign of life; where the record is gone, nothing happens."""
        with contextlib.suppress(OSError):
            os.utime(self.path)

    @property
    def last_seen(self) -> float:
        """When its host left a sign of life last, in seconds since the epoch."""
        try:
            return self.path.stat().st_mtime
        except OSError:
            return self.started

    def remove_endpoints(self) -> None:
        """Delete the local endpoints that a host which was killed left behind."""
        folder = Path(self.connection_file).parent
        if folder.name.startswith(ENDPOINTS_PREFIX) and not self.host_lives:
            shutil.rmtree(folder, ignore_errors=True)

    def clear_host(self) -> None:
        """Say that no process hosts the session now."""
        self.pid, self.mark = 0, ""
        with contextlib.suppress(OSError):
            self.write()


def find_session(session_id: str) -> SessionRecord:
    """Return the record of a session.

    Raises:
        SessionNotFound: If there is none.
    """
    for record in list_records():
        if record.id == session_id:
            return record
    if _NAME.fullmatch(name := f"daytona-kernel-{session_id}.json") and (owner := _owner(_folder() / name)) is not None:
        raise SessionNotFound(f"session {session_id} belongs to another user ({owner}), who alone can reach it")
    known = ", ".join(record.id for record in list_records()) or "none"
    raise SessionNotFound(f"there is no session {session_id!r}; those on this machine: {known}")


def list_records() -> list[SessionRecord]:
    """Return the records of this user's sessions on this machine, the newest first."""
    found = []
    with contextlib.suppress(OSError):
        for path in _folder().iterdir():
            if _NAME.fullmatch(path.name):
                record = _read(path)
                if record is not None:
                    found.append(record)
    return sorted(found, key=lambda record: record.started, reverse=True)


def forget_sandboxes(sandbox_ids: Collection[str]) -> None:
    """Delete the records of sessions whose sandboxes were deleted: nobody can take them up any more."""
    for record in list_records():
        if record.sandbox.get("id") in sandbox_ids and not record.host_lives:
            record.delete()
            record.remove_endpoints()


def _owner(path: Path) -> str | None:
    """Return the name of the user that a record belongs to, if that is not this one."""
    try:
        owner = path.lstat().st_uid
    except OSError:
        return None
    if owner == os.getuid():
        return None
    try:
        return pwd.getpwuid(owner).pw_name
    except KeyError:
        return f"uid {owner}"


def _read(path: Path) -> SessionRecord | None:
    try:
        # neither through a link, nor waiting for a FIFO's writer
        with open(path, opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)) as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_size > _MAX_BYTES:
                return None
            fields = json.loads(file.read(_MAX_BYTES))
        if fields.get("version") != _VERSION or not all(type(fields.get(name)) in of for name, of in _TYPES.items()):
            return None
        record = SessionRecord(**fields)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None  # half of one, or of another version: not ours to judge
    return record if record.path.name == path.name else None


def _folder() -> Path:
    return Path(jupyter_runtime_dir())
