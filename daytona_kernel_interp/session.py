"""A session: a running sandbox with its tunnel, kernel and tool runner, started and closed as one."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from .kernel import Kernel
from .tools import Invoke, ToolRunner
from .tunnel import Tunnel

if TYPE_CHECKING:
    from .sandboxes.base import RunningSandbox, Sandbox


class Session:
    """Lives on the I/O loop. :meth:`start` makes one, :meth:`aclose` ends all of it."""

    def __init__(self, sandbox: RunningSandbox, tunnel: Tunnel, kernel: Kernel, tools: ToolRunner) -> None:
        self.sandbox, self.tunnel, self.kernel, self.tools = sandbox, tunnel, kernel, tools

    @classmethod
    async def start(cls, description: Sandbox, invoke: Invoke, max_value_bytes: int | None) -> Session:
        """Start what ``description`` says and a kernel in it; a failure leaves nothing behind.

        Raises:
            SandboxFailed: If sandbox, relay or kernel did not start.
            TunnelLost: If the relay went away meanwhile.
            WireMismatch: If the sandbox runs another version of the wire.
        """
        async with contextlib.AsyncExitStack() as stack:
            sandbox = await description.start()
            stack.push_async_callback(sandbox.stop)
            tunnel = await Tunnel.open(sandbox.address)
            stack.push_async_callback(tunnel.aclose)
            kernel = await Kernel.start(tunnel, max_value_bytes=max_value_bytes)
            stack.pop_all()
        return cls(sandbox, tunnel, kernel, ToolRunner(invoke, max_value_bytes))

    async def aclose(self) -> None:
        """End kernel, tunnel and sandbox; whatever one step raises, the others are done."""
        self.tools.close()
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self.sandbox.stop)
            stack.push_async_callback(self.tunnel.aclose)
            stack.push_async_callback(self.kernel.aclose)
