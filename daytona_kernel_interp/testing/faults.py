"""Planned faults: each has a target and a number of times that it applies."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PLACES = ("api", "toolbox", "preview", "start")


@dataclass(frozen=True)
class Fault:
    """One fault.

    ``on`` is the target: a request to the ``api`` or the ``toolbox``, a request through the ``preview`` proxy, or a
    sandbox's ``start`` (also its first). ``operation`` restricts it to one operation of the service, e.g.
    ``createSandbox``; ``sandbox`` to one sandbox, by id or name. It applies ``times`` times, or always if None.

    These fields replace the response: ``status`` with ``body`` and ``headers``; ``refuse`` closes the connection
    without a byte; ``hang`` sends no response. With ``after`` the operation is carried out first, so that only its
    response is lost. For a start, ``hang`` keeps the sandbox's state, ``error`` ends the start with that error, and
    ``delay_s`` delays it on the emulator's clock.

    These fields apply to the bytes of a preview: ``cut_after_bytes`` and ``cut_after_s`` close the connection,
    ``stall_after_bytes`` stops the transfer (all three count the bytes that the sandbox sends), ``delay_s`` delays both
    directions, ``bytes_per_s`` limits both directions, ``buffer_s`` collects bytes before they are forwarded, and
    ``replay`` sends a small request twice.
    """

    on: str
    operation: str | None = None
    sandbox: str | None = None
    times: int | None = 1
    status: int | None = None
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    refuse: bool = False
    hang: bool = False
    after: bool = False
    error: str | None = None
    delay_s: float = 0.0
    cut_after_bytes: int | None = None
    cut_after_s: float | None = None
    stall_after_bytes: int | None = None
    bytes_per_s: float | None = None
    buffer_s: float = 0.0
    replay: bool = False

    def __post_init__(self) -> None:
        if self.on not in PLACES:
            raise ValueError(f"a fault strikes one of {', '.join(PLACES)}, not {self.on!r}")
        if self.times is not None and self.times < 1:
            raise ValueError(f"a fault strikes at least once, not {self.times} times")

    @property
    def answers(self) -> bool:
        """Whether the fault replaces the real response."""
        return self.refuse or self.hang or self.status is not None

    @property
    def shapes(self) -> bool:
        """Whether the fault affects the bytes of a preview."""
        limits = (self.cut_after_bytes, self.cut_after_s, self.stall_after_bytes, self.bytes_per_s)
        return any(limit is not None for limit in limits) or self.delay_s > 0 or self.buffer_s > 0


_KINDS = {name.name: name.type for name in dataclasses.fields(Fault)}


def fault_from_json(value: object) -> Fault:
    """Return the fault that a JSON object describes; its keys are the fields of :class:`Fault`.

    Raises:
        ValueError: If the object does not describe a fault; the text has the reason.
    """
    if not isinstance(value, dict) or "on" not in value:
        raise ValueError("a fault is an object with at least the key 'on'")
    for name, given in value.items():
        if name not in _KINDS:
            raise ValueError(f"a fault has no {name!r}")
        if not _fits(str(_KINDS[name]), given):
            raise ValueError(f"a fault's {name!r} is {_KINDS[name]}, not {given!r}")
    return Fault(**value)


def _fits(kind: str, value: Any) -> bool:
    kinds = kind.split(" | ")
    if value is None or isinstance(value, bool):
        return (value is None and "None" in kinds) or (isinstance(value, bool) and "bool" in kinds)
    if isinstance(value, dict):
        return kind.startswith("Mapping") and all(isinstance(item, str) for item in value.values())
    number = isinstance(value, (int, float)) and "float" in kinds
    return number or (isinstance(value, int) and "int" in kinds) or (isinstance(value, str) and "str" in kinds)


def shape_of(faults: list[Fault]) -> Fault | None:
    """Return the faults that affect a stream as one; later faults override fields of earlier ones."""
    shaping = [fault for fault in faults if fault.shapes]
    if not shaping:
        return None
    merged = shaping[0]
    for fault in shaping[1:]:
        given = {
            known.name: getattr(fault, known.name)
            for known in dataclasses.fields(Fault)
            if known.name != "headers" and getattr(fault, known.name) != known.default
        }
        merged = dataclasses.replace(merged, **given)
    return merged


class FaultPlan:
    """The faults that have yet to apply."""

    def __init__(self) -> None:
        self._left: list[tuple[Fault, int | None]] = []

    def __iter__(self) -> Iterator[Fault]:
        return iter([fault for fault, _ in self._left])

    def add(self, fault: Fault) -> None:
        """Add a fault to the plan."""
        self._left.append((fault, fault.times))

    def clear(self) -> None:
        """Remove all faults."""
        self._left.clear()

    def take(self, on: str, operation: str | None = None, names: tuple[str, ...] = ()) -> list[Fault]:
        """Return the faults that apply to a target, and count one use of each."""
        struck, left = [], []
        for fault, times in self._left:
            wanted = fault.on == on and fault.operation in (None, operation)
            if not wanted or (fault.sandbox is not None and fault.sandbox not in names):
                left.append((fault, times))
                continue
            struck.append(fault)
            if times is None or times > 1:
                left.append((fault, None if times is None else times - 1))
        self._left = left
        return struck
