"""Protocols of every kind of sandbox, and the address of a relay."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ..errors import SandboxFailed

if TYPE_CHECKING:
    from collections.abc import Mapping


# The statuses with which the relay, a proxy or a login page in front of it refuses a dial. Behind a proxy each may also
# mean that the proxy's own backends are in trouble.
REFUSALS = frozenset({307, 401, 403, 404})


@dataclass(frozen=True)
class RelayAddress:
    """The address of a relay. ``headers`` are sent with every upgrade; secrets are not in ``repr``."""

    url: str  # ws://... or wss://..., without a path
    secret: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    host: str | None = None  # the address to connect to, if not that of the URL's host name
    refused_timeout_s: float = 0.0  # seconds in which a refusal of the first dials is retried
    # The refusals that end a link which was open, if they persist. The others count only while the service confirms
    # the address: see `RunningSandbox.restart_relay`.
    final_refusals: frozenset[int] = REFUSALS


class ServiceRefused(SandboxFailed):
    """The service answers, and refuses this process's key: no address can be confirmed any more."""


class RunningSandbox(Protocol):
    """A started sandbox. Its session stops or releases it."""

    @property
    def address(self) -> RelayAddress:
        """The address of its relay."""

    @property
    def resume_lifetime_s(self) -> float:
        """Seconds for which the relay waits for a host, and a host for the relay."""

    def record(self) -> dict[str, Any] | None:
        """Return what another process needs to adopt the sandbox (JSON), or None if that is impossible.

        It has the relay's secret, so it belongs only into files that other users cannot read.
        """

    async def restart_relay(self) -> RelayAddress | None:
        """Start the relay again if it has ended.

        Return its address if it has changed, or if the service was reached and confirms it; None if it is unknown
        whether the address is right.

        Raises:
            ServiceRefused: If the service refuses this process's key.
            SandboxFailed: If it did not start; a later attempt may succeed.
            SandboxGone: If it can never start again.
        """

    def may_be_alive(self) -> bool:
        """Return whether relay or kernels may be running, as far as is known without a request to them."""

    def release(self) -> None:
        """Leave relay and kernels running, for a process that adopts them within the resume lifetime."""

    async def stop(self) -> None:
        """End the relay, its kernels and the sandbox. Further calls do nothing."""


@runtime_checkable
class Sandbox(Protocol):
    """A description of a sandbox. It has no connection, and can be copied and pickled."""

    async def start(self) -> RunningSandbox:
        """Start the sandbox.

        Raises:
            SandboxFailed: If it could not be started; nothing is left running.
        """
