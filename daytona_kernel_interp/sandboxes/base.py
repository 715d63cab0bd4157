"""What every kind of sandbox offers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class RelayAddress:
    """How to reach a relay. ``headers`` go with every upgrade; nothing secret shows in ``repr``."""

    url: str  # ws://… or wss://…, without a path
    secret: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class RunningSandbox(Protocol):
    """A started sandbox. Whoever started it stops it."""

    @property
    def address(self) -> RelayAddress:
        """Where its relay listens."""

    async def stop(self) -> None:
        """End the relay, its kernels and the sandbox. Calling it again does nothing."""


@runtime_checkable
class Sandbox(Protocol):
    """A description of where kernels run. Holds no connection and may be copied and pickled."""

    async def start(self) -> RunningSandbox:
        """Start one.

        Raises:
            SandboxFailed: If it could not be started; nothing of it is left.
        """
