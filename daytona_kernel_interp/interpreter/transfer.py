"""Values and files moved between host and sandbox without running code: ``get``, ``put``, ``upload``, ``download``."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import unicodedata
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ..codec import values
from ..formatting import printable
from ..wire.protocol_errors import RemoteProtocolError
from .dspy_compat import CodeExecutionError, CodeInterpreterError
from .dspy_errors import InvalidCall, UnreadableValue, VariableNotFound
from .request import build_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ..client.output_collector import OutputCollector
    from .options import CallSettings
    from .session_access import SessionAccess

_CHUNK_BYTES = 8 << 20
MAX_FILES = 100_000  # of one listing, as in guest/kernel/files.py
_MAX_PATH_CHARS = 4096
_BIDI_CONTROLS = frozenset(("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"))


class Transfer:
    """Moves values and files for one call of an interpreter, through requests that run no code.

    Args:
        access: The interpreter's session.
        settings: The settings of the call.
        start: Starts the session, if the call is the first one.
    """

    def __init__(self, access: SessionAccess, settings: CallSettings, start: Callable[[], None]) -> None:
        self._access, self._settings, self._start = access, settings, start
        limit = settings.max_value_bytes
        self._chunk_bytes = _CHUNK_BYTES if limit is None else max(1, min(_CHUNK_BYTES, limit // 2))

    # --- values ---------------------------------------------------------------------------------------

    def get(self, name: str) -> object:
        """Return a copy of a variable of the session."""
        if not isinstance(name, str) or not name.isidentifier():
            raise InvalidCall(f"get() takes the name of one variable, not {name!r}.")
        return self._request("get", name)

    def put(self, variables: Mapping[str, object]) -> None:
        """Bind variables in the session."""
        self._exchange("put", variables, None)

    # --- files ----------------------------------------------------------------------------------------

    def upload(
        self, path: str | os.PathLike[str], to: str | None = None, on_progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Copy a file or a folder into the sandbox."""
        source = Path(path)
        target = PurePosixPath(to if to is not None else source.resolve().name)
        entries = list(_local_entries(source))
        done, total = 0, sum(size or 0 for _, size in entries)
        for name, size in entries:
            there = str(target / name)
            if size is None:
                self._request("upload", {"do": "folder", "path": there})
                continue
            with (source / name).open("rb") as file:
                at = 0
                while (data := file.read(self._chunk_bytes)) or not at:
                    self._request("upload", {"do": "write", "path": there, "at": at, "data": data})
                    at, done = at + len(data), done + len(data)
                    if on_progress is not None:
                        on_progress(done, max(done, total))
                    if not data:
                        break

    def download(
        self, path: str, to: str | os.PathLike[str] | None = None, on_progress: Callable[[int, int], None] | None = None
    ) -> Path:
        """Copy a file or a folder out of the sandbox, and return the copy's path."""
        source = PurePosixPath(path)
        target = Path(to if to is not None else source.name)
        listed = self._request("download", {"do": "list", "path": path})
        entries = _checked_list(listed)
        done, total = 0, sum(size or 0 for _, size in entries)
        _check_space(target, total)
        for name, size in entries:
            here = target / name
            folder = here if size is None else here.parent
            if name and not folder.resolve().is_relative_to(target.resolve()):  # before anything is made there
                raise CodeInterpreterError(f"download(): {folder} is a link out of {target}: remove it first.")
            folder.mkdir(parents=True, exist_ok=True)
            if size is None:
                continue
            unfinished = here.with_name(f".{secrets.token_hex(8)}.part")  # a name that the sandbox cannot guess
            try:
                with unfinished.open("xb") as file:
                    for data in self._read_chunks(str(source / name), size):
                        file.write(data)
                        done += len(data)
                        if on_progress is not None:
                            on_progress(done, total)
                unfinished.replace(here)
            finally:
                unfinished.unlink(missing_ok=True)
        return target

    def _read_chunks(self, path: str, size: int) -> Iterator[bytes]:
        at = 0
        while at < size:
            chunk_bytes = min(self._chunk_bytes, size - at)
            data = self._request("download", {"do": "read", "path": path, "at": at, "size": chunk_bytes})
            if not isinstance(data, bytes) or len(data) > chunk_bytes:
                raise CodeInterpreterError("The sandbox sent a piece of a file that was not requested.")
            if not data:
                return  # the file has become shorter meanwhile
            at += len(data)
            yield data

    # --- requests -------------------------------------------------------------------------------------

    def _request(self, what: str, requested: str | dict[str, object]) -> object:
        cell = self._exchange(what, {}, requested)
        if cell.requested is None:
            raise CodeInterpreterError(f"{what}(): the sandbox did not answer.")
        try:
            answer: object = values.loads(cell.requested)
        except RemoteProtocolError as error:
            raise CodeInterpreterError(f"{what}(): the sandbox's answer cannot be decoded: {error}.") from error
        return answer

    def _exchange(
        self, what: str, variables: Mapping[str, object], requested: str | dict[str, object] | None
    ) -> OutputCollector:
        # First: a wrong call starts nothing.
        request = build_request("", variables, self._settings, self._access.sent_inputs, requested)
        if self._access.session is None:
            self._start()
        cell = self._access.exchange(what, request, self._settings)
        if cell.error is not None:
            failed = {"NameError": VariableNotFound, "TypeError": UnreadableValue} if what == "get" else {}
            raise failed.get(cell.error.name, CodeExecutionError)(printable(f"{what}(): {cell.error.summary}"))
        return cell


