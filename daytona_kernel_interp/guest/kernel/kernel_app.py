"""The kernel process: imports, waits for its order, serves, and ends when its relay is gone.

``python -m daytona_kernel_interp.guest.kernel.kernel_app ORDER_FD READY_FD CWD``. The relay starts it before anybody
asks for a kernel, so the imports (most of a cold start) overlap with the relay's own. The order, one JSON line on
ORDER_FD, has the session key and the paths of the connection file, journal and lifeline; the answer, one JSON
line on READY_FD, the ports that were bound. ORDER_FD then tells of the relay's end. The kernel outlives it: the next
relay opens the lifeline, a FIFO. Only when none comes within ``lifetime_s`` the kernel ends, with its whole process
group.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipykernel.kernelapp
from tornado.ioloop import IOLoop
from traitlets.config import Config

from . import kernel as our_kernel
from .interactive_kernel import InteractiveKernel
from .journal_writer import JournalWriter, PendingText
from .output import CellStream

if TYPE_CHECKING:
    from collections.abc import Iterator

LIFELINE_GRACE_S = 1.0  # for atexit hooks, between SIGTERM and SIGKILL


class KernelApp(ipykernel.kernelapp.IPKernelApp):
    """IPKernelApp without the configuration files of whoever owns the machine."""

    def parse_command_line(self, argv: object = None) -> None:
        """Take no options: the relay's order says it all."""

    def load_config_file(self, *args: object, **kwargs: object) -> None:
        """Load nothing: the kernel is the same wherever it runs."""

    journal: JournalWriter | None = None

    def start(self) -> None:
        """Serve until a shutdown request stops the loop.

        A KeyboardInterrupt or SystemExit that a task of the code raises leaves asyncio's loop; the task has ended with
        it, and everything else goes on. So does it after an exception that was meant for an async cell and came while
        the loop waited.
        """
        self.kernel.start()
        self.io_loop = IOLoop.current()
        while True:
            try:
                self.io_loop.start()
                return
            except (KeyboardInterrupt, SystemExit, asyncio.CancelledError):
                continue

    def init_iopub(self, context: Any) -> None:
        """Bind iopub without a high-water mark: PUB drops what exceeds it, the idle status included.

        What is published goes into the journal first, in the thread that publishes it.
        """
        context.sndhwm = 0
        super().init_iopub(context)
        journal = self.journal
        if journal is None:
            return
        send, lock = self.iopub_thread.send_multipart, threading.Lock()

        def send_multipart(frames: Any, *args: Any, **kwargs: Any) -> None:
            with lock:  # the journal has the order of what is sent
                journal.message_published(frames)
                send(frames, *args, **kwargs)

        self.iopub_thread.send_multipart = send_multipart


def configuration(key: str, *, personal: bool = False) -> Config:
    """Return the kernel's whole configuration; a person's is ipykernel's, wherever both have a choice."""
    config = Config()
    config.Session.key = key.encode("ascii")
    config.KernelApp.ip = "127.0.0.1"  # the default looks at every network interface first, for 40 ms
    config.KernelApp.outstream_class = f"{CellStream.__module__}.{CellStream.__qualname__}"
    config.KernelApp.log_level = (
        "ERROR"  # 7.x warns of TCP without encryption; the relay binds loopback and is behind TLS
    )
    if personal:
        config.KernelApp.kernel_class = InteractiveKernel
        return config
    config.KernelApp.kernel_class = our_kernel.Kernel
    config.KernelApp.exec_PYTHONSTARTUP = False
    config.HistoryManager.enabled = False  # a commit to sqlite for every cell is the largest cost of an execute
    config.InteractiveShell.colors = "NoColor"
    config.InteractiveShell.xmode = "Plain"
    config.PlainTextFormatter.pprint = False  # the text of a value is its repr
    return config


def main() -> None:
    """Run one kernel for the relay that started this process."""
    request_fd, ready_fd = int(sys.argv[1]), int(sys.argv[2])
    for fd in (request_fd, ready_fd):
        os.set_inheritable(fd, False)
    _remove_from_pythonpath()
    _change_directory(sys.argv[3])
    request = _read_start_request(request_fd)
    for name, value in request["environment"].items():
        os.environ.setdefault(name, value)
    personal = bool(request.get("personal"))
    configured = configuration(request["key"], personal=personal)
    app = KernelApp.instance(connection_file=request["connection_file"], config=configured)
    if not personal:  # a person's front end reads no journal
        journal = Path(request["journal"])
        CellStream.pending = PendingText(journal)
        app.journal = JournalWriter(journal, CellStream.pending)
    with _without_debugpy():
        app.initialize()
    app.log.setLevel(app.log_level)  # traitlets lets records be made for its handler to drop
    os.mkfifo(request["lifeline"], 0o600)
    watch = threading.Thread(
        target=_end_without_relay,
        args=(request_fd, request["lifeline"], request["lifetime_s"]),
        name="lifeline",
        daemon=True,
    )
    watch.start()
    ports = {f"{name}_port": getattr(app, f"{name}_port") for name in ("shell", "iopub", "stdin", "control", "hb")}
    os.write(ready_fd, json.dumps(ports).encode("ascii") + b"\n")
    os.close(ready_fd)
    app.start()


@contextlib.contextmanager
def _without_debugpy() -> Iterator[None]:
    """Keep ipykernel from importing debugpy, two thirds of its initialization; code in cells may still import it.

    A person's kernel goes without Jupyter's visual debugger for it: with debugpy its start takes 1.4 times a stock
    one's, without 1.2. ``%debug`` and ``breakpoint()`` are IPython's.
    """
    sys.modules["debugpy"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["debugpy"]


def _remove_from_pythonpath() -> None:
    """Take the folder that lends us this package out of PYTHONPATH: it is not for what the model's code starts."""
    runtime = os.path.join(os.environ["DAYTONA_KERNEL_FOLDER"], "runtime")
    rest = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry not in ("", runtime)]
    os.environ["PYTHONPATH"] = os.pathsep.join(rest)
    if not rest:
        del os.environ["PYTHONPATH"]


def _change_directory(cwd: str) -> None:
    """Go where the code works. What lies there is for the code: a ``random.py`` must not be ours.

    IPython looks there for modules as well, behind what is imported by now.
    """
    if sys.path and sys.path[0] == os.getcwd():
        del sys.path[0]
    os.chdir(cwd)


def _read_start_request(fd: int) -> dict[str, Any]:
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(fd, 4096)
        if not piece:
            sys.exit(0)  # never needed
        line += piece
    request: dict[str, Any] = json.loads(line)
    return request


def _end_without_relay(request_fd: int, lifeline: str, lifetime_s: float) -> None:
    """Wait for the end of the relay, and then for its successor; without one end the process group."""
    fd = os.open(lifeline, os.O_RDONLY | os.O_NONBLOCK)  # before the relay ends: a successor may come at once
    os.read(request_fd, 1)  # returns at the relay's end only
    os.close(request_fd)
    while _readable(fd, lifetime_s):  # the byte that says: here is a relay
        while os.read(fd, 16):
            _readable(fd, None)
        # A FIFO whose writer has gone says so for ever; a new descriptor waits for the next one.
        fd, old = os.open(lifeline, os.O_RDONLY | os.O_NONBLOCK), fd
        os.close(old)
    group = os.getpgrp()
    try:
        os.killpg(group, signal.SIGTERM)
    finally:
        threading.Event().wait(LIFELINE_GRACE_S)
        os.killpg(group, signal.SIGKILL)


def _readable(fd: int, timeout_s: float | None) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))


if __name__ == "__main__":
    main()
