"""What code in cells may break and the next cell needs."""

from __future__ import annotations

import builtins
import subprocess
import sys
import types
from typing import Any

import pytest

from daytona_kernel_interp.guest.kernel.namespace_restore import NamespaceRestorer

pytestmark = pytest.mark.python


class Stream:
    """A stream whose methods code may replace."""

    def write(self, text: str) -> int:
        return len(text)


def make_shell() -> Any:
    module = types.ModuleType("__main__")
    history = types.SimpleNamespace(input_hist_parsed=["code"], output_hist={1: 2}, dir_hist=["/"])
    return types.SimpleNamespace(
        user_module=module,
        user_ns=vars(module),
        history_manager=history,
        get_ipython=lambda: "shell",
        exiter=lambda: "exit",
    )


@pytest.fixture
def restorer(monkeypatch: pytest.MonkeyPatch) -> tuple[NamespaceRestorer, Any, list[Any]]:
    streams: list[Any] = [Stream(), Stream()]
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # put back after the test
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    shell = make_shell()
    return NamespaceRestorer(shell, streams), shell, streams


def test_streams_and_builtins_come_back(restorer: tuple[NamespaceRestorer, Any, list[Any]]) -> None:
    """Replaced streams, methods of streams, and builtins that were replaced or deleted."""
    restore, _, streams = restorer
    original_len, original_open = len, open
    try:
        sys.stdout, sys.stderr = None, None
        streams[0].write = None
        builtins.len = None  # type: ignore[assignment]
        del builtins.open
    finally:
        restore.restore()
    assert (builtins.len, builtins.open) == (original_len, original_open)
    assert [sys.stdout, sys.stderr] == streams
    assert streams[0].write("text") == 4


def test_names_of_ipython_come_back(restorer: tuple[NamespaceRestorer, Any, list[Any]]) -> None:
    """IPython's own names always, those that code may use for itself only if they are gone."""
    restore, shell, _ = restorer
    restore.restore()
    shell.user_ns.update(_oh=None, In="mine")
    del shell.user_ns["Out"], shell.user_ns["exit"]
    restore.restore()
    history = shell.history_manager
    assert (shell.user_ns["_oh"], shell.user_ns["In"]) == (history.output_hist, "mine")
    assert (shell.user_ns["Out"], shell.user_ns["exit"]) == (history.output_hist, shell.exiter)
    assert shell.user_ns["get_ipython"]() == "shell"


def test_the_namespace_comes_back(restorer: tuple[NamespaceRestorer, Any, list[Any]]) -> None:
    """Code that replaces the shell's namespace or module works on its own until the cell ends."""
    restore, shell, _ = restorer
    module = shell.user_module
    module.x = 1
    shell.user_module, shell.user_ns = None, {}
    restore.restore()
    assert shell.user_module is module
    assert shell.user_ns["x"] == 1


def test_file_descriptors_come_back() -> None:
    """Descriptors 1 and 2 that code closed or replaced lead where they led. In a process whose own they are."""
    code = """
import os, sys, types
from daytona_kernel_interp.guest.kernel.namespace_restore import NamespaceRestorer
restorer = NamespaceRestorer(types.SimpleNamespace(user_module=sys), [])
os.close(1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
restorer.restore_descriptors()
os.write(1, b"out")
os.write(2, b"err")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert (result.stdout, result.stderr) == (b"out", b"err")
