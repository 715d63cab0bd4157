"""``SandboxKernel``: the sandbox of one Jupyter program's kernel, in which restarts start the next kernel.

All methods run on the I/O loop, except where a docstring says otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import shutil
from typing import TYPE_CHECKING, Any

from ..client.execution_result import kernel_died
from ..config import DIAL_S
from ..errors import KernelError
from ..runtime import cleanup as registry
from ..tunnel.local_endpoints import make_endpoints_folder
from ..tunnel.tunnel import KernelObserver, Tunnel
from ..wire.keepalive import LinkTimings

if TYPE_CHECKING:
    import logging

    from ..sandboxes.base import RunningSandbox, Sandbox

_UNKNOWN_EXIT = 1  # the exit code where the real one is unknown
_ENDPOINTS = "k"  # the name of the local endpoints, the same for each kernel


class SandboxKernel(KernelObserver):
    """A sandbox and its current kernel; :meth:`aclose` ends both.

    Every kernel has the same endpoints and the same key, also after a crash or the loss of the sandbox, so that a
    restart does not concern clients.
    """

    def __init__(self, description: Sandbox, log: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        self._description, self._log = description, log
        self._folder, self._key = make_endpoints_folder(), secrets.token_hex(32)
        self._sandbox: RunningSandbox | None = None
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
            self._sandbox, self._tunnel, self._lost = sandbox, tunnel, False
            registry.register(self)
            stack.pop_all()

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
        tunnel, self._tunnel = self._tunnel, None
        sandbox, self._sandbox = self._sandbox, None
        async with contextlib.AsyncExitStack() as stack:
            if sandbox is not None:
                stack.push_async_callback(sandbox.stop)
            if tunnel is not None:
                stack.push_async_callback(tunnel.aclose)

    # --- called by the tunnel ---------------------------------------------------------------------------

    def kernel_exited(self, event: dict[str, Any]) -> None:
        """Log how the kernel ended, unless its end was expected."""
        code = event.get("code")
        if not self._end_expected:
            error = kernel_died(event, "")
            stderr = error.stderr.strip()[-1000:]
            self._log.warning("%s.%s", _capital(str(error)), f"\n{stderr}" if stderr else "")
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


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
