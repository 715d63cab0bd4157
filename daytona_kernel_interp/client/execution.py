"""A cell under way, and how it or its kernel ended."""

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
    """A cell that ended with its kernel alive."""

    cell: OutputCollector
    background_output: str  # what earlier cells' threads printed since they ended
    interrupted: str | None = None  # which rung of the ladder ended it: "interrupt" or "exception"
    timed_out: bool = False


class BackgroundOutput:
    """What threads of earlier cells printed since they ended."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._chars = 0

    def add(self, text: str) -> None:
        """Add text, if there is room."""
        if self._chars < _MAX_LATE_CHARS:
            self._parts.append(text[:_MAX_LATE_CHARS])
            self._chars += len(self._parts[-1])

    def take(self) -> str:
        """Return all of it, and forget it."""
        text, self._parts, self._chars = "".join(self._parts), [], 0
        return text


class ExecutionAborted(Exception):
    """A cell whose kernel died or whose link was lost: the error, and what the cell had shown."""

    def __init__(self, error: KernelError, cell: OutputCollector) -> None:
        super().__init__(str(error))
        self.error, self.cell = error, cell


class Execution:
    """A cell under way, and who waits for what of it."""

    def __init__(self, cell: OutputCollector, tools: ToolRunner, on_output: Callable[[Output], None] | None) -> None:
        self.cell, self.tools, self.on_output = cell, tools, on_output
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.interrupt_requested = asyncio.Event()
        self.sent_here = True  # this process sent it
        self.started = False  # the kernel is known to have taken it up
        self.not_run = False  # and known not to have
        self.interrupted = False
        self.reply_lost = False  # the connection that its reply goes to is gone; the journal has it
        self.must_end = False
        self.kill_reason = ""  # why, if it was
        self.tool_abort: ToolAborted | None = None
        self.resolving: asyncio.Task[None] | None = None
        self.submit_timer: asyncio.TimerHandle | None = None

    def require_end(self) -> None:
        """The cell has to end, even if its kernel has to die for it."""
        self.must_end = True
        self.interrupt_requested.set()

    def abort(self, error: ToolAborted) -> None:
        """A host tool ends the call."""
        self.tool_abort = error
        self.require_end()

    def end(self) -> None:
        """The cell is over."""
        if self.submit_timer is not None:
            self.submit_timer.cancel()
        if not self.done.done():
            self.done.set_result(None)


def kernel_died(event: Mapping[str, Any], kill_reason: str) -> KernelDied:
    """Return the error that tells how a kernel ended.

    ``event`` is the relay's; ``kill_reason`` is why this host killed the kernel, if it did.
    """
    code, signal_name, oom = event.get("code"), event.get("signal"), event.get("oom") is True
    how = f"signal {signal_name or -code}" if isinstance(code, int) and code < 0 else f"exit code {code}"
    what = f"the kernel's process ended ({how})" if isinstance(code, int) else "the kernel's process is gone"
    if oom:
        what = f"the kernel's process was killed because the sandbox ran out of memory ({how})"
    if event.get("relay_ends") is True:  # as when a container is stopped
        what = "the sandbox's relay was told to end, and ended the kernel"
    if kill_reason:
        what = f"{kill_reason} and nothing stopped the code, so the kernel was killed"
    return KernelDied(
        f"{what}; all variables are lost",
        exit_code=code if isinstance(code, int) else None,
        out_of_memory=oom,
        stderr=str(event.get("stderr", "")),
    )


async def wait_first(*futures: asyncio.Future[Any], timeout_s: float | None) -> None:
    """Return when one of them is done, or the time is up; nothing is raised."""
    await asyncio.wait(futures, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)


async def wait_all(steps: list[asyncio.Future[Any]], dead: asyncio.Future[KernelError], timeout_s: float) -> None:
    """Wait for every step, unless the kernel is ``dead`` before.

    Raises:
        SandboxFailed: If the time was up.
        KernelError: What the kernel died of, or what a step raised.
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
    """Do ``step``, unless ``end`` is done before; raises what ``step`` does."""
    task = asyncio.ensure_future(step)
    try:
        await wait_first(task, end, timeout_s=None)
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
