"""The folder of a kernel's local sockets, and the connection file that names them."""

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
    """Create a folder of mode 0700 whose path is short enough for unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix=ENDPOINTS_PREFIX))
    if len(str(folder / "00-00000000-5")) <= _MAX_SOCKET_PATH:
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix=ENDPOINTS_PREFIX, dir="/tmp"))


def write_connection_file(folder: Path, name: str, key: str) -> Path:
    """Write the connection file for the sockets ``name-1`` to ``name-5`` in ``folder``; return its path.

    The file holds the session key and has mode 0600.
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
