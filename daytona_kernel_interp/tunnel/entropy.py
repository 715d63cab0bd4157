"""The random numbers of a link: ids, secrets and the jitter of its retries.

They are handed down from the session, so that a simulation can replace them; nothing below the session draws any other.
"""

from __future__ import annotations

import random
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Entropy:
    """The sources of random numbers that a tunnel uses.

    Attributes:
        token_hex: Returns a secret of the given number of bytes, as hexadecimal digits.
        jitter: Returns a float in [0, 1); not secret.
    """

    token_hex: Callable[[int], str] = secrets.token_hex
    jitter: Callable[[], float] = random.random
