"""The kernel of a notebook or console that a person uses: ipykernel's own, with two corrections.

The changes that :mod:`.kernel` makes for a model's code do not apply here. ``input()`` asks the person, ``exit`` ends
the kernel, history is kept, and tracebacks have colours. Output is not limited: front ends have limits of their own,
and a notebook is expected to have all of it. Changes that code makes in its own process stay.
"""

from __future__ import annotations

from typing import Any

from .ipykernel_compat import HookedKernel
from .output import pack


class InteractiveKernel(HookedKernel):
    """ipykernel's kernel, whose interrupts reach every ``await`` and whose messages carry any text."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.session.pack = pack
