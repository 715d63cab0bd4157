"""Tests of ``transport.process_identity``: a start mark distinguishes processes with one id."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from daytona_kernel_interp.transport import process_identity as processes
from daytona_kernel_interp.transport.process_identity import process_alive, process_start_mark

pytestmark = pytest.mark.python

NO_PID = 2**22 + 1  # above what Linux gives (proc(5), pid_max)
WAITING = [sys.executable, "-c", "input()"]


def test_a_process_keeps_its_mark() -> None:
    """The mark of a process stays the same."""
    mark = process_start_mark(os.getpid())
    assert mark
    assert process_start_mark(os.getpid()) == mark
    assert process_alive(os.getpid(), mark)


def test_a_later_process_with_the_same_id_is_another() -> None:
    """The id alone does not identify a process."""
    assert not process_alive(os.getpid(), process_start_mark(os.getpid()) + "1")
    assert not process_alive(os.getpid(), "")


def test_a_process_that_ended_does_not_live() -> None:
    """Neither before its parent has waited for it nor afterwards."""
    child = subprocess.Popen(WAITING, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        mark = process_start_mark(child.pid)
        assert process_alive(child.pid, mark)
    finally:
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and its parent has not waited for it
    assert not process_alive(child.pid, mark)
    child.communicate()
    assert not process_alive(child.pid, mark)
    with pytest.raises(ProcessLookupError):
        process_start_mark(child.pid)


def test_a_process_that_never_was_has_no_mark() -> None:
    """The error has the process id."""
    with pytest.raises(ProcessLookupError, match=str(NO_PID)):
        process_start_mark(NO_PID)
    assert not process_alive(NO_PID, "1")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_name_with_parentheses_and_spaces_does_not_confuse(tmp_path: Path) -> None:
    """A command may contain parentheses; the start time follows the last one."""
    program = tmp_path / "a) Z 1 (b"
    program.symlink_to("/bin/cat")
    child = subprocess.Popen([str(program)], stdin=subprocess.PIPE)
    try:
        mark = process_start_mark(child.pid)
        assert mark.isdigit()
        assert process_alive(child.pid, mark)
    finally:
        child.communicate()


def test_without_proc_the_mark_comes_from_ps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without /proc, as on macOS, the mark is the start time that ps prints."""
    monkeypatch.setattr(processes, "Path", lambda path: Path("/nowhere") / path.lstrip("/"))
    try:
        mark = process_start_mark(os.getpid())
    except FileNotFoundError:
        pytest.skip("no ps here")
    assert mark
    assert process_alive(os.getpid(), mark)
    assert not process_alive(os.getpid(), "Thu Jan  1 00:00:00 1970")
    with pytest.raises(ProcessLookupError):
        process_start_mark(NO_PID)
