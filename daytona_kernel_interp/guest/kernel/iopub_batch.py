"""Send several iopub messages with one wake-up of ipykernel's iopub thread.

A cell that prints nothing has four iopub messages: busy, execute_input, perhaps execute_result, and idle. ipykernel
wakes its iopub thread for each of them. Then that thread, the relay and the host run while the cell does, and on two
cores they take the main thread's turn. No client waits for the first three, so they stay in the thread's queue until
the next message that wakes it, in the order in which they were published. A cell that runs on has them sent by a timer
after ``HOLD_S``: a watcher sees the start of a long cell, and a display before a long computation.

The timer is a Linux timerfd, which the iopub thread's loop waits for: arming it is one system call and wakes no thread.
Where there is none, no message is held.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .ipykernel_compat import IOPubQueue

HOLD_S = 0.002
_HELD_TOPICS = (b"execute_input", b"execute_result", b"display_data")
_STATUS, _BUSY = b"status", b'"busy"'
_CLOCK_MONOTONIC = 1  # clock_gettime(2)
_TFD_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC  # timerfd_create(2): TFD_NONBLOCK and TFD_CLOEXEC have these values


class Timer:
    """A timer whose file descriptor is readable when it has expired."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        # Raises AttributeError where the function is missing, as on macOS.
        self.fd = library.timerfd_create(_CLOCK_MONOTONIC, _TFD_FLAGS)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        self._settime = library.timerfd_settime
        self._after, self._never = _itimerspec(HOLD_S), _itimerspec(0)

    def start(self) -> None:
        """Expire once, after ``HOLD_S``."""
        self._settime(self.fd, 0, self._after, None)

    def stop(self) -> None:
        """Do not expire."""
        self._settime(self.fd, 0, self._never, None)


class IOPubBatch:
    """Decides which messages wake the iopub thread. The caller serializes the calls of :meth:`send`."""

    def __init__(self, queue: IOPubQueue) -> None:
        self._queue = queue
        self._pid = os.getpid()
        self._holds = False
        self._timer: Timer | None = None
        try:
            self._timer = Timer()
        except (AttributeError, OSError):
            return
        queue.watch(self._timer.fd, self._expired)

    def send(self, frames: Sequence[Any], *args: Any, **kwargs: Any) -> None:
        """Queue a message, and wake the thread unless the message can wait; see ``zmq.Socket.send_multipart``."""
        timer = self._timer
        if timer is not None and os.getpid() == self._pid:  # a forked child has no iopub thread
            if _can_wait(frames):
                self._queue.add(frames, *args, **kwargs)
                if not self._holds:
                    self._holds = True
                    timer.start()
                return
            if self._holds:
                self._holds = False
                timer.stop()
        self._queue.send(frames, *args, **kwargs)

    def _expired(self) -> None:
        # On the iopub thread: a message may be added at the same time. It is sent now, or starts the timer again.
        self._holds = False
        self._queue.send_all()


def _can_wait(frames: Sequence[Any]) -> bool:
    topic = frames[0]
    return topic.endswith(_HELD_TOPICS) or (topic.endswith(_STATUS) and _BUSY in bytes(frames[-1]))


def _itimerspec(seconds: float) -> bytes:
    """Return a ``struct itimerspec``: interval and first expiration, each in seconds and nanoseconds."""
    return struct.pack("@4l", 0, 0, int(seconds), round(seconds % 1 * 1e9))
