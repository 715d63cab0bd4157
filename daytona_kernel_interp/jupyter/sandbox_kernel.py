"""A person's session: a sandbox in which one kernel follows the other, for a Jupyter program. Lives on the I/O loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import shutil
from typing import TYPE_CHECKING, Any

from ..client.execution import kernel_died
from ..config import DIAL_S
from ..errors import KernelError
from ..runtime import cleanup as registry
from ..tunnel.local_endpoints import make_endpoints_folder
from ..tunnel.tunnel import KernelObserver, Tunnel
from ..wire.keepalive import LinkTimings

if TYPE_CHECKING:
    import logging

    from ..sandboxes.base import RunningSandbox, Sandbox

_UNKNOWN_EXIT = 1  # the exit code of a kernel of which nobody saw how it ended
_ENDPOINTS = "k"  # the name of the endpoints: a kernel that follows another is found where that one was


class SandboxKernel(KernelObserver):
    """Made for the first kernel; :meth:`aclose` ends everything.

    Every kernel has the same endpoints and the same key, whatever became of the one before it or of its sandbox, so
    that clients need not know of restarts.
    """

    def __init__(self, description: Sandbox, log: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        self._description, self._log = description, log
        self._folder, self._key = make_endpoints_folder(), secrets.token_hex(32)
        self._sandbox: RunningSandbox | None = None
        self._tunnel: Tunnel | None = None
        self._lost = False  # the sandbox, or the way to it
        self._kernel = ""
        self._ended = asyncio.Event()
        self._end_expected = False
        self._status_task: asyncio.Task[None] | None = None
        self.exit_code: int | None = None  # of the last kernel; None: it runs. Read from other threads as well

    async def start_kernel(self) -> dict[str, Any]:
        """Start a kernel in place of the one before, if any, and return its connection info.

        Raises:
            SandboxFailed, TunnelLost, WireMismatch: If it did not start. What was there before is as it was.
        """
        if self._lost:
            self._log.warning("A new sandbox is started; the files of the one before are gone.")
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
            except BaseException:
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
        """The kernel is about to end because somebody wants it to."""
        self._end_expected = True

    async def signal(self, name: str) -> None:
        """Send ``interrupt``, ``terminate`` or ``kill`` to the kernel; one that has ended is no error."""
        if self._tunnel is None or self._ended.is_set():
            return
        try:
            await asyncio.wait_for(self._tunnel.signal(self._kernel, name), DIAL_S)
        except (KernelError, asyncio.TimeoutError) as error:
            self._log.warning("The kernel could not be reached to %s it: %s.", name, str(error) or "no answer came")

    async def wait(self) -> int:
        """Return the kernel's exit code, negative for a signal, when it has ended."""
        await self._ended.wait()
        assert self.exit_code is not None
        return self.exit_code

    async def aclose(self) -> None:
        """End kernel and sandbox. Calling it again does nothing."""
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

    # --- what the tunnel tells --------------------------------------------------------------------------

    def kernel_exited(self, event: dict[str, Any]) -> None:
        """Say how the kernel ended, unless that was wanted."""
        code = event.get("code")
        if not self._end_expected:
            error = kernel_died(event, "")
            stderr = error.stderr.strip()[-1000:]
            self._log.warning("%s.%s", _capital(str(error)), f"\n{stderr}" if stderr else "")
        self._end(code if isinstance(code, int) else _UNKNOWN_EXIT)

    def streams_broken(self) -> None:
        """Say that messages may be missing, if the kernel lives: a client's own requests cannot be repeated for it."""
        if self._status_task is None:
            self._status_task = asyncio.create_task(self._report_broken_streams())
            self._status_task.add_done_callback(lambda _: setattr(self, "_status_task", None))

    async def _report_broken_streams(self) -> None:
        tunnel = self._tunnel
        with contextlib.suppress(KernelError):  # then it is lost, which is told
            if tunnel is not None and (await tunnel.kernels()).get(self._kernel, {}).get("alive"):
                self._log.warning(
                    "The link to the kernel had to be made anew: what the running cell shows, and its end, may be "
                    "missing. The kernel has its variables; interrupt it if a cell does not seem to end."
                )

    def relay_lost(self, error: KernelError) -> None:
        """The sandbox, or the link to it, is gone, and the kernel with it."""
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
