"""The kernel process: it imports, waits for its start request, serves, and ends when no relay is left.

``python -m daytona_kernel_interp.guest.kernel.kernel_app REQUEST_FD READY_FD CWD``

The relay starts a spare process before a kernel is needed, so that the imports (most of a cold start) overlap with its
own start. The request is one JSON line on REQUEST_FD: session key, and paths of the connection file, the journal and
the lifeline. The reply is one JSON line on READY_FD with the ports. REQUEST_FD stays open: its end of file means that
the relay is gone. The kernel outlives its relay. The next relay opens the lifeline, a FIFO; if none does within
``lifetime_s``, the kernel ends with its process group.
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
from .iopub_batch import IOPubBatch
from .ipykernel_compat import IOPubQueue, NoShellChannelThread
from .journal_writer import JournalWriter, PendingText
from .nested_loops import allow_nested_loops
from .output import CellStream

if TYPE_CHECKING:
    from collections.abc import Iterator

LIFELINE_GRACE_S = 1.0  # for atexit hooks, between SIGTERM and SIGKILL


class KernelApp(ipykernel.kernelapp.IPKernelApp):
    """``IPKernelApp`` without command-line options and configuration files."""

    def parse_command_line(self, argv: object = None) -> None:
        """Take no options: the relay's request has all settings."""

    def load_config_file(self, *args: object, **kwargs: object) -> None:
        """Load no file: the kernel behaves the same on every machine."""

    journal: JournalWriter | None = None

    def start(self) -> None:
        """Serve until a shutdown request stops the loop; code that stops it does not end the kernel.

        A KeyboardInterrupt or SystemExit in a task of the code leaves asyncio's loop and ends that task only, so the
        loop is started again. The same applies to a cancellation for an async cell that arrives while the loop waits.
        """
        self.kernel.start()
        loop: Any = IOLoop.current()
        self.io_loop = loop
        if self.journal is not None:
            allow_nested_loops(loop.asyncio_loop)
        while True:
            try:
                self.io_loop.start()
                if getattr(self.kernel, "ends", True):
                    return
            except (KeyboardInterrupt, SystemExit, asyncio.CancelledError):
                continue

    def init_control(self, context: Any) -> None:
        """Let the main thread read the shell socket; ipykernel 7 has a thread for that."""
        super().init_control(context)
        if self.journal is not None:
            self.shell_channel_thread = NoShellChannelThread()

    def init_iopub(self, context: Any) -> None:
        """Bind iopub without a high-water mark: beyond it, PUB would drop messages, even the idle status.

        Each message is written to the journal first, in the thread that publishes it.
        """
        context.sndhwm = 0
        super().init_iopub(context)
        journal = self.journal
        if journal is None:
            return
        batch, lock, pid = IOPubBatch(IOPubQueue(self.iopub_thread)), threading.Lock(), os.getpid()

        def send_multipart(frames: Any, *args: Any, **kwargs: Any) -> None:
            if os.getpid() != pid:
                return  # a forked child, where the lock may be held for ever
            with lock:  # the journal has the order in which messages are sent
                journal.message_published(frames)
                batch.send(frames, *args, **kwargs)

        self.iopub_thread.send_multipart = send_multipart


def configuration(key: str, *, personal: bool = False) -> Config:
    """Return the complete configuration. A ``personal`` kernel keeps ipykernel's defaults where possible."""
    config = Config()
    config.Session.key = key.encode("ascii")
    config.KernelApp.ip = "127.0.0.1"  # the default lists all network interfaces first, for 40 ms
    config.KernelApp.outstream_class = f"{CellStream.__module__}.{CellStream.__qualname__}"
    # ipykernel 7 warns of TCP without encryption; here the ports are on loopback, and the link uses TLS.
    config.KernelApp.log_level = "ERROR"
    if personal:
        config.KernelApp.kernel_class = InteractiveKernel
        return config
    config.KernelApp.kernel_class = our_kernel.Kernel
    config.KernelApp.exec_PYTHONSTARTUP = False
    config.HistoryManager.enabled = False  # a commit to sqlite in every cell would be its largest cost
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
    sys.argv[:] = [""]  # as in interactive Python: a cell's argparse must not read the arguments of this process
    request = _read_start_request(request_fd)
    for name, value in request["environment"].items():
        os.environ.setdefault(name, value)
    personal = bool(request.get("personal"))
    configured = configuration(request["key"], personal=personal)
    app = KernelApp.instance(connection_file=request["connection_file"], config=configured)
    if not personal:  # the front end of a person reads no journal
        journal = Path(request["journal"])
        with contextlib.suppress(OSError):  # a full disk costs the text that a dying kernel has not published
            CellStream.pending, CellStream.pipe_folder = PendingText(journal), journal
        app.journal = JournalWriter(journal, CellStream.pending)
    with _without_debugpy():
        app.initialize()
    app.log.setLevel(app.log_level)  # traitlets sets the level of its handler only
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
    """Keep ipykernel from importing debugpy, two thirds of its initialization. Code in cells can still import it.

    A personal kernel has no visual debugger for this reason: with debugpy it takes 1.4 times as long to start as
    ipykernel's own, without it 1.2 times. ``%debug`` and ``breakpoint()`` work, because they are IPython's.
    """
    sys.modules["debugpy"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["debugpy"]


def _remove_from_pythonpath() -> None:
    """Remove the folder of the uploaded package from PYTHONPATH, which child processes of cells inherit."""
    runtime = os.path.join(os.environ["DAYTONA_KERNEL_FOLDER"], "runtime")
    rest = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry not in ("", runtime)]
    os.environ["PYTHONPATH"] = os.pathsep.join(rest)
    if not rest:
        del os.environ["PYTHONPATH"]


def _change_directory(cwd: str) -> None:
    """Change to the working directory of the cells. A ``random.py`` in it must not replace a module of this process.

    IPython adds that directory to ``sys.path``; what is imported by then stays.
    """
    if sys.path and sys.path[0] == os.getcwd():
        del sys.path[0]
    os.chdir(cwd)


def _read_start_request(fd: int) -> dict[str, Any]:
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(fd, 4096)
        if not piece:
            sys.exit(0)  # the relay ended, or does not need this process
        line += piece
    request: dict[str, Any] = json.loads(line)
    return request


def _end_without_relay(request_fd: int, lifeline: str, lifetime_s: float) -> None:
    """Wait for the end of the relay, then for the next one. If none comes in time, end the process group."""
    fd = os.open(lifeline, os.O_RDONLY | os.O_NONBLOCK)  # before the relay ends: the next one may come at once
    os.read(request_fd, 1)  # returns when the relay ends
    os.close(request_fd)
    while _readable(fd, lifetime_s):  # a relay writes a byte when it opens the FIFO
        while os.read(fd, 16):
            _readable(fd, None)
        # A FIFO whose writer is gone stays at end of file. A new descriptor waits for the next writer.
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
