"""Files that outlive a process or that other programs read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from daytona_kernel_interp import Recording
from daytona_kernel_interp.jupyter.kernelspec import KERNELSPECS, Kernelspec, install
from daytona_kernel_interp.sandboxes.select import adopt
from daytona_kernel_interp.session.session_file import SessionRecord
from tests.transcripts import write

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).parents[1]
GOLDEN = TESTS / "golden"

SANDBOXES: tuple[dict[str, Any], ...] = (
    {
        "kind": "local",
        "folder": "/tmp/daytona-kernel-x",
        "python": None,
        "cwd": "/work",
        "env": {"A": "1"},
        "resume_lifetime": 600.0,
        "url": "ws://127.0.0.1:1",
        "secret": "s",
        "pid": 2,
        "started": "3",
    },
    {
        "kind": "daytona",
        "id": "4",
        "keep": True,
        "resume_lifetime": 60.0,
        "place": {"python": "python3", "path": "/p", "folder": "/f", "cwd": "/c", "port": 3000},
        "launched": {"session": "", "command": "5 6"},
        "url": "wss://host",
        "secret": "s",
        "headers": {"X-Header": "v"},
        "host": "3000-4.host",
    },
    {"kind": "relay", "url": "wss://host", "token": "t", "headers": {"X-Header": "v"}, "resume_lifetime": 600.0},
)


def start_marks() -> Any:
    """Give every process the start mark "3": a mark depends on the machine, and it may have no process 2."""
    return mock.patch("daytona_kernel_interp.sandboxes.local.process_start_mark", return_value="3")


def session_files(folder: Path) -> str:
    """Return what a session's file has, for a sandbox of each kind; each sandbox goes through its own record."""
    files = {}
    with mock.patch.dict("os.environ", {"JUPYTER_RUNTIME_DIR": str(folder)}), start_marks():
        for number, sandbox in enumerate(SANDBOXES):
            record = SessionRecord(
                id=f"0000000{number}",
                pid=0,
                mark="m",
                started=1.5,
                kernel="k",
                connection_file="/tmp/dk-x/kernel.json",
                sandbox=adopt(sandbox).record() or {},
                key="key",
                max_value_bytes=None if number else 1000,
            )
            record.write()
            assert record.path.stat().st_mode & 0o777 == 0o600
            files[record.path.name] = json.loads(record.path.read_text(encoding="utf-8"))
    return json.dumps(files, indent=1) + "\n"


def kernelspecs(folder: Path) -> str:
    """Return the ``kernel.json`` of each kernelspec that is installed, and of one with options."""
    files = {}
    own = Kernelspec("own", "Own", {"sandbox": "daytona", "snapshot": "s", "keep": True})
    for spec in (*KERNELSPECS, own):
        path = install(spec, folder) / "kernel.json"
        files[str(path.relative_to(folder))] = fields = json.loads(path.read_text(encoding="utf-8"))
        fields["argv"][0] = "PYTHON"
    return json.dumps(files, indent=1) + "\n"


def golden_files(folder: Path) -> str:
    """Return the SHA-256 of each golden file of the tests: these files never change, but their folders may move."""
    folders = [path for path in TESTS.rglob("golden") if path.is_dir()]
    files = {str(path.relative_to(each)): path for each in folders for path in each.rglob("*") if path.is_file()}
    return "".join(f"{hashlib.sha256(files[name].read_bytes()).hexdigest()} {name}\n" for name in sorted(files))


def recording(folder: Path) -> str:
    """Write the golden recording again and return every path in the notebook with the types found there."""
    copy = folder / "recording-v1.ipynb"
    write(Recording.load(GOLDEN / copy.name).transcript, copy)
    document = json.loads(copy.read_text(encoding="utf-8"))
    types: dict[str, set[str]] = {}
    for path, kind in _leaves(document, ""):
        types.setdefault(path, set()).add(kind)
    lines = [f"{path}: {' | '.join(sorted(kinds))}" for path, kinds in sorted(types.items())]
    values = sorted(path.name for path in copy.with_suffix(".values").iterdir())
    digest = hashlib.sha256(copy.read_bytes()).hexdigest()
    return "\n".join(["# SHA-256", digest, "", "# Structure", *lines, "", "# Values", *values, ""])


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from _leaves(each, f"{path}.{key}")
    elif isinstance(value, list) and value:
        for each in value:
            yield from _leaves(each, f"{path}[]")
    else:
        yield path, type(value).__name__
