"""The guest archive: the part of this package that runs in a sandbox, as one zip file that Python can import."""

from __future__ import annotations

import functools
import hashlib
import io
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from . import probe_script as prepare

_PACKAGE = Path(__file__).resolve().parent.parent.parent
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can have; equal files make equal zips
REQUIREMENTS = {"ipykernel": [6, 31], "websockets": [15]}  # of the guest; pyproject.toml has the same versions


@dataclass(frozen=True)
class GuestArchive:
    """The zip, and the hash of its modules."""

    digest: str
    data: bytes = field(repr=False)

    @property
    def file(self) -> str:
        """The file's name in a sandbox."""
        return f"runtime-{self.digest}.zip"

    @property
    def sha256(self) -> str:
        """The file's own hash."""
        return hashlib.sha256(self.data).hexdigest()


@functools.cache
def guest_archive() -> GuestArchive:
    """Return the guest archive, made from the installed files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in prepare.modules(_PACKAGE):
            entry = zipfile.ZipInfo(f"{_PACKAGE.name}/{path.relative_to(_PACKAGE).as_posix()}", _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes())
    return GuestArchive(prepare.digest(_PACKAGE), buffer.getvalue())
