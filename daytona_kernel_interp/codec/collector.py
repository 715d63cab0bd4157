"""The pause of Python's cyclic garbage collector while values are encoded and decoded.

A value of many parts makes the collector run again and again, which takes half the time. The collector belongs to the
whole process, and several threads may encode and decode at once: the first one pauses it, and the last one restores
what it was. A program that has disabled the collector never sees it enabled.
"""

from __future__ import annotations

import gc
import os
import threading


class CollectorPause:
    """A context manager that pauses the collector; blocks may overlap in threads, and be nested."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._was_enabled = False  # before the first of them

    def __enter__(self) -> None:
        with self._lock:
            if not self._blocks:
                self._was_enabled = gc.isenabled()
                gc.disable()
            self._blocks += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._blocks = max(0, self._blocks - 1)
            if not self._blocks and self._was_enabled:
                gc.enable()

    def forget_other_threads(self) -> None:
        """Begin anew in a forked child: a thread that held the lock, or was in a block, does not exist there."""
        self._lock = threading.Lock()
        if self._blocks and self._was_enabled:
            gc.enable()
        self._blocks = 0


_pause = CollectorPause()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pause.forget_other_threads)


def collector_paused() -> CollectorPause:
    """Return the context manager of this process; one object is faster than a generator for each value."""
    return _pause
