"""``SandboxProvisioner``: the kernel provisioner by which jupyter_client starts kernels in sandboxes.

A kernelspec names the provisioner and holds the sandbox's options; ``daytona-kernel install`` writes two. Sandbox and
tunnel run on the I/O loop's own thread, so that a program without an event loop, or with a busy one, does not delay
the tunnel: the methods of :class:`SandboxKernel` run there, those of the provisioner on the program's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
from typing import TYPE_CHECKING, Any, cast

from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase

from ..client.execution_result import kernel_died
from ..config import DIAL_S
from ..errors import KernelError, SandboxFailed
from ..runtime import cleanup as registry
from ..runtime.event_loop import io_loop
from ..tunnel.local_endpoints import make_endpoints_folder
from ..tunnel.tunnel import KernelObserver, Tunnel
from ..wire.keepalive import LinkTimings
from .kernelspec import describe

if TYPE_CHECKING:
    import logging

    from jupyter_client.connect import KernelConnectionInfo

    from ..sandboxes.base import Sandbox

_SIGNALS = {signal.SIGINT: "interrupt", signal.SIGTERM: "terminate", signal.SIGKILL: "kill"}
_CONSTRUCTOR_ARGUMENTS = frozenset({"kernel_id", "kernel_spec", "parent", "config", "log"})
_UNKNOWN_EXIT = 1  # the exit code where the real one is unknown
_ENDPOINTS = "k"  # the name of the local endpoints, the same for each kernel


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


class SandboxKernel(KernelObserver):
    """A sandbox and its current kernel; :meth:`aclose` ends both.

    Every kernel has the same endpoints and the same key, also after a crash or the loss of the sandbox, so that a
    restart does not concern clients.
    """

    def __init__(self, description: Sandbox, log: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        self._description, self._log = description, log
        self._folder, self._key = make_endpoints_folder(), secrets.token_hex(32)
        self._resources = contextlib.AsyncExitStack()  # sandbox and tunnel
        self._tunnel: Tunnel | None = None
        self._lost = False  # the sandbox, or the link to it
        self._kernel = ""
        self._ended = asyncio.Event()
        self._end_expected = False
        self._status_task: asyncio.Task[None] | None = None
        self.exit_code: int | None = None  # of the last kernel; None while it runs. Other threads read it, too

    async def start_kernel(self) -> dict[str, Any]:
        """Start a kernel in place of the previous one and return its connection info.

        Raises:
            SandboxFailed, TunnelLost, WireMismatch: If it did not start. The sandbox is unchanged.
        """
        if self._lost:
            self._log.warning("Starting a new sandbox; the files of the previous one are gone.")
            await self._close_sandbox()
        with registry.cancel_on_exit():
            if self._tunnel is None:
                await self._start_sandbox()
            assert self._tunnel is not None
            self._tunnel.close_kernel(self._kernel)
            self._ended, self._end_expected, self.exit_code = asyncio.Event(), False, None
            try:
                self._kernel, file = await self._tunnel.start_kernel(
                    self, personal=True, key=self._key, name=_ENDPOINTS
                )
                await self._tunnel.kernel_started(self._kernel)
            except BaseException:  # also if the start is cancelled: wait() must return
                self._end(_UNKNOWN_EXIT)
                raise
        info: dict[str, Any] = json.loads(file.read_bytes())
        return info

    async def _start_sandbox(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            sandbox = await self._description.start()
            stack.push_async_callback(sandbox.stop)
            times = LinkTimings(resume_lifetime_s=sandbox.resume_lifetime_s)
            tunnel = await Tunnel.open(
                sandbox.address, restart_relay=sandbox.restart_relay, times=times, folder=self._folder
            )
            stack.push_async_callback(tunnel.aclose)
            self._tunnel, self._lost = tunnel, False
            registry.register(self)
            self._resources = stack.pop_all()

    def expect_end(self) -> None:
        """Expect the kernel's end, as after a request to shut down: it is not reported as a crash."""
        self._end_expected = True

    async def signal(self, name: str) -> None:
        """Send ``interrupt``, ``terminate`` or ``kill`` to the kernel. A kernel that has ended is not an error."""
        if self._tunnel is None or self._ended.is_set():
            return
        try:
            await asyncio.wait_for(self._tunnel.signal(self._kernel, name), DIAL_S)
        except (KernelError, asyncio.TimeoutError) as error:
            self._log.warning("The kernel could not be reached to %s it: %s.", name, str(error) or "no reply")

    async def wait(self) -> int:
        """Wait for the kernel's end and return its exit code, negative for a signal."""
        await self._ended.wait()
        assert self.exit_code is not None
        return self.exit_code

    async def aclose(self) -> None:
        """End kernel and sandbox. Further calls do nothing."""
        registry.unregister(self)
        self._end_expected = True
        await self._close_sandbox()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _close_sandbox(self) -> None:
        resources, self._resources, self._tunnel = self._resources, contextlib.AsyncExitStack(), None
        await resources.aclose()

    # --- called by the tunnel ---------------------------------------------------------------------------

    def kernel_exited(self, event: dict[str, Any]) -> None:
        """Log how the kernel ended, unless its end was expected."""
        code = event.get("code")
        if not self._end_expected:
            error = kernel_died(event, "")
            text, stderr = str(error), error.stderr.strip()[-1000:]
            self._log.warning("%s%s.%s", text[:1].upper(), text[1:], f"\n{stderr}" if stderr else "")
        self._end(code if isinstance(code, int) else _UNKNOWN_EXIT)

    def streams_broken(self) -> None:
        """Log that messages may be missing if the kernel is alive. The requests of its clients cannot be repeated."""
        if self._status_task is None:
            self._status_task = asyncio.create_task(self._report_broken_streams())
            self._status_task.add_done_callback(lambda _: setattr(self, "_status_task", None))

    async def _report_broken_streams(self) -> None:
        tunnel = self._tunnel
        with contextlib.suppress(KernelError):  # the relay is lost: relay_lost() reports that
            if tunnel is not None and (await tunnel.kernels()).get(self._kernel, {}).get("alive"):
                self._log.warning(
                    "The link to the kernel was lost and replaced: output of the running cell, and its end, may be "
                    "missing. The kernel has its variables; interrupt it if a cell does not seem to end."
                )

    def relay_lost(self, error: KernelError) -> None:
        """Log that the sandbox or the link is lost, and end the kernel."""
        self._lost = True
        if not self._end_expected:
            self._log.error("The kernel is lost: %s.", str(error).rstrip("."))
        self._end(_UNKNOWN_EXIT)

    def _end(self, code: int) -> None:
        if not self._ended.is_set():
            self.exit_code = code
            self._ended.set()
