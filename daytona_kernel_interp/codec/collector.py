"""The pause of Python's cyclic garbage collector while values are encoded and decoded.

A value of many parts makes the collector run again and again, which takes half the time. The collector belongs to the
whole process, and several threads may encode and decode at once: the first one pauses it, and the last one restores
what it was. A program that has disabled the collector never sees it enabled.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_lock = threading.Lock()
_pauses = 0  # how many blocks are running
_was_enabled = False  # before the first of them


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the collector during the block; blocks may overlap in threads."""
    global _pauses, _was_enabled
    with _lock:
        if not _pauses:
            _was_enabled = gc.isenabled()
            gc.disable()
        _pauses += 1
    try:
        yield
    finally:
        with _lock:
            _pauses -= 1
            if not _pauses and _was_enabled:
                gc.enable()
