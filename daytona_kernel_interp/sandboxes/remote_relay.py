"""``RelaySandbox``: a relay that somebody else started, in a container or on another machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..wire.keepalive import RESUME_LIFETIME_S
from .base import RelayAddress
from .option_checks import check_seconds, check_text, check_texts, refuse_options

if TYPE_CHECKING:
    from collections.abc import Mapping

_SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}


@refuse_options({"secret": "pass token="})
@dataclass(frozen=True)
class RelaySandbox:
    """Run the kernel where a relay runs that somebody else started.

    That is our image under Docker, or ``python -m daytona_kernel_interp.guest.relay.entrypoint`` with a token in its
    environment. Nothing is made and nothing is deleted. At shutdown its kernel ends, and the relay stays for the next
    host, one at a time.

    Attributes:
        url: Where it listens: ``wss://host``, ``ws://host:port``, or the same with http. Over a network use wss.
        token: The secret that it was started with. It does not show in ``repr``.
        headers: What a proxy in front of it wants. They do not show in ``repr``.
        resume_lifetime: Seconds that a lost link is dialled; at most the relay's own ``lifetime_s``.
    """

    url: str
    token: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    resume_lifetime: float = RESUME_LIFETIME_S

    def __post_init__(self) -> None:
        check_text("url", self.url)
        parts = urlsplit(self.url)
        if parts.scheme not in _SCHEMES or not parts.hostname or parts.path.strip("/") or parts.query:
            raise ValueError(f"url must be like wss://host or ws://host:port, without a path, not {self.url!r}")
        if not isinstance(self.token, str):
            raise TypeError(f"token must be a text, not {type(self.token).__name__}")
        if not self.token:
            raise ValueError("token must be the secret that the relay was started with; it is empty")
        check_texts("headers", self.headers)
        check_seconds("resume_lifetime", self.resume_lifetime)

    async def start(self) -> RunningRelaySandbox:
        """Return it; whether it answers is seen when it is dialled."""
        return RunningRelaySandbox(self)


class RunningRelaySandbox:
    """A relay of somebody else's. It outlives its hosts, so a session ends its kernel itself."""

    def __init__(self, description: RelaySandbox) -> None:
        self._description = description

    @classmethod
    def adopt(cls, record: Mapping[str, Any]) -> RunningRelaySandbox:
        """Return the sandbox of a host that is gone, from its :meth:`record`.

        Raises:
            KeyError, TypeError, ValueError: If it is no such record.
        """
        return cls(
            RelaySandbox(record["url"], record["token"], dict(record["headers"]), float(record["resume_lifetime"]))
        )

    @property
    def address(self) -> RelayAddress:
        """Where it listens."""
        parts = urlsplit(self._description.url)
        url = f"{_SCHEMES[parts.scheme]}://{parts.netloc}"
        return RelayAddress(url, self._description.token, self._description.headers)

    @property
    def resume_lifetime_s(self) -> float:
        """How long a lost link is dialled."""
        return self._description.resume_lifetime

    def record(self) -> dict[str, Any] | None:
        """Return what :meth:`adopt` needs."""
        wanted = self._description
        return {
            "kind": "relay",
            "url": wanted.url,
            "token": wanted.token,
            "headers": dict(wanted.headers),
            "resume_lifetime": wanted.resume_lifetime,
        }

    async def restart_relay(self) -> RelayAddress | None:
        """Nothing can be done for it from here."""
        return None

    def may_be_alive(self) -> bool:
        """Nothing is known of it from here."""
        return True

    def release(self) -> None:
        """Leave it."""

    async def stop(self) -> None:
        """Leave it: whoever started it ends it."""
