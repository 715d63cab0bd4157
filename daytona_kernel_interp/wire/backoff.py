"""The waits between attempts to dial a relay."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FIRST_S = 0.02
LAST_S = 2.0


def delays(random: Callable[[], float]) -> Iterator[float]:
    """Yield waits in seconds: 20 ms doubling to 2 s, each drawn from its upper half.

    ``random`` returns floats in [0, 1). The jitter keeps many streams from dialling in step after a common
    outage.
    """
    wait_s = FIRST_S
    while True:
        yield wait_s * (0.5 + 0.5 * random())
        wait_s = min(2 * wait_s, LAST_S)
