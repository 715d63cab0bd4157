"""The operations of the service by method, path and name, in the spelling of daytona SDK 0.226.1.

``operations.txt`` lists all operations of those clients. The response to an operation that the emulator does not
implement is an error with its name, so that no test passes because of a default response.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

API = "api"
TOOLBOX = "toolbox"
_LIST = Path(__file__).with_name("operations.txt")


@dataclass(frozen=True)
class Operation:
    """One operation; parameters in ``path`` are in braces."""

    side: str
    method: str
    path: str
    name: str


@functools.cache
def operations(side: str) -> tuple[Operation, ...]:
    """Return the operations of the API or of the toolbox."""
    rows = (line.split() for line in _LIST.read_text(encoding="utf-8").splitlines())
    return tuple(Operation(*row) for row in rows if row[0] == side)


def match(side: str, method: str, path: str) -> tuple[Operation, dict[str, str]] | None:
    """Return the operation of a request and the parameters in its path (still quoted in ``path``)."""
    parts = path.strip("/").split("/")
    best: tuple[int, Operation, dict[str, str]] | None = None
    for operation in _by_shape(side).get((method, len(parts)), ()):
        known = operation.path.strip("/").split("/")
        fixed = sum(name == part for name, part in zip(known, parts, strict=True))
        if all(name == part or name.startswith("{") for name, part in zip(known, parts, strict=True)) and (
            best is None or fixed > best[0]
        ):
            values = zip(known, parts, strict=True)
            best = fixed, operation, {name[1:-1]: unquote(part) for name, part in values if name.startswith("{")}
    return None if best is None else best[1:]


@functools.cache
def _by_shape(side: str) -> dict[tuple[str, int], list[Operation]]:
    shapes: dict[tuple[str, int], list[Operation]] = {}
    for operation in operations(side):
        shapes.setdefault((operation.method, operation.path.strip("/").count("/") + 1), []).append(operation)
    return shapes
