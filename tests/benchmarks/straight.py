"""A straight ZMQ send: the bytes of a value, to a process that takes them and says so. What no way with more can beat.

``python -m tests.benchmarks.straight`` is that process: it prints its port, and ends with its standard input.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import zmq

from daytona_kernel_interp.codec import values

if TYPE_CHECKING:
    from collections.abc import Sequence


class Straight:
    """A connection to a process that takes buffers."""

    def __enter__(self) -> Straight:
        command = [sys.executable, "-m", __name__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.REQ)
        self._socket.connect(f"tcp://127.0.0.1:{int(self._process.stdout.readline())}")
        self._send([b"first"])
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._context.destroy(linger=0)
        self._process.communicate()

    def milliseconds(self, value: Any, rounds: int) -> float:
        """Return how long the bytes of ``value`` take, encoded before; the median of some rounds."""
        buffers = values.dumps(value)
        return statistics.median(self._send(buffers) for _ in range(rounds))

    def _send(self, buffers: Sequence[values.Buffer]) -> float:
        begin = time.perf_counter()
        self._socket.send_multipart(buffers, copy=False)
        self._socket.recv()
        return (time.perf_counter() - begin) * 1000


def main() -> None:
    socket = zmq.Context().socket(zmq.REP)
    print(socket.bind_to_random_port("tcp://127.0.0.1"), flush=True)
    threading.Thread(target=_serve, args=(socket,), daemon=True).start()
    sys.stdin.read()


def _serve(socket: zmq.Socket[bytes]) -> None:
    while True:
        socket.recv_multipart(copy=False)
        socket.send(b"")


if __name__ == "__main__":
    main()
