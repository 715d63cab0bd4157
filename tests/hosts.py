"""Processes that use the package, each forked from one that has imported all of it: imports take seconds.

They are processes like any other: they end as Python ends, by themselves or by a signal.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

WAIT_S = 120.0
_ORDER_BYTES = 1 << 16


class Host:
    """One such process. What it prints are lines for :meth:`line`."""

    def __init__(self, pipe: socket.socket) -> None:
        pipe.settimeout(WAIT_S)
        self._pipe, self._lines = pipe, pipe.makefile("r", encoding="utf-8")
        self.pid = int(self.line())
        self.code: int | None = None

    def line(self) -> str:
        """Return the next line that it prints; ``""`` if it ended."""
        line = self._lines.readline()
        if line.startswith("exit "):
            self.code = int(line.split()[1])
            return ""
        return line.rstrip("\n")

    def send_signal(self, number: int) -> None:
        """Send a signal, if it has not ended."""
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self) -> int:
        """Return its exit code, the negative number of a signal; what it still prints is dropped."""
        while self.code is None:
            self.line()
        return self.code

    def close(self) -> None:
        """Kill it if it lives."""
        self.send_signal(signal.SIGKILL)
        self.wait()
        self._lines.close()
        self._pipe.close()


class Hosts:
    """Starts them, and ends those that are left."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "tests.hosts", str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=(theirs.fileno(),))
        self._started: list[Host] = []

    def __enter__(self) -> Hosts:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, code: str, env: Mapping[str, str]) -> Host:
        """Start a process that runs ``code`` in this environment and what ``env`` adds."""
        ours, theirs = socket.socketpair()
        with theirs:
            order = json.dumps({"code": code, "env": {**os.environ, **env}}).encode()
            assert len(order) <= _ORDER_BYTES
            socket.send_fds(self._control, [order], [theirs.fileno()])
        host = Host(ours)
        self._started.append(host)
        return host

    def close(self) -> None:
        """End all of them, and the one that they are forked from."""
        for host in self._started:
            host.close()
        self._control.close()
        self._process.wait()


def _serve(control: socket.socket) -> str | None:
    """Fork a process for every order; returns its code in each of them, and None here at the end."""
    while True:
        data, fds, _, _ = socket.recv_fds(control, _ORDER_BYTES, 1)
        if not data:
            return None
        if os.fork() == 0:
            break
        os.close(fds[0])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    control.close()
    child = os.fork()
    if child:  # reports the exit status
        _, status = os.waitpid(child, 0)
        os.write(fds[0], b"exit %d\n" % os.waitstatus_to_exitcode(status))
        os._exit(0)
    order = json.loads(data)
    os.dup2(fds[0], 1)
    os.close(fds[0])
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.environ.clear()
    os.environ.update(order["env"])
    print(os.getpid(), flush=True)
    return str(order["code"])


def _import() -> None:
    for name in ("demo.script", "interpreter.interpreter", "sandboxes.daytona.create"):
        importlib.import_module(f"daytona_kernel_interp.{name}")
    sdk = importlib.import_module("daytona")
    assert sdk.AsyncDaytona  # loads it
    assert sdk.DaytonaError
    gc.freeze()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    _import()
    given = _serve(socket.socket(fileno=int(sys.argv[1])))
    if given is not None:
        exec(compile(given, "<host>", "exec"), {"__name__": "__main__"})
