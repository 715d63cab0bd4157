"""``TransferMixin``: the part of the interpreter that moves values and files without running code."""

from __future__ import annotations

import os
import secrets
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from dspy.primitives.code_interpreter import CodeInterpreterError

from ..codec import values
from ..recording.recorder import begin_step
from ..runtime.event_loop import io_loop
from ..wire.protocol_errors import RemoteProtocolError
from .dspy_compat import CodeExecutionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ..client.output_collector import OutputCollector
    from ..recording.recorder import Recorder

_CHUNK_BYTES = 8 << 20


class TransferMixin:
    """Base class of the interpreter, whose private methods it calls."""

    if TYPE_CHECKING:
        _prepare: Callable[..., Any]
        _sole_call: Callable[..., Any]
        _translated: Callable[..., Any]
        _run_request: Callable[..., Any]
        _context: Callable[..., Any]
        start: Callable[..., Any]
        _session: Any
        _recorder: Recorder | None
        max_value_bytes: int | None

    # --- values ---------------------------------------------------------------------------------------

    def get(self, name: str) -> Any:
        """Return a copy of a variable of the session.

        Raises:
            CodeExecutionError: If there is none of that name, or its value cannot leave the sandbox.
            CodeInterpreterError: As for ``execute``; or if a library that the value needs is missing here.
        """
        if not isinstance(name, str) or not name.isidentifier():
            raise CodeInterpreterError(f"get() takes the name of one variable, not {name!r}.")
        return self._request_file("get", name)

    def put(self, **variables: Any) -> None:
        """Bind variables in the session, as ``execute`` binds those of a cell.

        Raises:
            CodeInterpreterError: As for ``execute``.
        """
        self._run_transfer("put", variables, None)

    # --- files ----------------------------------------------------------------------------------------

    def upload(
        self, path: str | os.PathLike[str], to: str | None = None, on_progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Copy a file, or a folder with all that is in it, into the sandbox.

        Links to folders, and what is neither file nor folder, are left out.

        Args:
            path: On this machine.
            to: The copy's path in the sandbox, relative to the kernel's folder; None: the same name, in that folder.
                Folders on the way are made, and files of that name replaced.
            on_progress: Called with the bytes that have arrived, and those that there are, after each 8 MiB.

        Raises:
            OSError: If it cannot be read here.
            CodeExecutionError: If it cannot be written there.
            CodeInterpreterError: As for ``execute``.
        """
        source = Path(path)
        target = PurePosixPath(to if to is not None else source.resolve().name)
        entries = list(_local_entries(source))
        done, total = 0, sum(size or 0 for _, size in entries)
        for name, size in entries:
            there = str(target / name)
            if size is None:
                self._request_file("upload", {"do": "folder", "path": there})
                continue
            with (source / name if name else source).open("rb") as file:
                at = 0
                while (data := file.read(self._chunk_bytes())) or not at:
                    self._request_file("upload", {"do": "write", "path": there, "at": at, "data": data})
                    at, done = at + len(data), done + len(data)
                    if on_progress is not None:
                        on_progress(done, max(done, total))
                    if not data:
                        break

    def download(
        self, path: str, to: str | os.PathLike[str] | None = None, on_progress: Callable[[int, int], None] | None = None
    ) -> Path:
        """Copy a file, or a folder with all that is in it, out of the sandbox, and return the copy's path.

        A file has its name once it is whole: of one that is interrupted nothing is left.

        Args:
            path: In the sandbox, relative to the kernel's folder.
            to: The copy's path on this machine; None: the same name in the current folder.
            on_progress: As for :meth:`upload`.

        Raises:
            OSError: If it cannot be written here.
            CodeExecutionError: If it cannot be read there.
            CodeInterpreterError: As for ``execute``; or if the sandbox names a file outside of the folder.
        """
        source = PurePosixPath(path)
        target = Path(to if to is not None else source.name)
        listed = self._request_file("download", {"do": "list", "path": path})
        entries = [_checked(entry) for entry in (listed if isinstance(listed, list) else [listed])]
        done, total = 0, sum(size or 0 for _, size in entries)
        for name, size in entries:
            here = target / name
            folder = here if size is None else here.parent
            folder.mkdir(parents=True, exist_ok=True)
            if name and not folder.resolve().is_relative_to(target.resolve()):
                raise CodeInterpreterError(f"download(): {folder} leads out of {target}: remove that link first.")
            if size is None:
                continue
            unfinished = here.with_name(f".{secrets.token_hex(8)}.part")  # no name that the sandbox could have chosen
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
            chunk_bytes = min(self._chunk_bytes(), size - at)
            data = self._request_file("download", {"do": "read", "path": path, "at": at, "size": chunk_bytes})
            if not isinstance(data, bytes) or len(data) > chunk_bytes:
                raise CodeInterpreterError("The sandbox sent another piece of a file than it was asked for.")
            if not data:
                return  # it has become shorter meanwhile
            at += len(data)
            yield data

    def _chunk_bytes(self) -> int:
        limit = self.max_value_bytes
        return _CHUNK_BYTES if limit is None else max(1, min(_CHUNK_BYTES, limit // 2))

    # --- both -----------------------------------------------------------------------------------------

    def _request_file(self, what: str, requested: str | dict[str, Any]) -> Any:
        cell = self._run_transfer(what, {}, requested)
        if cell.requested is None:
            raise CodeInterpreterError(f"{what}(): the sandbox did not answer.")
        try:
            return values.loads(cell.requested)
        except RemoteProtocolError as error:
            raise CodeInterpreterError(f"{what}(): what the sandbox sent cannot be decoded: {error}.") from error

    def _run_transfer(
        self, what: str, variables: Mapping[str, Any], requested: str | dict[str, Any] | None
    ) -> OutputCollector:
        request = self._prepare("", variables, requested)
        if self._session is None:
            self.start()
        recorder = self._recorder if variables else None  # what is only read or copied is no step of the session
        with self._sole_call(what), begin_step(recorder, request) as step, self._translated():
            cell: OutputCollector = io_loop().run(self._run_request(request, self._context(), None, step)).cell
        if cell.error is not None:
            raise CodeExecutionError(f"{what}(): {cell.error.summary}")
        return cell


def _local_entries(source: Path) -> Iterator[tuple[str, int | None]]:
    """Yield names below ``source`` and sizes; a folder, before what is in it, has none; a file's own name is empty."""
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


def _checked(entry: Any) -> tuple[str, int | None]:
    """Return a name and a size as the sandbox listed them, if the name stays within the folder."""
    match entry:
        case (str(name), int(size) | (None as size)) if size is None or (type(size) is int and size >= 0):
            parts = PurePosixPath(name).parts
            if not (name.startswith("/") or ".." in parts or "\0" in name or "\\" in name):
                return name, size
    try:
        named = repr(entry)[:200]
    except ValueError:  # a number of too many digits
        named = f"one of type {type(entry).__name__}"
    raise CodeInterpreterError(f"download(): the sandbox named a file that cannot be one of the folder's: {named}.")
