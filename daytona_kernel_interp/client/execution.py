"""The state of a running cell, and how a cell or its kernel ended."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import KernelDied, SandboxFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from ..errors import KernelError
    from ..tools.binding import ToolAborted, ToolRunner
    from .output_collector import OutputCollector
    from .outputs import Output


_MAX_LATE_CHARS = 200_000


@dataclass(frozen=True)
class ExecutionResult:
    """The result of a cell whose kernel is alive."""

    cell: OutputCollector
    background_output: str  # printed by threads of earlier cells
    interrupted: str | None = None  # the rung of the interrupt ladder that ended it: "interrupt" or "exception"
    timed_out: bool = False


class BackgroundOutput:
    """Text printed by threads of cells that have ended."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._chars = 0

    def add(self, text: str) -> None:
        """Append text up to the limit; drop the rest."""
        if self._chars < _MAX_LATE_CHARS:
            self._parts.append(text[:_MAX_LATE_CHARS])
            self._chars += len(self._parts[-1])

    def take(self) -> str:
        """Return the text and clear the buffer."""
        text, self._parts, self._chars = "".join(self._parts), [], 0
        return text


class ExecutionAborted(Exception):
    """The kernel died or the link was lost during a cell; carries the error and the cell's outputs so far."""

    def __init__(self, error: KernelError, cell: OutputCollector) -> None:
        super().__init__(str(error))
        self.error, self.cell = error, cell


class Execution:
    """A running cell: what is known of it, and the events that its waiters wait for."""

    def __init__(self, cell: OutputCollector, tools: ToolRunner, on_output: Callable[[Output], None] | None) -> None:
        self.cell, self.tools, self.on_output = cell, tools, on_output
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.interrupt_requested = asyncio.Event()
        self.sent_here = True  # this process sent the request
        self.started = False  # the kernel is known to have started it
        self.not_run = False  # the kernel is known not to have started it
        self.interrupted = False
        self.reply_lost = False  # the reply's connection is gone; the journal has the reply
        self.must_end = False
        self.kill_reason = ""  # why this host killed the kernel, if it did
        self.tool_abort: ToolAborted | None = None
        self.resolving: asyncio.Task[None] | None = None
        self.submit_timer: asyncio.TimerHandle | None = None

    def require_end(self) -> None:
        """Require the cell to end, if necessary by killing the kernel."""
        self.must_end = True
        self.interrupt_requested.set()

    def abort(self, error: ToolAborted) -> None:
        """End the call because a host tool raised ``error``."""
        self.tool_abort = error
        self.require_end()

    def end(self) -> None:
        """Mark the cell as finished."""
        if self.submit_timer is not None:
            self.submit_timer.cancel()
        if not self.done.done():
            self.done.set_result(None)


def kernel_died(event: Mapping[str, Any], kill_reason: str) -> KernelDied:
    """Return the error that tells how a kernel ended.

    ``event`` is the relay's exit event; ``kill_reason`` says why this host killed the kernel, if it did.
    """
    code, signal_name, oom = event.get("code"), event.get("signal"), event.get("oom") is True
    how = f"signal {signal_name or -code}" if isinstance(code, int) and code < 0 else f"exit code {code}"
    what = f"the kernel's process ended ({how})" if isinstance(code, int) else "the kernel's process is gone"
    if oom:
        what = f"the kernel's process was killed because the sandbox ran out of memory ({how})"
    if event.get("relay_ends") is True:  # as when a container is stopped
        what = "the sandbox's relay received the signal to end and ended the kernel"
    if kill_reason:
        what = f"{kill_reason} and nothing stopped the code, so the kernel was killed"
    return KernelDied(
        f"{what}; all variables are lost",
        exit_code=code if isinstance(code, int) else None,
        out_of_memory=oom,
        stderr=str(event.get("stderr", "")),
    )


async def wait_first(*futures: asyncio.Future[Any], timeout_s: float | None) -> None:
    """Wait until one future is done or the time is up; raise nothing."""
    await asyncio.wait(futures, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)


async def wait_all(steps: list[asyncio.Future[Any]], dead: asyncio.Future[KernelError], timeout_s: float) -> None:
    """Wait for all ``steps``, unless ``dead`` resolves first.

    Raises:
        SandboxFailed: If the time was up.
        KernelError: Why the kernel died, or what a step raised.
    """
    end = asyncio.get_running_loop().time() + timeout_s
    try:
        while pending := [step for step in steps if not step.done()]:
            left_s = end - asyncio.get_running_loop().time()
            await wait_first(*pending, dead, timeout_s=None if left_s == math.inf else max(0.0, left_s))
            for step in steps:
                if step.done():
                    step.result()
            if dead.done():
                raise dead.result()
            if left_s <= 0:
                raise SandboxFailed(f"the kernel did not answer within {timeout_s:g} s")
    finally:
        for step in steps:
            step.cancel()
        await asyncio.gather(*steps, return_exceptions=True)


async def run_unless(step: Coroutine[Any, Any, None], end: asyncio.Future[Any]) -> None:
    """Await ``step`` until ``end`` is done; raise what ``step`` raises."""
    task = asyncio.ensure_future(step)
    try:
        await wait_first(task, end, timeout_s=None)
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
