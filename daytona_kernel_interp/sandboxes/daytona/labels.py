"""Labels of a sandbox: the machine and the process that created it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from ...transport.process_identity import process_alive, process_start_mark

if TYPE_CHECKING:
    from collections.abc import Mapping

PACKAGE_LABEL = "daytona-kernel"
MACHINE_LABEL = "daytona-kernel-machine"
PROCESS_LABEL = "daytona-kernel-process"
KEEP_LABEL = "daytona-kernel-kept"
START_LABEL = "daytona-kernel-start"  # unique, to find the sandbox of a create without an answer


@functools.cache
def machine() -> str:
    """Return an id of this machine, user and process namespace: the scope in which process ids are unique."""
    facts = [socket.gethostname(), str(os.getuid())]
    with contextlib.suppress(OSError):
        facts.append(Path("/etc/machine-id").read_text())
    with contextlib.suppress(OSError):
        facts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:16]


def labels(start: str, *, kept: bool) -> dict[str, str]:
    """Return the labels of a sandbox that this process creates; ``kept``: it outlives the process."""
    return {PACKAGE_LABEL: "1", START_LABEL: start, **owner(), **({KEEP_LABEL: "1"} if kept else {})}


def owner() -> dict[str, str]:
    """Return the labels that identify this process."""
    pid = os.getpid()
    return {MACHINE_LABEL: machine(), PROCESS_LABEL: f"{pid}-{process_start_mark(pid)}"}


def created_on_this_machine(labels: Mapping[str, str]) -> bool:
    """Return whether labels name this machine and user."""
    return labels.get(MACHINE_LABEL) == machine()


def host_lives(labels: Mapping[str, str]) -> bool:
    """Return whether the process of the labels is alive; processes of other machines count as alive."""
    if not created_on_this_machine(labels):
        return True
    pid, _, mark = labels.get(PROCESS_LABEL, "").partition("-")
    return pid.isdigit() and process_alive(int(pid), mark)
