"""Seeds of the global random generators, for recorded sessions: a replay sets the same ones.

Python's generator is seeded at once. numpy's global generator is seeded when ``numpy.random`` is imported, which may be
in the middle of the cell that draws from it. Generators that code makes itself are not changed.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import random
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_NUMPY = "numpy.random"


def seed_all(seed: int) -> None:
    """Seed Python's generator, and numpy's now or as soon as it is imported."""
    random.seed(seed)
    if _NUMPY in sys.modules:
        _seed_numpy(sys.modules[_NUMPY], seed)
    else:
        sys.meta_path.insert(0, _NumpyImportHook(seed))


def _seed_numpy(module: Any, seed: int) -> None:
    module.seed(seed % 2**32)


class _NumpyImportHook(importlib.abc.MetaPathFinder):
    """Finds ``numpy.random`` by the other finders, and has its loader seed the generator."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _NUMPY:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            loader = spec.loader

            def exec_module(module: ModuleType) -> None:
                del vars(loader)["exec_module"]  # from now on the loader's own
                loader.exec_module(module)
                _seed_numpy(module, self._seed)

            vars(loader)["exec_module"] = exec_module
        return spec
