"""Uploads and downloads, in steps of one chunk. Paths are relative to the kernel's working directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_FILES = 100_000


def handle_request(request: Mapping[str, object]) -> object:
    """Do one step of an upload or download and return its result for the host.

    Raises:
        OSError: If the file cannot be read or written.
        ValueError: If the request is not one.
    """
    path = Path(str(request.get("path"))).expanduser()
    match request:
        case {"do": "write", "at": int(at), "data": bytes(data)}:
            _write(path, at, data)
            return None
        case {"do": "folder"}:
            path.mkdir(parents=True, exist_ok=True)
            return None
        case {"do": "list"}:
            return _list(path)
        case {"do": "read", "at": int(at), "size": int(size)}:
            with path.open("rb") as file:
                file.seek(at)
                return file.read(size)
    raise ValueError("no such request")


def _write(path: Path, at: int, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r+b" if at else "wb") as file:
        file.seek(at)
        file.write(data)


def _list(path: Path) -> list[tuple[str, int | None]]:
    """Return the size of a file under an empty name, or the entries of a folder.

    Folders precede their files and have no size. Links to folders are left out, because they may form a cycle, and so
    are pipes, sockets and devices.
    """
    if not path.is_dir():
        return [("", path.stat().st_size)]
    found: list[tuple[str, int | None]] = []
    for folder, _, names in os.walk(path, onerror=_raise):
        here = Path(folder)
        found.append((here.relative_to(path).as_posix(), None))
        found += [
            ((here / name).relative_to(path).as_posix(), (here / name).stat().st_size)
            for name in names
            if (here / name).is_file()
        ]
        if len(found) > MAX_FILES:
            raise OSError(f"{path} has more than {MAX_FILES:,} files: make an archive of it")
    return found


def _raise(error: OSError) -> None:
    raise error
