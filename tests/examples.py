"""How many examples Hypothesis tries: some in the everyday profile, many in the deep one.

``make test`` uses the everyday profile, ``make test-deep`` and ``make test-matrix`` the deep one. Write
``@examples.at_most(40)`` where a test's examples are large, and ``examples.scaled(4000)`` where a test draws its
examples itself. Both count what the deep profile tries; the everyday profile tries a seventh.
"""

from __future__ import annotations

import os

from hypothesis import settings

EVERYDAY, DEEP = "everyday", "deep"
_SHARES = {EVERYDAY: 15, DEEP: 100}  # examples of a test that states no number, so also percents


def register_profiles() -> None:
    """Register both profiles and load the everyday one; ``--hypothesis-profile`` loads another."""
    # In CI the seeds are fixed and no example is kept. A limit of time for one example measures the machine's load.
    parent = settings.get_profile("ci" if "CI" in os.environ else "default")
    for name, count in _SHARES.items():
        settings.register_profile(name, parent, max_examples=count, deadline=None)
    settings.load_profile(EVERYDAY)


def scaled(count: int) -> int:
    """Return the share of ``count`` that the loaded profile tries."""
    return max(1, count * settings().max_examples // _SHARES[DEEP])


def at_most(count: int) -> settings:
    """Return settings for a test whose examples are large: ``count`` of them in the deep profile."""
    return settings(max_examples=scaled(count))
