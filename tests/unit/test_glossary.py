"""The glossary names what exists."""

from __future__ import annotations

import re
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
