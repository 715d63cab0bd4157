"""Where a kernel's local sockets lie, and the connection file that leads Jupyter's clients to them."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from ..wire.hello import KERNEL_CHANNELS

ENDPOINTS_PREFIX = "dk-"  # of the folders with a tunnel's unix sockets; short, because socket paths are limited
_MAX_SOCKET_PATH = 100  # sun_path holds 104 bytes on macOS, 108 on Linux


def make_endpoints_folder() -> Path:
    """Make a folder that this user alone can enter, with a path short enough for unix sockets in it."""
    folder = Path(tempfile.mkdtemp(prefix=ENDPOINTS_PREFIX))
    if len(str(folder / "00-00000000-5")) <= _MAX_SOCKET_PATH:
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix=ENDPOINTS_PREFIX, dir="/tmp"))


def write_connection_file(folder: Path, name: str, key: str) -> Path:
    """Write the file for sockets ``name-1`` to ``name-5`` in ``folder``, and return its path.

    It holds the session key, and this user alone can read it.
    """
    info: dict[str, Any] = {
        "transport": "ipc",
        "ip": str(folder / name),
        "key": key,
        "signature_scheme": "hmac-sha256",
    }
    info.update({f"{channel}_port": port for port, channel in enumerate(KERNEL_CHANNELS, start=1)})
    path = folder / f"kernel-{name}.json"
    with open(path, "w", opener=_open_private) as file:
        file.write(json.dumps(info))
    return path


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
