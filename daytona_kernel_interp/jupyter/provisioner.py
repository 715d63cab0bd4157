"""``SandboxProvisioner``: the kernel provisioner by which jupyter_client starts kernels in sandboxes.

A kernelspec names the provisioner and holds the sandbox's options; ``daytona-kernel install`` writes two. Sandbox and
tunnel run on the I/O loop's own thread, so that a program without an event loop, or with a busy one, does not delay
the tunnel.
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
_CONSTRUCTOR_ARGUMENTS = frozenset({"kernel_id", "kernel_spec", "parent", "config", "log"})


class SandboxProvisioner(KernelProvisionerBase):
    """A kernel provisioner for sandboxes. A restart keeps the sandbox; a shutdown deletes it unless ``keep`` is set."""

    def __init__(self, **kwargs: Any) -> None:  # jupyter_client passes its own arguments and the kernelspec's config
        super().__init__(**{name: value for name, value in kwargs.items() if name in _CONSTRUCTOR_ARGUMENTS})
        self._options = {name: value for name, value in kwargs.items() if name not in _CONSTRUCTOR_ARGUMENTS}
        self._session: SandboxKernel | None = None
        self._launched = False  # a kernel was launched, and wait() has not yet returned its exit code
        describe(self._options)

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Refuse extra arguments, and reduce the environment to the variables that the kernelspec names.

        Raises:
            SandboxFailed: If arguments were given for the kernel's command line.
        """
        given = kwargs.pop("extra_arguments", None)
        if given:
            raise SandboxFailed(
                f"a kernel in a sandbox takes no command-line arguments, but got {' '.join(map(str, given))}: "
                "set the options of its sandbox in the kernelspec"
            )
        kwargs = await super().pre_launch(cmd=self.kernel_spec.argv, **kwargs)
        names = self.kernel_spec.env
        return {**kwargs, "env": {name: value for name, value in kwargs["env"].items() if name in names}}

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the kernel; the first call starts the sandbox, too.

        Raises:
            SandboxFailed, TunnelLost, WireMismatch: If the start failed; a sandbox that was created is deleted.
        """
        registry.install_sigterm_handler()
        starts = self._session is None
        if self._session is None:
            description = describe(self._options, env=kwargs.get("env") or {}, cwd=kwargs.get("cwd") or os.getcwd())
            self._session = SandboxKernel(description, self.log)
        try:
            info = await io_loop().arun(self._session.start_kernel())
        except BaseException:  # a cancelled start must not leave a sandbox behind either
            if starts:
                await self.cleanup()
            raise
        self._launched = True
        self.connection_info = cast("KernelConnectionInfo", {**info, "key": info["key"].encode("ascii")})
        return self.connection_info

    @property
    def has_process(self) -> bool:
        """Whether a kernel was launched and :meth:`wait` has not returned since."""
        return self._launched

    async def poll(self) -> int | None:
        """Return the kernel's exit code, or None while it runs.

        KernelManager polls every 0.1 s while a kernel ends, so the answer is the last state that the tunnel received.
        """
        return 0 if self._session is None else self._session.exit_code

    async def wait(self) -> int | None:
        """Wait for the kernel's end and return its exit code."""
        code = 0 if self._session is None else await io_loop().arun(self._session.wait())
        self._launched = False
        return code

    async def send_signal(self, signum: int) -> None:
        """Let the relay send SIGINT, SIGTERM or SIGKILL to the kernel's process group.

        Raises:
            SandboxFailed: If it is another signal.
        """
        name = _SIGNALS.get(signal.Signals(signum))
        if name is None:
            raise SandboxFailed(f"a kernel in a sandbox cannot be sent {signal.Signals(signum).name}")
        if self._session is not None:
            await io_loop().arun(self._session.signal(name))

    async def kill(self, restart: bool = False) -> None:
        """Kill the kernel."""
        await self._end("kill")

    async def terminate(self, restart: bool = False) -> None:
        """Ask the kernel to end."""
        await self._end("terminate")

    async def shutdown_requested(self, restart: bool = False) -> None:
        """Expect the kernel's end: it is not reported as a crash."""
        if self._session is not None:
            self._session.expect_end()

    async def cleanup(self, restart: bool = False) -> None:
        """Delete the sandbox, or stop it if ``keep`` is set; before a restart do nothing."""
        if restart or self._session is None:
            return
        session, self._session, self._launched = self._session, None, False
        await io_loop().arun(session.aclose())

    async def _end(self, how: str) -> None:
        if self._session is not None:
            self._session.expect_end()
            await io_loop().arun(self._session.signal(how))
