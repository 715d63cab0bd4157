"""How a cell or its kernel ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import KernelDied

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..errors import KernelError
    from .output_collector import OutputCollector


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
