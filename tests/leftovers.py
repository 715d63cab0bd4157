"""Finds the processes that a test session started and did not end.

Several sessions may run at the same time on one machine: those of ``pytest -n``, the environments' and other users'.
Each gives its processes a mark in the environment and looks only for processes that have its mark.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import MutableMapping

PACKAGE = "daytona_kernel_interp"
# multiprocessing keeps one such helper until its parent exits; it is not a leftover.
_HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.semaphore_tracker")
# A local kernel inherits no variable of the host but a few, and those named LC_*.
_MARK = "LC_DKI_TEST_SESSION"
_INIT_NAMES = frozenset({"init", "launchd", "systemd"})


def mark(environ: MutableMapping[str, str], name: str) -> None:
    """Mark the processes that inherit this environment as those of session ``name``."""
    environ[_MARK] = name


def running() -> set[psutil.Process]:
    """Return this process's descendants, and the programs of this session that lost their parent."""
    found = set(psutil.Process().children(recursive=True))
    found.update(process for process in psutil.process_iter() if _is_stray(process))
    return {process for process in found if not _is_helper(process)}


def wait_gone(processes: set[psutil.Process], timeout_s: float) -> list[str]:
    """Give processes time to end by themselves; kill those left and return how each was called."""
    _, alive = psutil.wait_procs(processes, timeout=timeout_s)
    lines = [describe(process) for process in alive]
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=timeout_s)
    return lines


def describe(process: psutil.Process) -> str:
    try:
        age_s = time.time() - process.create_time()
        return f"{process.pid} ({process.status()}, {age_s:.0f} s old): {' '.join(process.cmdline())}"
    except psutil.Error:
        return f"{process.pid} (gone)"


def _is_stray(process: psutil.Process) -> bool:
    """Whether a process runs our code in our environment and init has become its parent.

    Kernels have a process group of their own and outlive their relay, so a lost one is no descendant.
    A process that started with an empty environment has no session's mark and counts as this one's.
    """
    try:
        cmdline = process.cmdline()
        if not any(PACKAGE in argument for argument in cmdline) or cmdline[0] != sys.executable:
            return False
        if process.environ().get(_MARK, os.environ[_MARK]) != os.environ[_MARK]:
            return False
        parent = process.parent()
        return process.pid != os.getpid() and (parent is None or parent.pid == 1 or parent.name() in _INIT_NAMES)
    except psutil.Error:
        return False


def _is_helper(process: psutil.Process) -> bool:
    try:
        return any(helper in argument for helper in _HELPERS for argument in process.cmdline())
    except psutil.Error:
        return False
