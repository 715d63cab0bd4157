"""The kernel of a person's session: ipykernel's own.

Somebody sits at it, so nothing of what :mod:`.kernel` does for a model's code holds here: ``input()`` asks, ``exit``
ends the kernel, history is kept, tracebacks have colours, no output is cut (front ends have limits of their own, and a
notebook is expected to have all of it), and what code changes in its own process stays changed.
"""

from __future__ import annotations

from typing import Any

from .ipykernel_compat import HookedKernel
from .output import pack


class InteractiveKernel(HookedKernel):
    """ipykernel's kernel; an interrupt reaches every ``await``, and any text can be shown."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.session.pack = pack
