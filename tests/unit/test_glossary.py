"""The glossary names what exists, and a class name means one thing."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import daytona_kernel_interp

PACKAGE = Path(daytona_kernel_interp.__file__).parent
GLOSSARY = Path(__file__).parents[2] / "docs" / "glossary.md"
CARRIER = re.compile(r"`([\w/]+\.py)`((?:,? `\w+`)*)")


def test_every_carrier_exists() -> None:
    """A path in the glossary is a module of the package, and the names behind it are defined there."""
    found = CARRIER.findall(GLOSSARY.read_text(encoding="utf-8"))
    assert len(found) >= 40
    missing = []
    for path, names in found:
        source = (PACKAGE / path).read_text(encoding="utf-8") if (PACKAGE / path).exists() else None
        for name in re.findall(r"\w+", names):
            if source is None or not re.search(rf"^(class |(async )?def )?{name}\b", source, re.MULTILINE):
                missing.append(f"{path}: {name}")
        if source is None:
            missing.append(path)
    assert missing == []


def test_a_class_name_occurs_once() -> None:
    """No two modules of the package define a class of the same name.

    The emulator has its own vocabulary. ``dspy_errors`` derives one class from each of ``errors``, under the same name.
    """
    places = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.is_relative_to(PACKAGE / "testing") or path.name == "dspy_errors.py":
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(str(path.relative_to(PACKAGE)))
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}
