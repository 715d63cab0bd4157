"""Identify a process so that a later process with the same pid is not mistaken for it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def process_start_mark(pid: int) -> str:
    """Return a mark that identifies process ``pid`` by its start time.

    Raises:
        ProcessLookupError: If there is no such process, or it is a zombie.
    """
    try:
        # proc(5), /proc/pid/stat: field 22, after the command's name in parentheses; field 3 is the state
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            raise ProcessLookupError(f"there is no process {pid}") from None
        return _mark_without_proc(pid)
    if fields[0] == "Z":
        raise ProcessLookupError(f"process {pid} has ended")
    return fields[19]


def process_alive(pid: int, mark: str) -> bool:
    """Return whether the process with this pid and start mark is alive."""
    try:
        return process_start_mark(pid) == mark
    except ProcessLookupError:
        return False


def _mark_without_proc(pid: int) -> str:
    os.kill(pid, 0)
    words = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return words.stdout.strip()