def _local_entries(source: Path) -> Iterator[tuple[str, int | None]]:
    """Yield names below ``source`` and sizes: None for a folder, before its content. A single file has no name."""
    if not source.is_dir():
        yield "", source.stat().st_size
        return
    for folder, _, names in os.walk(source, onerror=_reraise):
        here = Path(folder)
        yield here.relative_to(source).as_posix(), None
        for name in names:
            if (here / name).is_file():
                yield (here / name).relative_to(source).as_posix(), (here / name).stat().st_size


def _reraise(error: OSError) -> None:
    raise error


def _checked_list(listed: object) -> list[tuple[str, int | None]]:
    """Return the names and sizes of a listing, which has at most as many entries as a sandbox lists.

    Raises:
        CodeInterpreterError: If it has more, or one that cannot be inside the folder.
    """
    entries = listed if isinstance(listed, list) else [listed]
    if len(entries) > MAX_FILES:
        raise CodeInterpreterError(
            f"download(): the sandbox listed {len(entries):,} files; at most {MAX_FILES:,} are copied."
        )
    return [_checked(entry) for entry in entries]


def _check_space(target: Path, total: int) -> None:
    """Check that the stated sizes fit on the disk, before the first file is written.

    Raises:
        OSError: If they do not.
    """
    existing = next(path for path in (target.absolute(), *target.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if total > free:
        raise OSError(errno.ENOSPC, f"{total:,} bytes are to be copied, and {free:,} are free", str(target))


def _is_control(character: str) -> bool:
    """Return whether a character in a name would change a terminal's state, or the order of the text around it."""
    return unicodedata.category(character) == "Cc" or unicodedata.bidirectional(character) in _BIDI_CONTROLS


def _checked(entry: object) -> tuple[str, int | None]:
    """Return the name and the size of a listed entry, if the name stays inside the folder."""
    match entry:
        case (str(name), int(size) | (None as size)) if size is None or (type(size) is int and size >= 0):
            parts = PurePosixPath(name).parts
            outside = name.startswith("/") or ".." in parts or "\\" in name
            if not (outside or len(name) > _MAX_PATH_CHARS or any(map(_is_control, name))) and (size or 0) < 1 << 63:
                return name, size
    try:
        named = repr(entry)[:200]
    except ValueError:  # an int with more digits than Python converts
        named = f"an entry of type {type(entry).__name__}"
    raise CodeInterpreterError(f"download(): the sandbox listed a file that cannot be inside the folder: {named}.")
