"""Tests of ``guest.relay.resource_usage`` with fake trees of control groups."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from daytona_kernel_interp.guest.relay.resource_usage import oom_kills, resource_usage

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.python

EVENTS_V2 = "low 0\nhigh 2\nmax 9\noom 4\noom_kill {}\noom_group_kill 0\n"
CONTROL_V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"


def group(root: Path, path: str, text: str) -> None:
    """Write one file of a tree."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def count(root: Path, membership: str | None) -> int | None:
    """Return the count for a process with this ``/proc/self/cgroup``."""
    file = root / "membership"
    if membership is not None:
        file.write_text(membership)
    return oom_kills(root, file)


@pytest.mark.parametrize(
    ("path", "text", "membership"),
    [
        ("user.slice/a/memory.events", EVENTS_V2, "0::/user.slice/a\n"),
        ("memory.events", EVENTS_V2, "0::/\n"),
        ("memory.events", EVENTS_V2, "0::/of/the/host\n"),  # in a container the group's files stand at the root
        ("memory.events", EVENTS_V2, None),
        ("memory/docker/x/memory.oom_control", CONTROL_V1, "5:cpu,cpuacct:/y\n4:memory:/docker/x\n"),
        ("memory/memory.oom_control", CONTROL_V1, "4:memory:/docker/x\n"),
        ("memory/g/memory.oom_control", CONTROL_V1, "3:hugetlb,memory:/g\n0::/system.slice\n"),
        ("memory/g:1/memory.oom_control", CONTROL_V1, "3:memory:/g:1\n"),
    ],
)
def test_kills_are_counted_where_the_group_is(tmp_path: Path, path: str, text: str, membership: str | None) -> None:
    """Version 1, version 2, both, and a container, where the path is that of the host."""
    group(tmp_path, path, text.format(17))
    assert count(tmp_path, membership) == 17


def test_the_group_itself_comes_before_the_root(tmp_path: Path) -> None:
    """Kills in other groups are not counted."""
    group(tmp_path, "memory.events", EVENTS_V2.format(50))
    group(tmp_path, "a/memory.events", EVENTS_V2.format(2))
    assert count(tmp_path, "0::/a\n") == 2


@pytest.mark.parametrize(
    "text", ["", "oom 5\n", "oom_kill\n", "oom_kill x\n", "oom_kill -1\n", "oom_kill_disable 1\n", "oom_kills 3\n"]
)
def test_a_file_that_does_not_count_is_passed_over(tmp_path: Path, text: str) -> None:
    """An old kernel has no count: the next file is read, and without one the result is None."""
    group(tmp_path, "a/memory.events", text)
    assert count(tmp_path, "0::/a\n") is None
    group(tmp_path, "memory.events", EVENTS_V2.format(1))
    assert count(tmp_path, "0::/a\n") == 1


@pytest.mark.parametrize("membership", [None, "", "\n", "nonsense\n", "0::\n", ":::\n"])
def test_without_files_nobody_knows(tmp_path: Path, membership: str | None) -> None:
    """Without control groups, as on macOS, or with a file of unknown form, the result is None."""
    assert count(tmp_path, membership) is None
    assert oom_kills(tmp_path / "none", tmp_path / "neither") is None


def test_the_real_tree_is_read() -> None:
    """The files of this machine give a count or None."""
    found = oom_kills()
    assert found is None or found >= 0


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no /proc")
def test_what_a_process_uses() -> None:
    """Processor time and memory of this process are positive; those of an ended process are None."""
    used = resource_usage(os.getpid())
    assert used is not None
    assert 0 < used[0] < 10_000
    assert used[1] > 1 << 20
    assert resource_usage(0) is None
