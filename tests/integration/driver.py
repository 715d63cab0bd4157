"""Drives a session below DSPy, so that it also runs where dspy is not installed."""

from __future__ import annotations

import contextvars
import inspect
from typing import TYPE_CHECKING, Any

from daytona_kernel_interp.codec import values
from daytona_kernel_interp.runtime.event_loop import io_loop
from daytona_kernel_interp.sandboxes.local import LocalSandbox
from daytona_kernel_interp.session.kernel_session import KernelSession
from daytona_kernel_interp.tools.binding import Tool, call, describe
from daytona_kernel_interp.wire.comm import OutputField, Preamble

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from daytona_kernel_interp.client.execution_result import ExecutionResult
    from daytona_kernel_interp.client.outputs import Output
    from daytona_kernel_interp.sandboxes.base import Sandbox
    from daytona_kernel_interp.wire.keepalive import LinkTimings

LIMIT_S = 60.0  # a cell that takes longer than this here hangs


class Driver:
    """A started session, with the calls of its host made sync."""

    def __init__(self, sandbox: Sandbox | None = None, times: LinkTimings | None = None) -> None:
        self.tools: dict[str, Tool] = {}
        start = KernelSession.start(sandbox or LocalSandbox(), self._invoke, values.MAX_VALUE_BYTES, times=times)
        self.session = io_loop().run(start)

    def run(
        self,
        code: str,
        *,
        variables: Mapping[str, Any] | None = None,
        fields: Sequence[OutputField] | None = None,
        timeout_s: float | None = LIMIT_S,
        max_output_chars: int | None = 200_000,
        on_output: Callable[[Output], None] | None = None,
    ) -> ExecutionResult:
        """Run one cell and return what it did."""
        preamble = Preamble(
            variables=dict(variables or {}),
            tools=tuple(describe(name, tool) for name, tool in self.tools.items()),
            fields=None if fields is None else tuple(fields),
            max_output_chars=max_output_chars,
            max_value_bytes=values.MAX_VALUE_BYTES,
        )
        self.session.tools.begin_cell(self.tools, contextvars.copy_context(), None)
        cell = self.session.kernel.run(
            code,
            values.dumps(preamble.to_value()),
            self.session.tools,
            timeout_s=timeout_s,
            max_output_chars=max_output_chars,
            on_output=on_output,
        )
        return io_loop().run(cell)

    def value(self, code: str, **variables: Any) -> Any:
        """Run one cell that must end well and return the value of its last expression."""
        cell = self.run(code, variables=variables).cell
        assert cell.error is None, cell.error
        return values.loads(cell.value) if cell.value is not None else None

    def text(self, code: str) -> str:
        """Run one cell and return what it printed."""
        return self.run(code).cell.text()

    def interrupt(self) -> None:
        """Interrupt the running cell, from another thread."""
        io_loop().run(self.session.kernel.interrupt())

    def close(self) -> None:
        """End the session."""
        io_loop().run(self.session.aclose())

    def _invoke(self, name: str, arguments: dict[str, Any]) -> Any:
        result = call(self.tools[name], arguments)
        return self.session.tools.wait_for(result) if inspect.isawaitable(result) else result
