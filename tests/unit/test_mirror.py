"""The unit tests mirror the package."""

from __future__ import annotations

import re
from pathlib import Path

import daytona_kernel_interp

PACKAGE = Path(daytona_kernel_interp.__file__).parent
PROJECT = Path(__file__).parents[2]
UNIT = PROJECT / "tests" / "unit"
COVERS = re.compile(r"^covers: (\w+): (.+)$", re.MULTILINE)


def covered_by_docstring(folder: Path) -> dict[str, list[str]]:
    """Return the modules that a test package's docstring lists, with the paths of the tests that cover them."""
    init = folder / "__init__.py"
    lines = COVERS.findall(init.read_text(encoding="utf-8")) if init.exists() else []
    found: dict[str, list[str]] = {}
    for module, paths in lines:
        found.setdefault(module, []).extend(path.strip() for path in paths.split(","))
    return found


def test_every_module_has_tests() -> None:
    """Each module has a test module of its name, or its test package lists the tests that cover it."""
    missing = []
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        folder = UNIT / relative.parent
        if path.name == "__init__.py" or (folder / f"test_{relative.stem}.py").exists():
            continue
        if relative.stem not in covered_by_docstring(folder):
            missing.append(str(relative))
    assert missing == []


def test_what_the_docstrings_list_exists() -> None:
    """Each listed module and each listed test exists, and a module with a test module of its own is not listed."""
    for init in UNIT.rglob("__init__.py"):
        folder = init.parent.relative_to(UNIT)
        for module, paths in covered_by_docstring(init.parent).items():
            assert (PACKAGE / folder / f"{module}.py").exists(), (folder, module)
            assert not (init.parent / f"test_{module}.py").exists(), (folder, module)
            assert all((PROJECT / path).exists() for path in paths), (folder, module, paths)
