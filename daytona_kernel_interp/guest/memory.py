"""Whether the kernel of the operating system killed a process of ours for want of memory."""

from __future__ import annotations

from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


def oom_kills(root: Path = _ROOT, membership: Path = Path("/proc/self/cgroup")) -> int | None:
    """Return how many processes of our control group were killed for want of memory, or None if nobody counts.

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
