"""``ThroughProxy``: a local sandbox whose relay is reached through a proxy."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from daytona_kernel_interp.sandboxes.local import LocalSandbox, RunningLocalSandbox

if TYPE_CHECKING:
    from daytona_kernel_interp.sandboxes.base import RelayAddress

    from .proxy import Proxy


@dataclass(frozen=True)
class ThroughProxy:
    """A sandbox that runs ``inner`` and connects ``proxy`` to its current relay."""

    proxy: Proxy
    inner: LocalSandbox = field(default_factory=LocalSandbox)

    async def start(self) -> RunningThroughProxy:
        return RunningThroughProxy(await self.inner.start(), self.proxy)


class RunningThroughProxy:
    """A running local sandbox with another address."""

    def __init__(self, inner: RunningLocalSandbox, proxy: Proxy) -> None:
        self.inner, self._proxy = inner, proxy
        self.address = self._redirected(inner.address)

    @property
    def pid(self) -> int:
        return self.inner.pid

    @property
    def resume_lifetime_s(self) -> float:
        return self.inner.resume_lifetime_s

    def record(self) -> None:
        """Return None: a proxy ends with its process, so no other process could attach."""

    async def restart_relay(self) -> RelayAddress | None:
        address = await self.inner.restart_relay()
        if address is None:
            return None
        self.address = self._redirected(address)
        return self.address

    def may_be_alive(self) -> bool:
        return self.inner.may_be_alive()

    def release(self) -> None:
        self.inner.release()

    async def stop(self) -> None:
        await self.inner.stop()

    def _redirected(self, address: RelayAddress) -> RelayAddress:
        port = urlsplit(address.url).port
        assert port is not None
        self._proxy.lead_to(port)
        return dataclasses.replace(address, url=f"ws://127.0.0.1:{self._proxy.port}")
