"""How a check says what it checks, and how sure that is."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")


class Known(Enum):
    """Where a fact is known from, the surest first."""

    SDK = "daytona SDK 0.226.1: what it sends and what it accepts"
    OLD_SERVER = "the last public server, daytonaio/daytona v0.190; newer ones may differ"
    DOCS = "the service's documentation"
    REPORTED = "seen on the running service by users, in public issues"
    INFERRED = "inferred from the others, not proven"


def fact(text: str, known: Known) -> Callable[[F], F]:
    """Mark a check with its fact and where that is known from."""

    def mark(check: F) -> F:
        marked: F = pytest.mark.fact(text, known)(check)
        return marked

    return mark
