"""Rewrite ``expected/`` with the present state."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tests import hermetic


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="dki-") as folder:
        hermetic.isolate(os.environ, Path(folder))  # before dspy is imported
        from tests.snapshots.snapshots import EXPECTED, SNAPSHOTS

        for name, collect in SNAPSHOTS.items():
            work = Path(folder, name)
            work.mkdir()
            text = collect(work)
            path = EXPECTED / name
            changed = not path.exists() or path.read_text(encoding="utf-8") != text
            path.write_text(text, encoding="utf-8")
            print(f"{'changed' if changed else 'same':8}{name}")
        for path in EXPECTED.iterdir():
            if path.name not in SNAPSHOTS:
                path.unlink()
                print(f"{'deleted':8}{path.name}")


if __name__ == "__main__":
    main()
