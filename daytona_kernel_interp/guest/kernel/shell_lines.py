"""Shell lines of cells: ``!command``, and ``text = !command``.

IPython gives such a command a terminal without a user, so a command that reads input waits for ever. Here its standard
input is at its end from the start. Its output goes to one pipe, not to a terminal: a pager would open a terminal by
name and wait for a key. Python in the command does not buffer, so that its stdout and stderr keep their order, and a
long command shows its lines as it prints them.
"""

from __future__ import annotations

import codecs
import contextlib
import functools
import os
import select
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_POLL_S = 0.05  # an interrupt that no signal announces is raised between two instructions only
_END_S = 0.3  # that a command has to end after SIGINT


def run_shell_line(command: str, show: Callable[[str], object]) -> int:
    """Run a command, and pass what it prints to ``show``. Return its exit code, or the negative number of its signal.

    It ends when the shell does: what the command has left in the background no longer belongs to it. An interrupt ends
    the command and is raised.
    """
    environment = {"PYTHONUNBUFFERED": "1", **os.environ}
    with subprocess.Popen(
        [_shell(), "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        bufsize=0,
    ) as process:
        assert process.stdout is not None
        try:
            _show_all(process, process.stdout.fileno(), show)
        except BaseException:
            _end(process)
            raise
    code = process.returncode
    return code if code <= 128 else 128 - code  # a shell returns 128 + n for a command that signal n has ended


def _show_all(process: subprocess.Popen[bytes], output: int, show: Callable[[str], object]) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    poll = select.poll()
    poll.register(output, select.POLLIN)
    while True:
        ended = process.poll() is not None  # before it is read, so that nothing is left after it
        if not poll.poll(0 if ended else _POLL_S * 1000):
            if ended:
                break
            continue
        data = os.read(output, 1 << 16)
        if not data:
            break
        show(decoder.decode(data))
    while process.poll() is None:  # it has closed its output and goes on
        select.select([], [], [], _POLL_S / 10)
    if rest := decoder.decode(b"", final=True):
        show(rest)


@functools.lru_cache(maxsize=1)
def _shell() -> str:
    return shutil.which("bash") or "/bin/sh"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a command with all its children, and kill those that stay."""
    import psutil  # one of ipykernel's dependencies; no other cell needs it

    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for one in family:
        with contextlib.suppress(psutil.Error):  # it has ended
            one.send_signal(signal.SIGINT)
    _, left = psutil.wait_procs(family, timeout=_END_S)
    for one in left:
        with contextlib.suppress(psutil.Error):
            one.kill()
    process.wait()
