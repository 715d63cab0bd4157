"""``RelaySandbox``: a relay that was started elsewhere, in a container or on another machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..wire.keepalive import RESUME_LIFETIME_S
from .base import RelayAddress
from .option_checks import check_seconds, check_text, check_texts, refuse_options

if TYPE_CHECKING:
    from collections.abc import Mapping

_REFUSED_TIMEOUT_S = 10.0  # a relay or its proxy may still be starting
_SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}


@refuse_options({"secret": "pass token="})
@dataclass(frozen=True)
class RelaySandbox:
    """Run the kernel with a relay that was started elsewhere.

    That is the image under Docker, or ``python -m daytona_kernel_interp.guest.relay.entrypoint`` with a token in its
    environment. Nothing is created and nothing is deleted. At shutdown the kernel ends, and the relay remains for the
    next host; it has one host at a time.

    Attributes:
        url: The relay's URL: ``wss://host``, ``ws://host:port``, or the same with http. Use wss over a network.
        token: The secret that the relay was started with. It is not in ``repr``.
        headers: Headers for a proxy in front of the relay. They are not in ``repr``.
        resume_lifetime: Seconds for which a lost link is dialed; at most the relay's own ``lifetime_s``.
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
        """Return the sandbox. The first dial shows whether its relay answers."""
        return RunningRelaySandbox(self)


class RunningRelaySandbox:
    """A relay that was started elsewhere. It outlives its hosts, so a session ends its kernel itself."""

    def __init__(self, description: RelaySandbox) -> None:
        parts = urlsplit(description.url)
        url = f"{_SCHEMES[parts.scheme]}://{parts.netloc}"
        # No API confirms a refusal: a token that is refused is wrong, while 307 and 404 may be a proxy's trouble.
        refusals = frozenset({401, 403})
        self.address = RelayAddress(url, description.token, description.headers, None, _REFUSED_TIMEOUT_S, refusals)
        self.resume_lifetime_s = description.resume_lifetime
        self._description = description

    @classmethod
    def adopt(cls, record: Mapping[str, Any]) -> RunningRelaySandbox:
        """Adopt the sandbox of a host that has ended, from its :meth:`record`.

        Raises:
            KeyError, TypeError, ValueError: If the record is invalid.
        """
        return cls(
            RelaySandbox(record["url"], record["token"], dict(record["headers"]), float(record["resume_lifetime"]))
        )

    def record(self) -> dict[str, Any] | None:
        """Return what :meth:`adopt` needs."""
        return {"kind": "relay", **vars(self._description), "headers": dict(self._description.headers)}

    async def restart_relay(self) -> RelayAddress | None:
        """Return None: this process cannot start the relay."""
        return None

    def may_be_alive(self) -> bool:
        """Return True: only a dial shows whether the relay is running."""
        return True

    def release(self) -> None:
        """Leave the relay running; this is all that release means here."""

    async def stop(self) -> None:
        """Leave the relay running: it ends where it was started."""
