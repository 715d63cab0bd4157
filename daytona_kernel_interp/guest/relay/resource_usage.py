"""Resource counters of the operating system: out-of-memory kills, and the usage of one process."""

from __future__ import annotations

import os
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


def oom_kills(root: Path = _ROOT, membership: Path = Path("/proc/self/cgroup")) -> int | None:
    """Return how many processes of this control group were killed for lack of memory, or None if that is not counted.

    Version 2 counts in ``memory.events`` and version 1 in ``memory.oom_control``, both as ``oom_kill N`` (kernel
    documentation, "Control Group v2", "Memory Interface Files"). In a container the group's own files stand at the
    root.
    """
    for path in _candidates(root, membership):
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, count = line.partition(" ")
            if name == "oom_kill" and count.strip().isdigit():
                return int(count)
    return None


def resource_usage(pid: int) -> tuple[float, int] | None:
    """Return a process's processor time in seconds and its memory in bytes, or None where /proc does not have them."""
    try:
        # proc(5): fields 14 and 15 of stat are ticks in user and system mode (the list starts at field 3); statm has
        # pages
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        pages = Path(f"/proc/{pid}/statm").read_text().split()
        ticks = int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK"), int(pages[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def _candidates(root: Path, membership: Path) -> list[Path]:
    paths = []
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not controllers:
            paths.append(root / group.lstrip("/") / "memory.events")
        elif "memory" in controllers.split(","):
            paths.append(root / "memory" / group.lstrip("/") / "memory.oom_control")
    return [*paths, root / "memory.events", root / "memory" / "memory.oom_control"]
