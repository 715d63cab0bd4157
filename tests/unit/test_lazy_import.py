"""Modules that importing the package loads, each checked in a fresh Python process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import daytona_kernel_interp

ROOT = Path(daytona_kernel_interp.__file__).parent.parent


def loaded_after(code: str) -> set[str]:
    """Return the top-level names of the modules that a fresh Python has loaded after ``code``."""
    show = "import sys; print(' '.join({name.partition('.')[0] for name in sys.modules}))"
    command = [sys.executable, "-c", f"{code}\n{show}"]
    return set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split())


def test_the_package_alone_costs_nothing() -> None:
    """``import daytona_kernel_interp`` loads neither DSPy, nor Daytona's SDK, nor anything of Jupyter."""
    loaded = loaded_after("import daytona_kernel_interp")
    assert "daytona_kernel_interp" in loaded
    assert not loaded & {"dspy", "daytona", "zmq", "ipykernel", "jupyter_client", "websockets", "asyncio"}


def test_a_description_costs_little() -> None:
    """``DaytonaSandbox()`` is data: it loads neither Daytona's SDK nor DSPy, and has no client."""
    loaded = loaded_after("from daytona_kernel_interp import DaytonaSandbox; repr(DaytonaSandbox(keep=True))")
    assert not loaded & {"dspy", "daytona", "zmq", "aiohttp", "pydantic"}


def test_what_the_sandbox_loads_knows_no_host() -> None:
    """The guest, with all modules of the package that it imports, needs neither DSPy nor Daytona's SDK."""
    code = "import daytona_kernel_interp.guest.kernel.kernel_app, daytona_kernel_interp.guest.relay.server"
    loaded = loaded_after(code)
    assert {"ipykernel", "websockets"} <= loaded
    assert not loaded & {"dspy", "daytona", "jupyter_console", "pydantic", "litellm"}


def test_the_wire_is_standard_library() -> None:
    """``wire`` and ``codec.values`` load the standard library only."""
    modules = ("wire.comm", "wire.protocol_errors", "wire.frames", "wire.hello", "wire.stream", "codec.values")
    code = "; ".join(f"import daytona_kernel_interp.{module}" for module in modules)
    third_party = loaded_after(code) - loaded_after("") - set(sys.stdlib_module_names)
    assert third_party == {"daytona_kernel_interp"}


def test_errors_and_outputs_cost_little() -> None:
    """``except KernelDied`` and ``isinstance(output, StreamText)`` load neither DSPy nor Jupyter."""
    names = "KernelDied, KernelError, HostLost, CellResult, StreamText, DisplayData, ExecuteResult, CellError"
    loaded = loaded_after(f"from daytona_kernel_interp import {names}")
    assert not loaded & {"dspy", "daytona", "zmq", "jupyter_client", "asyncio", "pydantic"}


ALL_MODULES = """
import importlib, pkgutil
import daytona_kernel_interp as package

for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ImportError as error:
            assert (error.name or "").partition(".")[0] != package.__name__, error
for name in package.__all__:
    assert getattr(getattr(package, name), "__name__", name) == name, name
    assert not isinstance(getattr(package, name), type(package)), name
"""


@pytest.mark.dspy
def test_no_module_hides_a_public_name() -> None:
    """Importing a module sets it as an attribute of its package: with a public name, it would replace that."""
    pytest.importorskip("dspy")
    loaded_after(ALL_MODULES)


def test_public_names_are_listed() -> None:
    """``dir`` shows every public name before any is loaded."""
    assert set(daytona_kernel_interp.__all__) <= set(dir(daytona_kernel_interp))


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A misspelled import fails as it does for any module."""
    with pytest.raises(AttributeError, match="no attribute 'KernelInterpeter'"):
        _ = daytona_kernel_interp.KernelInterpeter
