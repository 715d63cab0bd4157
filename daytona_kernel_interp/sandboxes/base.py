"""What every kind of sandbox offers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class RelayAddress:
    """How to reach a relay. ``headers`` go with every upgrade; nothing secret shows in ``repr``."""

    url: str  # ws://… or wss://…, without a path
    secret: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    host: str | None = None  # where to connect to, if not to the host that the url names
    refused_timeout_s: float = 0.0  # how long refusals may last at the start, without being final


class RunningSandbox(Protocol):
    """A started sandbox. Whoever started it stops it."""

    @property
    def address(self) -> RelayAddress:
        """Where its relay listens."""

    @property
    def resume_lifetime_s(self) -> float:
        """How long the relay waits for a host, and a host for the relay, in seconds."""

    def record(self) -> dict[str, Any] | None:
        """Return what another process needs to take the sandbox up (JSON), or None where none can.

        It holds the relay's secret, so it goes into files of this user only.
        """

    async def restart_relay(self) -> RelayAddress | None:
        """Start the relay again if it has ended, and return its address; None if it lives, or cannot be started.

        Raises:
            SandboxFailed: If it did not start.
            SandboxGone: If it never will.
        """

    def may_be_alive(self) -> bool:
        """Whether relay or kernel may still run, as far as can be told without asking them."""

    def release(self) -> None:
        """Leave relay and kernels running, for whoever takes them up within the lifetime."""

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
