"""The facts of checks and their sources."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")


class Known(Enum):
    """The source of a fact, the most reliable first."""

    SDK = "daytona SDK 0.226.1: what it sends and what it accepts"
    OLD_SERVER = "the last public server, daytonaio/daytona v0.190; newer ones may differ"
    DOCS = "the service's documentation"
    REPORTED = "seen on the running service by users, in public issues"
    INFERRED = "inferred from the others, not proven"


def fact(text: str, known: Known) -> Callable[[F], F]:
    """Mark a check with its fact and the fact's source."""

    def mark(check: F) -> F:
        marked: F = pytest.mark.fact(text, known)(check)
        return marked

    return mark
