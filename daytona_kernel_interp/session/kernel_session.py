"""A session: a running sandbox with its tunnel, kernel and tool runner, started and closed together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from ..client.kernel_driver import KernelDriver
from ..config import CLOSE_S, HEARTBEAT_S, KILL_ANSWER_S
from ..errors import KernelError, SandboxGone, SessionNotFound
from ..runtime import cleanup as registry
from ..sandboxes.remote_relay import RunningRelaySandbox
from ..sandboxes.select import adopt
from ..tools.binding import Invoke, ToolRunner
from ..tunnel.entropy import Entropy
from ..tunnel.tunnel import Tunnel
from ..wire.keepalive import LinkTimings
from .monitor_server import MonitorServer
from .session_file import SessionRecord, find_session

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable, Mapping

    from ..client.execution_result import ExecutionResult
    from ..client.output_collector import OutputCollector
    from ..client.outputs import Output
    from ..codec import values
    from ..sandboxes.base import RelayAddress, RunningSandbox, Sandbox
    from ..tools.binding import Tool, ToolObserver
    from ..tools.tool_loop import ToolLoop

log = logging.getLogger(__name__)


class KernelSession:
    """A session on the I/O loop. :meth:`start` creates it, :meth:`aclose` closes all of its parts."""

    def __init__(
        self, session_id: str, sandbox: RunningSandbox, tunnel: Tunnel, kernel: KernelDriver, tools: ToolRunner
    ) -> None:
        self.id = session_id
        self.sandbox, self.tunnel, self.kernel, self.tools = sandbox, tunnel, kernel, tools
        self._record: SessionRecord | None = None
        self._heartbeat_task: asyncio.Task[None] | None = None
        self.monitor_server = MonitorServer(kernel)
        self._last_cell: asyncio.Task[ExecutionResult] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._left = ""  # what remains of a sandbox that is not stopped, and the command that ends it
        # Called after the close, with whether the sandbox was shut down as well.
        self.on_closed: Callable[[bool], None] = lambda shut_down: None

    @classmethod
    async def start(
        cls, description: Sandbox, invoke: Invoke, max_value_bytes: int | None, *, times: LinkTimings | None = None
    ) -> KernelSession:
        """Start the sandbox of ``description`` and a kernel in it; after a failure, nothing is left running.

        Raises:
            SandboxFailed: If sandbox, relay or kernel did not start.
            TunnelLost: If the link to the relay was lost during the start.
            WireMismatch: If the sandbox runs another version of the wire.
        """
        with registry.cancel_on_exit():
            return await cls._start(description, invoke, max_value_bytes, times)

    @classmethod
    async def _start(
        cls, description: Sandbox, invoke: Invoke, max_value_bytes: int | None, times: LinkTimings | None
    ) -> KernelSession:
        entropy = Entropy()
        async with contextlib.AsyncExitStack() as stack:
            sandbox = await description.start()
            stack.push_async_callback(sandbox.stop)
            restarter = _RelayRestarter(sandbox)
            tunnel = Tunnel.begin(
                sandbox.address,
                restarter.restart_relay,
                times or LinkTimings(resume_lifetime_s=sandbox.resume_lifetime_s),
                entropy=entropy,
            )
            stack.push_async_callback(tunnel.aclose)
            if isinstance(sandbox, RunningRelaySandbox):  # the relay first closes streams that an earlier host has left
                await tunnel.wait_open()
            kernel = await _start_kernel(tunnel, max_value_bytes)
            session = cls(entropy.token_hex(4), sandbox, tunnel, kernel, ToolRunner(invoke, max_value_bytes))
            stack.push_async_callback(session.monitor_server.aclose)
            await session.monitor_server.open()
            session._write_record(restarter)
            registry.register(session)
            stack.pop_all()
        return session

    @classmethod
    async def adopt(cls, session_id: str, invoke: Invoke, max_value_bytes: int | None) -> KernelSession:
        """Become the host of a session whose earlier host process has ended.

        After a failure the session is unchanged, so that the caller can retry.

        Raises:
            SessionNotFound: If there is no session with this id, its host is alive, or its sandbox is gone.
            KernelDied: If its kernel is gone.
            SandboxFailed, TunnelLost, WireMismatch: As for :meth:`start`.
        """
        record = find_session(session_id)
        if record.host_lives:
            raise SessionNotFound(f"session {session_id} belongs to process {record.pid}, which is alive")
        async with contextlib.AsyncExitStack() as stack:
            sandbox = adopt(record.sandbox)
            if not sandbox.may_be_alive():
                record.delete()
                record.remove_endpoints()
                raise SessionNotFound(f"session {session_id} has ended: its host and its sandbox are gone")
            revival = _RelayRestarter(sandbox)
            try:
                address = await sandbox.restart_relay() or sandbox.address
            except SandboxGone as error:
                record.delete()
                record.remove_endpoints()
                raise SessionNotFound(f"session {session_id} is over: {error}") from error
            stack.callback(sandbox.release)
            times = LinkTimings(resume_lifetime_s=sandbox.resume_lifetime_s)
            tunnel = await Tunnel.open(address, restart_relay=revival.restart_relay, times=times, entropy=Entropy())
            stack.push_async_callback(tunnel.aclose)
            kernel = await KernelDriver.attach(tunnel, record.kernel, record.key, max_value_bytes=max_value_bytes)
            session = cls(session_id, sandbox, tunnel, kernel, ToolRunner(invoke, max_value_bytes))
            record.remove_endpoints()
            stack.push_async_callback(session.monitor_server.aclose)
            await session.monitor_server.open()
            session._write_record(revival)
            registry.register(session)
            stack.pop_all()
        return session

    async def run_cell(
        self,
        code: str,
        preamble: list[values.Buffer],
        tools: Mapping[str, Tool],
        *,
        context: contextvars.Context,
        tool_loop: ToolLoop | None,
        observer: ToolObserver | None,
        timeout_s: float | None,
        max_output_chars: int | None,
        on_output: Callable[[Output], None] | None = None,
        on_sent: Callable[[OutputCollector], None] | None = None,
    ) -> ExecutionResult:
        """Run one cell after the adopted one and return its result.

        Raises:
            KernelError, ExecutionAborted, ToolAborted: As for :meth:`KernelDriver.run`.
        """
        await self.wait_last_cell()
        self.tools.begin_cell(tools, context, tool_loop, observer)
        return await self.kernel.run(
            code,
            preamble,
            self.tools,
            timeout_s=timeout_s,
            max_output_chars=max_output_chars,
            on_output=on_output,
            on_sent=on_sent,
        )

    async def adopt_last_cell(
        self, *, timeout_s: float | None, max_output_chars: int | None, on_output: Callable[[Output], None] | None
    ) -> None:
        """Find the last cell that the kernel started for the earlier host, and begin to wait for its end.

        Raises:
            KernelError: If the journal cannot be read.
        """
        cell = await self.kernel.find_last_cell(
            self.tools, timeout_s=timeout_s, max_output_chars=max_output_chars, on_output=on_output
        )
        if cell is not None:
            self._last_cell = asyncio.create_task(self.kernel.wait_ended(cell))

    async def last_cell(self) -> ExecutionResult | None:
        """Return the result of the adopted cell, or None without one.

        Raises:
            ExecutionAborted, ToolAborted: As for :meth:`KernelDriver.wait_ended`.
        """
        return None if self._last_cell is None else await self._last_cell

    async def wait_last_cell(self) -> None:
        """Wait until the adopted cell has ended, with or without an error."""
        if self._last_cell is not None:
            await asyncio.wait({self._last_cell})
            if not self._last_cell.cancelled():
                self._last_cell.exception()

    async def aclose(self) -> None:
        """Close kernel, tunnel and sandbox; an exception of one step does not prevent the others.

        Returns after ``CLOSE_S`` at the latest. What is not done by then goes on in the background, and the end of the
        process waits for it.
        """
        if self._closing is None:
            self._closing = registry.begin(self._close(), self._left)
        await asyncio.wait({self._closing}, timeout=CLOSE_S)
        if self._closing.done():
            self._closing.result()

    async def _close(self) -> None:
        self.tools.close()
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self.on_closed, True)
            stack.callback(registry.unregister, self)
            if self._record is not None:
                stack.callback(self._record.delete)
            stack.callback(self._stop_heartbeat)
            stack.push_async_callback(self.wait_last_cell)
            stack.push_async_callback(self.sandbox.stop)
            stack.push_async_callback(self.tunnel.aclose)
            stack.push_async_callback(self.kernel.aclose)
            if isinstance(self.sandbox, RunningRelaySandbox):  # which stays alive
                stack.push_async_callback(self._end_kernel)
            stack.push_async_callback(self.monitor_server.aclose)

    async def _end_kernel(self) -> None:
        with contextlib.suppress(KernelError, asyncio.TimeoutError):
            await asyncio.wait_for(self.tunnel.signal(self.kernel.id, "kill"), KILL_ANSWER_S)

    async def release(self) -> None:
        """Close this host's side only; sandbox and kernel stay alive so that another process can attach."""
        self.tools.close()
        registry.unregister(self)
        if self._record is not None:
            self._stop_heartbeat()
            self._record.clear_host()
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self.on_closed, False)
            stack.push_async_callback(self.wait_last_cell)
            stack.callback(self.sandbox.release)
            stack.push_async_callback(self.tunnel.aclose)
            stack.push_async_callback(self.kernel.aclose)
            stack.push_async_callback(self.monitor_server.aclose)

    async def _heartbeat(self, record: SessionRecord) -> None:
        """Update the time in the session file periodically; it shows until when this host was alive."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            record.touch()

    def _stop_heartbeat(self) -> None:
        if self._heartbeat_task is not None:
            self._heartbeat_task.cancel()

    def _write_record(self, restarter: _RelayRestarter) -> None:
        """Write the session file, which other processes need to attach, now and after each change."""
        facts = self.sandbox.record()
        if facts is None:
            return
        match facts:
            case {"kind": "daytona", "id": str(sandbox_id)}:
                self._left = f"sandbox {sandbox_id} (`daytona-kernel gc` deletes it)"
            case {"kind": "local", "pid": int(pid)}:
                self._left = f"the local sandbox of process {pid} (`kill {pid}` ends it)"
        record = self._record = SessionRecord.of_this_process(
            self.id,
            kernel=self.kernel.id,
            key=self.kernel.key,
            connection_file=str(self.kernel.connection_file),
            sandbox=facts,
            max_value_bytes=self.kernel.max_value_bytes,
        )
        try:
            record.write()
        except OSError as error:
            log.warning("no other process can attach to session %s: %s", self.id, error)
            self._record = None
            return

        self._heartbeat_task = asyncio.create_task(self._heartbeat(record))

        def update() -> None:
            record.sandbox = self.sandbox.record() or record.sandbox
            record.write()

        restarter.on_restarted = update


async def _start_kernel(tunnel: Tunnel, max_value_bytes: int | None) -> KernelDriver:
    """Start a kernel while the tunnel opens; if both fail, raise the error of the tunnel."""
    starting = asyncio.ensure_future(KernelDriver.start(tunnel, max_value_bytes=max_value_bytes))
    try:
        await tunnel.wait_open()
        return await starting
    except BaseException:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        raise


class _RelayRestarter:
    """The tunnel's access to the sandbox, which rewrites the session file after a relay restart."""

    def __init__(self, sandbox: RunningSandbox) -> None:
        self._sandbox = sandbox
        self.on_restarted: Callable[[], None] = lambda: None

    async def restart_relay(self) -> RelayAddress | None:
        """Restart the relay if it has ended; see :meth:`RunningSandbox.restart_relay`."""
        before = self._sandbox.address
        address = await self._sandbox.restart_relay()
        if address is not None and address != before:
            with contextlib.suppress(OSError):
                self.on_restarted()
        return address
