"""The toolbox's file operations, restricted to the sandbox's folder."""

from __future__ import annotations

import asyncio
import datetime
import grp
import pwd
import shutil
import stat
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from aiohttp import BodyPartReader, web

from .bodies import daemon_error
from .model import Refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_BOUNDARY = "DAYTONA-FILE-BOUNDARY"
_CHUNK_BYTES = 256 << 10


class Files:
    """The files of one sandbox; relative paths start in ``workdir``."""

    def __init__(self, root: Path, workdir: Path) -> None:
        self._root, self._workdir = root.resolve(), workdir

    def path(self, text: str) -> Path:
        """Return the location of a path.

        Raises:
            Refused: If the path, with links resolved, is outside the folders of the sandbox's user.
        """
        if not text:
            raise Refused(400, "path is required")
        if "\0" in text:
            raise Refused(400, f"invalid path: {text!r}")
        path = self._workdir / text
        if not path.resolve().is_relative_to(self._root):
            raise Refused(403, f"open {text}: permission denied")
        return path

    def existing(self, text: str) -> Path:
        """Return the location of a path that must exist.

        Raises:
            Refused: If it does not exist.
        """
        path = self.path(text)
        if not path.exists() and not path.is_symlink():
            raise Refused(404, f"stat {text}: no such file or directory")
        return path

    async def upload(self, request: web.Request) -> web.Response:
        """Store the files of a multipart body: all ``files[i].path`` come before the ``files[i].file`` parts."""
        if not request.content_type.startswith("multipart/"):
            raise Refused(400, "request Content-Type isn't multipart/form-data")
        paths: dict[str, str] = {}
        stored: list[dict[str, Any]] = []
        errors: list[str] = []
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader):
                raise Refused(400, "nested multipart")
            index, _, kind = (part.name or "").partition("].")
            if kind == "path":
                paths[index] = await part.text()
            elif kind == "file":
                await self._store(part, paths.get(index), index, stored, errors)
        if errors:
            return web.json_response({"errors": errors, "files": stored}, status=400)
        return web.json_response({"files": stored})

    async def _store(
        self, part: BodyPartReader, text: str | None, index: str, stored: list[dict[str, Any]], errors: list[str]
    ) -> None:
        if text is None:
            errors.append(f"{index}].path: missing path metadata")
            return
        try:
            path = self.path(text)
            path.parent.mkdir(parents=True, exist_ok=True)
            size = 0
            with path.open("wb") as file:
                while chunk := await part.read_chunk(_CHUNK_BYTES):
                    size += await asyncio.to_thread(file.write, chunk)
        except Refused as error:
            errors.append(f"{text}: {error.message}")
        except OSError as error:
            errors.append(f"{text}: {error.strerror or error}")
        else:
            stored.append({"path": text, "bytes": size})

    async def download(self, request: web.Request, paths: list[Any], now: float) -> web.StreamResponse:
        """Send files as a multipart body: parts named ``file``, or ``error`` for those that cannot be read."""
        response = web.StreamResponse()
        response.content_type = "multipart/form-data"
        response.headers["Content-Type"] = f"multipart/form-data; boundary={_BOUNDARY}"
        await response.prepare(request)
        for text in paths:
            async for chunk in self._part(str(text), request, now):
                await response.write(chunk)
        await response.write(f"--{_BOUNDARY}--\r\n".encode())
        await response.write_eof()
        return response

    async def _part(self, text: str, request: web.Request, now: float) -> AsyncIterator[bytes]:
        try:
            path = self.existing(text)
            if path.is_dir():
                raise Refused(400, f"{text} is a directory", code="INVALID_FILE_PATH")
            file = path.open("rb")
        except Refused as error:
            code = error.code or ("FILE_NOT_FOUND" if error.status == 404 else "FILE_ACCESS_DENIED")
            body = daemon_error(Refused(error.status, error.message, code=code), request.method, request.path, now).body
            yield _head("error", text, "application/json") + bytes(body) + b"\r\n"  # type: ignore[arg-type]
            return
        yield _head("file", text, "application/octet-stream")
        with file:
            while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
                yield chunk
        yield b"\r\n"

    def create_folder(self, text: str, mode: str) -> None:
        """Create a folder and its parents."""
        try:
            bits = int(mode or "755", 8)
        except ValueError:
            raise Refused(400, "invalid mode format") from None
        path = self.path(text)
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(bits)

    def delete(self, text: str, recursive: bool) -> None:
        """Delete a file, or with ``recursive`` a folder."""
        path = self.existing(text)
        if path.is_dir() and not path.is_symlink():
            if not recursive:
                raise Refused(400, "cannot delete directory without recursive flag")
            shutil.rmtree(path)
        else:
            path.unlink()

    def move(self, source: str, destination: str) -> None:
        """Move a file or a folder."""
        target = self.path(destination)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(self.existing(source), target)

    def listing(self, text: str) -> list[dict[str, Any]]:
        """Return the entries of a folder."""
        path = self.existing(text or ".")
        if not path.is_dir():
            raise Refused(400, f"{text} is not a directory")
        return [info(child) for child in sorted(path.iterdir())]


def info(path: Path) -> dict[str, Any]:
    """Return the metadata of a file in the toolbox's format."""
    found = path.lstat()
    changed = datetime.datetime.fromtimestamp(found.st_mtime, datetime.timezone.utc)
    return {
        "name": path.name,
        "path": str(path),
        "isDir": stat.S_ISDIR(found.st_mode),
        "size": found.st_size,
        "mode": stat.filemode(found.st_mode),
        "permissions": f"{stat.S_IMODE(found.st_mode):04o}",
        "modTime": changed.strftime("%Y-%m-%d %H:%M:%S +0000 UTC"),
        "modifiedAt": changed.isoformat(),
        "owner": _name(lambda: pwd.getpwuid(found.st_uid).pw_name, found.st_uid),
        "group": _name(lambda: grp.getgrgid(found.st_gid).gr_name, found.st_gid),
    }


def _name(look_up: Any, number: int) -> str:
    try:
        return str(look_up())
    except KeyError:
        return str(number)


def _head(name: str, filename: str, content_type: str) -> bytes:
    escaped = filename.replace("\\", "\\\\").replace('"', '\\"')
    disposition = f'form-data; name="{name}"; filename="{escaped}"'
    if not filename.isascii() or not filename.isprintable():
        disposition = f"form-data; name=\"{name}\"; filename*=utf-8''{quote(filename, safe='')}"
    return f"--{_BOUNDARY}\r\nContent-Disposition: {disposition}\r\nContent-Type: {content_type}\r\n\r\n".encode()
