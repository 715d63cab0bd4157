"""A Daytona on loopback for tests: ``with DaytonaEmulator() as daytona: ...``.

Also a pytest plugin (``pytest_plugins = ["daytona_kernel_interp.testing.plugin"]``, fixture ``daytona_emulator``)
and a program (``python -m daytona_kernel_interp.testing``). Needs the extra ``testing``.
"""

from __future__ import annotations

from .emulator import DaytonaEmulator
from .faults import Fault
from .names import NAMES_VARIABLE, Resolver, resolver, resolving

__all__ = ["NAMES_VARIABLE", "DaytonaEmulator", "Fault", "Resolver", "resolver", "resolving"]
