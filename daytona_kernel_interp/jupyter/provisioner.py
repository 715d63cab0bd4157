"""``SandboxProvisioner``: jupyter_client's way to a kernel in a sandbox, for every Jupyter program.

A kernelspec names it (``daytona-kernel install`` writes two), and has the sandbox's options. All that it starts lives
on the I/O loop's own thread, so that a program without a loop, or with a busy one, does not hold up the tunnel.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any, cast

from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase

from ..errors import SandboxFailed
from ..runtime import cleanup as registry
from ..runtime.event_loop import io_loop
from .kernelspec import describe
from .sandbox_kernel import SandboxKernel

if TYPE_CHECKING:
    from jupyter_client.connect import KernelConnectionInfo

_SIGNALS = {signal.SIGINT: "interrupt", signal.SIGTERM: "terminate", signal.SIGKILL: "kill"}
_JUPYTERS = frozenset({"kernel_id", "kernel_spec", "parent", "config", "log"})


class SandboxProvisioner(KernelProvisionerBase):
    """Starts kernels in a sandbox. A restart keeps the sandbox; a shutdown deletes it, unless its options keep it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{name: value for name, value in kwargs.items() if name in _JUPYTERS})
        self._options = {name: value for name, value in kwargs.items() if name not in _JUPYTERS}
        self._session: SandboxKernel | None = None
        self._launched = False  # a kernel was launched, and nobody has waited for its end yet
        describe(self._options)

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Refuse what a kernel in a sandbox cannot be given, and leave the program's environment behind.

        Raises:
            SandboxFailed: If arguments were given for the kernel's command line.
        """
        given = kwargs.pop("extra_arguments", None)
        if given:
            raise SandboxFailed(
                f"a kernel in a sandbox takes no arguments, and {' '.join(map(str, given))} was given: "
                "the options of its sandbox stand in its kernelspec"
            )
        kwargs = await super().pre_launch(cmd=self.kernel_spec.argv, **kwargs)
        wanted = self.kernel_spec.env
        return {**kwargs, "env": {name: value for name, value in kwargs["env"].items() if name in wanted}}

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the kernel, and before the first one the sandbox.

        Raises:
            SandboxFailed, TunnelLost, WireMismatch: If that did not work; nothing is left of it.
        """
        registry.install_sigterm_handler()
        if self._session is None:
            description = describe(self._options, env=kwargs.get("env") or {}, cwd=kwargs.get("cwd") or os.getcwd())
            self._session = await io_loop().arun(_make_kernel(description, self.log))
            try:
                info = await io_loop().arun(self._session.start_kernel())
            except BaseException:
                await self.cleanup()
                raise
        else:
            info = await io_loop().arun(self._session.start_kernel())
        self._launched = True
        self.connection_info = cast("KernelConnectionInfo", {**info, "key": info["key"].encode("ascii")})
        return self.connection_info

    @property
    def has_process(self) -> bool:
        """Whether a kernel was launched whose end nobody has waited for."""
        return self._launched

    async def poll(self) -> int | None:
        """Return the kernel's exit code, or None while it runs.

        KernelManager asks every 0.1 s while a kernel ends, so this is what the tunnel last heard.
        """
        return 0 if self._session is None else self._session.exit_code

    async def wait(self) -> int | None:
        """Return the kernel's exit code when it has ended."""
        code = 0 if self._session is None else await io_loop().arun(self._session.wait())
        self._launched = False
        return code

    async def send_signal(self, signum: int) -> None:
        """Have the relay send the kernel's process group a signal: SIGINT, SIGTERM or SIGKILL."""
        name = _SIGNALS.get(signal.Signals(signum))
        if name is None:
            raise SandboxFailed(f"a kernel in a sandbox cannot be sent {signal.Signals(signum).name}")
        if self._session is not None:
            await io_loop().arun(self._session.signal(name))

    async def kill(self, restart: bool = False) -> None:
        """End the kernel at once."""
        await self._end("kill")

    async def terminate(self, restart: bool = False) -> None:
        """Ask the kernel to end."""
        await self._end("terminate")

    async def shutdown_requested(self, restart: bool = False) -> None:
        """The kernel is about to end."""
        if self._session is not None:
            self._session.expect_end()

    async def cleanup(self, restart: bool = False) -> None:
        """Delete the sandbox, or stop one that is kept; before a restart leave it."""
        if restart or self._session is None:
            return
        session, self._session, self._launched = self._session, None, False
        await io_loop().arun(session.aclose())

    async def _end(self, how: str) -> None:
        if self._session is not None:
            self._session.expect_end()
            await io_loop().arun(self._session.signal(how))


async def _make_kernel(description: Any, log: Any) -> SandboxKernel:
    return SandboxKernel(description, log)  # on the loop that it lives on
