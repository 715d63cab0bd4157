"""An emulator of Daytona on loopback for tests: ``with DaytonaEmulator() as daytona: ...``.

It serves the REST API, toolboxes, preview hosts and events to the unmodified ``daytona`` SDK; sandboxes are child
processes. It is also a pytest plugin (``pytest_plugins = ["daytona_kernel_interp.testing.plugin"]``, fixture
``daytona_emulator``) and a program (``python -m daytona_kernel_interp.testing``). The extra ``testing`` installs its
requirements.
"""

from __future__ import annotations

from .emulator import DaytonaEmulator
from .faults import Fault
from .names import NAMES_VARIABLE, Resolver, resolver, resolving

__all__ = ["NAMES_VARIABLE", "DaytonaEmulator", "Fault", "Resolver", "resolver", "resolving"]
