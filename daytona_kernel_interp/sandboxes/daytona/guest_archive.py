"""What runs in a sandbox, as one file to upload: this package's own modules for there, as a zip that Python imports."""

from __future__ import annotations

import functools
import hashlib
import io
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from . import probe_script as prepare

_PACKAGE = Path(__file__).resolve().parent.parent.parent
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first that a zip can say; the same files make the same zip
REQUIREMENTS = {"ipykernel": [6, 31], "websockets": [15]}  # what they need there, as in pyproject.toml


@dataclass(frozen=True)
class GuestArchive:
    """The zip, and the hash of the modules in it."""

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
    """Return the runtime, made of the installed files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in prepare.modules(_PACKAGE):
            entry = zipfile.ZipInfo(f"{_PACKAGE.name}/{path.relative_to(_PACKAGE).as_posix()}", _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes())
    return GuestArchive(prepare.digest(_PACKAGE), buffer.getvalue())
