"""Session files, by which other processes of the same user find sessions.

There is one file per session in Jupyter's runtime folder: ``daytona-kernel-ID.json``, mode 0600, with the relay's
secret and the kernel's key. It is deleted when the session ends.
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
    """The content of a session file."""

    id: str
    pid: int  # of the host process; 0 after a detach
    mark: str  # start time of that process, see transport/process_identity.py
    started: float  # seconds since the epoch
    kernel: str
    connection_file: str  # of the host; invalid after the host process has ended
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
        """Return whether the host process of the session is alive."""
        return self.pid > 0 and process_alive(self.pid, self.mark)

    @property
    def path(self) -> Path:
        """The path of the session file."""
        return _folder() / f"daytona-kernel-{self.id}.json"

    def write(self) -> None:
        """Write the session file atomically.

        Raises:
            OSError: If it cannot be written.
        """
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(f".{os.getpid()}.tmp")
        unfinished.unlink(missing_ok=True)  # a file of an earlier process with the same id, or a link
        with open(unfinished, "x", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            json.dump(asdict(self), file)
        unfinished.replace(self.path)

    def delete(self) -> None:
        """Delete the session file. Further calls do nothing."""
        with contextlib.suppress(OSError):
            self.path.unlink()

    def touch(self) -> None:
        """Update the file's modification time; do nothing if the file is gone."""
        with contextlib.suppress(OSError):
            os.utime(self.path)

    @property
    def last_seen(self) -> float:
        """Return when the host last updated the file, in seconds since the epoch."""
        try:
            return self.path.stat().st_mtime
        except OSError:
            return self.started

    def remove_endpoints(self) -> None:
        """Delete the local endpoints of a host process that was killed."""
        folder = Path(self.connection_file).parent
        if folder.name.startswith(ENDPOINTS_PREFIX) and not self.host_lives:
            shutil.rmtree(folder, ignore_errors=True)

    def clear_host(self) -> None:
        """Record that no process hosts the session."""
        self.pid, self.mark = 0, ""
        with contextlib.suppress(OSError):
            self.write()


def find_session(session_id: str) -> SessionRecord:
    """Return the record of a session.

    Raises:
        SessionNotFound: If there is no session with this id.
    """
    for record in list_records():
        if record.id == session_id:
            return record
    if _NAME.fullmatch(name := f"daytona-kernel-{session_id}.json") and (owner := _owner(_folder() / name)) is not None:
        raise SessionNotFound(
            f"session {session_id} belongs to another user ({owner}), and only that user can access it"
        )
    known = ", ".join(record.id for record in list_records()) or "none"
    raise SessionNotFound(f"there is no session {session_id!r}; those on this machine: {known}")


def list_records() -> list[SessionRecord]:
    """Return the records of this user's sessions on this machine, newest first."""
    found = []
    with contextlib.suppress(OSError):
        for path in _folder().iterdir():
            if _NAME.fullmatch(path.name):
                record = _read(path)
                if record is not None:
                    found.append(record)
    return sorted(found, key=lambda record: record.started, reverse=True)


def forget_sandboxes(sandbox_ids: Collection[str]) -> None:
    """Delete the files of sessions whose sandboxes were deleted; no process can attach to them."""
    for record in list_records():
        if record.sandbox.get("id") in sandbox_ids and not record.host_lives:
            record.delete()
            record.remove_endpoints()


def _owner(path: Path) -> str | None:
    """Return the name of the user that owns a record, or None for the current user."""
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
        # do not follow a link, and do not block on a FIFO
        with open(path, opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)) as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_size > _MAX_BYTES:
                return None
            fields = json.loads(file.read(_MAX_BYTES))
        if fields.get("version") != _VERSION or not all(type(fields.get(name)) in of for name, of in _TYPES.items()):
            return None
        record = SessionRecord(**fields)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None  # incomplete, or of another version
    return record if record.path.name == path.name else None


def _folder() -> Path:
    return Path(jupyter_runtime_dir())
