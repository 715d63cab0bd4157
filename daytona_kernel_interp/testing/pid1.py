"""The first process of an emulated sandbox, which starts and ends all others.

It is a standalone script (``python -I -S pid1.py CONTROL_FD ISOLATED``) with few imports, because every sandbox waits
for it. It may have its own network namespace. It receives requests over a socket, one per datagram, with fields joined
by NUL bytes: ``spawn`` (with three file descriptors), ``socket``, ``listen``, ``signal``, ``tree``. The sandbox ends at
the end of its standard input, so no process outlives the emulator.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys

REQUEST_BYTES = 1 << 17
_IFF_UP, _SIOCSIFFLAGS = 1, 0x8914  # <net/if.h>, <linux/sockios.h>
_PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM)


def main(control: socket.socket, isolated: bool) -> None:
    """Serve until standard input or the control socket ends."""
    adopt_orphans()
    if isolated:
        loopback_up()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    poll = select.poll()
    for fd in (0, woken, control.fileno()):
        poll.register(fd, select.POLLIN)
    control.send(b"ready")
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if 0 in ready and not os.read(0, 1):
            return
        if woken in ready:
            os.read(woken, 4096)
            reap(control)
        if control.fileno() in ready and not serve(control):
            return


def serve(control: socket.socket) -> bool:
    """Carry out one request; return False after the last one."""
    data, fds, _, _ = socket.recv_fds(control, REQUEST_BYTES, 3)
    for fd in fds:
        os.set_inheritable(fd, False)  # otherwise a background process would keep the pipes of other processes open
    operation, *fields = data.decode("utf-8", "surrogateescape").split("\0")
    try:
        if operation == "spawn":
            control.send(b"ok\0%d" % spawn(fields, fds))
        elif operation == "socket":
            family = socket.AF_INET6 if fields[0] == "6" else socket.AF_INET
            with socket.socket(family, socket.SOCK_STREAM) as made:
                socket.send_fds(control, [b"ok\0"], [made.fileno()])
        elif operation == "listen":
            with socket.create_server(("127.0.0.1", 0)) as made:
                socket.send_fds(control, [b"ok\0%d" % made.getsockname()[1]], [made.fileno()])
        elif operation == "signal":
            number, *targets = map(int, fields)
            control.send(b"ok\0" + b"\0".join(b"%d" % pid for pid in targets if kill(pid, number)))
        elif operation == "tree":
            pid = int(fields[0])
            control.send(b"ok\0" + b"\0".join(b"%d" % known for known in (-pid, pid, *descendants(pid))))
        else:
            return False
    except OSError as error:
        control.send(b"error\0" + (error.strerror or str(error)).encode())
    finally:
        for fd in fds:
            os.close(fd)
    return True


def spawn(fields: list[str], fds: list[int]) -> int:
    """Start a process in a new session and return its id."""
    cwd, count, *rest = fields
    arguments, environment = rest[: int(count)], rest[int(count) :]
    os.chdir(cwd)
    actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(fds)]
    variables = dict(variable.split("=", 1) for variable in environment)
    return os.posix_spawn(
        arguments[0], arguments, variables, file_actions=actions, setsid=True, setsigdef=_IGNORED_BY_PYTHON
    )


def kill(pid: int, number: int) -> bool:
    """Signal a process, or a group for a negative id; return whether it exists. Signal 0 only checks."""
    try:
        os.kill(pid, number)
    except OSError:
        return False
    return True


def reap(control: socket.socket | None) -> bool:
    """Collect the exit codes of ended children; return whether children remain."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True
        if control is not None:
            control.send(b"exit\0%d\0%d" % (pid, os.waitstatus_to_exitcode(status)))


def end_all() -> None:
    """Kill all processes of the sandbox and wait until they have ended."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    while reap(None):
        for pid in descendants(os.getpid()):
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def descendants(pid: int) -> list[int]:
    """Return the ids of all processes below ``pid``."""
    children: dict[int, list[int]] = {}
    for child, parent in _pairs():
        children.setdefault(parent, []).append(child)
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _pairs() -> list[tuple[int, int]]:
    if not os.path.isdir("/proc/self"):
        import subprocess

        lines = subprocess.run(["ps", "-axo", "pid=,ppid="], capture_output=True, text=True, check=False).stdout
        return [(int(pid), int(parent)) for pid, parent in map(str.split, lines.splitlines())]
    pairs = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as stat:
                    pairs.append((int(name), int(stat.read().rpartition(b")")[2].split()[1])))
            except OSError:
                continue
    return pairs


def adopt_orphans() -> None:
    """Become the parent of orphaned processes of the sandbox. Linux only."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def loopback_up() -> None:
    """Bring up the loopback device, which is down in a new network namespace."""
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = b"lo".ljust(16, b"\0") + _IFF_UP.to_bytes(2, sys.byteorder) + bytes(22)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)


if __name__ == "__main__":
    try:
        main(socket.socket(fileno=int(sys.argv[1])), sys.argv[2] == "isolated")
    finally:
        end_all()
