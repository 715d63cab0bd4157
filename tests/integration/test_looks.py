"""Looks at a kernel, on every Python and ipykernel that is supported."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from daytona_kernel_interp.monitor.inspection import parse_inspection
from daytona_kernel_interp.runtime.event_loop import io_loop

if TYPE_CHECKING:
    from tests.integration.driver import Driver

pytestmark = pytest.mark.kernel


def look(driver: Driver, name: str | None = None) -> dict[str, Any]:
    """Look until the kernel itself answers: on a slow machine the relay may be first."""
    for _ in range(100):
        found = io_loop().run(driver.session.kernel.inspect(name))
        if found["by"] == "kernel":
            return found
    raise AssertionError("the kernel never answered")


def test_a_look_at_an_idle_kernel(driver: Driver) -> None:
    """Variables of the code are listed, without those of IPython or the bridge."""
    driver.run("x = [1, 'a']\ndef f(a, *b): pass\nclass C: pass\nc = C()\nx")
    found = parse_inspection(look(driver), "")
    names = {variable.name: (variable.type, variable.preview) for variable in found.variables}
    assert names == {
        "x": ("list", "[1, 'a']"),
        "f": ("function", "f(a, …)"),
        "C": ("type", "class C"),
        "c": ("C", ""),
    }
    assert "C object at" in parse_inspection(look(driver, "c"), "").variables[0].preview
    assert look(driver, "nothing")["missing"] is True


def test_a_look_into_a_busy_loop(driver: Driver, tmp_path: Any) -> None:
    """While Python code runs, its line, tasks and current variables are reported."""
    gate = tmp_path / "gate"
    code = (
        "import asyncio, os\nasync def fetch(): await asyncio.sleep(60)\ntask = asyncio.ensure_future(fetch())\n"
        f"await asyncio.sleep(0)\nn = 0\nwhile not os.path.exists({str(gate)!r}):\n    n += 1\ntask.cancel()"
    )
    cell = threading.Thread(target=driver.run, args=(code,))
    cell.start()
    try:
        for _ in range(200):
            found = parse_inspection(look(driver), "")
            if found.running is not None and found.running.line in (6, 7):
                break
        assert found.running is not None
        assert found.running.line in (6, 7)
        assert found.running.tasks == ("fetch",)
        assert found["n"].type == "int"
    finally:
        gate.touch()
        cell.join()
    assert parse_inspection(look(driver), "").running is None
