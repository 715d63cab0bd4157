"""The kernel of a person's session: ipykernel's own.

Somebody sits at it, so nothing of what :mod:`.kernel` does for a model's code holds here: ``input()`` asks, ``exit``
ends the kernel, history is kept, tracebacks have colours, no output is cut (front ends have limits of their own, and a
notebook is expected to have all of it), and what code changes in its own process stays changed.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from ipykernel.ipkernel import IPythonKernel

from .interrupts import cancelled_by_sigint
from .output import pack

if TYPE_CHECKING:
    from collections.abc import Iterator


class InteractiveKernel(IPythonKernel):
    """ipykernel's kernel; an interrupt reaches every ``await``, and any text can be shown."""

    session: Any
    _execute_sleep = 0  # half a millisecond a cell, a mitigation that a flush before the reply makes needless

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.session.pack = pack

    @contextlib.contextmanager
    def _cancel_on_sigint(self, future: Any) -> Iterator[None]:
        with cancelled_by_sigint(future):
            yield
