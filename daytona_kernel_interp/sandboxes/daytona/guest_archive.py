"""The guest archive: the part of this package that runs in a sandbox, as one zip file that Python can import."""

from __future__ import annotations

import functools
import io
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from . import probe_script as prepare

if TYPE_CHECKING:
    from collections.abc import Mapping

PACKAGE = Path(__file__).resolve().parent.parent.parent
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can have; equal files make equal zips
REQUIREMENTS = {"ipykernel": [6, 31], "websockets": [15]}  # of the guest; pyproject.toml has the same versions


@dataclass(frozen=True)
class GuestArchive:
    """The zip, and the hash of its modules."""

    digest: str
    data: bytes = field(repr=False)


@functools.cache
def guest_archive() -> GuestArchive:
    """Return the guest archive, made from the installed files."""
    return GuestArchive(prepare.digest(PACKAGE), make_zip(guest_modules(), zipfile.ZIP_DEFLATED))


def guest_modules() -> dict[str, bytes]:
    """Return the sources of the guest's modules, by name."""
    above = PACKAGE.parent
    return {path.relative_to(above).as_posix(): path.read_bytes() for path in prepare.modules(PACKAGE)}


def make_zip(contents: Mapping[str, bytes], compression: int) -> bytes:
    """Return a zip file with ``contents``, by name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in contents.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, compression)
    return buffer.getvalue()
