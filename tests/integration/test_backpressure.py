"""A host that does not read: output waits in the sandbox and is not lost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daytona_kernel_interp.client.outputs import Output
    from tests.integration.driver import Driver


def wait_until(holds: Callable[[], bool], limit_s: float) -> bool:
    """Poll until ``holds``, at most ``limit_s``; return whether it does."""
    deadline = time.monotonic() + limit_s
    while not (held := holds()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return held


@pytest.mark.slow
def test_a_slow_host_loses_nothing(driver: Driver, tmp_path: Path) -> None:
    """While the host does not read, more output is printed than all queues hold; it arrives, with the idle status."""
    done = tmp_path / "done"
    held: list[bool] = []

    def on_output(output: Output) -> None:
        if not held:  # once: block the loop that reads all channels until the cell has printed everything
            held.append(wait_until(done.exists, 60))

    line = "x" * 1000
    result = driver.run(
        "for i in range(25_000): print(line, flush=True)\nopen(done, 'w').close()",
        variables={"line": line, "done": str(done)},
        max_output_chars=None,
        on_output=on_output,
        timeout_s=90,
    )
    assert held == [True]
    assert result.cell.text() == f"{line}\n" * 25_000
