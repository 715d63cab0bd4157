"""``python -m tests.benchmarks``: measure, and print the table."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests import hermetic

from . import link, report

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .samples import Key, Sample

# Modules beside this one, each with a ``run(quick)`` that returns its tables. They import what reads the environment.
_PARTS = ("emulator", "daytona", "values", "inspecting", "recording", "replaying", "reporting", "programs")
_BASICS = "basics"  # cells, calls, lives and the link


def main() -> int:
    """Run what was asked for; the exit code is 0 whether or not targets were reached."""
    options = _options()
    wanted = options.only or [_BASICS, *_PARTS]
    folder = Path(tempfile.mkdtemp(prefix="dki-bench-"))
    hermetic.isolate(os.environ, folder)
    measured: dict[str, object] = {"machine": _machine()}
    tables: list[str] = []
    try:
        if _BASICS in wanted:
            tables += _measure_basics(options.quick, measured)
        tables += _measure_parts(options.quick, [part for part in _PARTS if part in wanted])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(_machine())
    print("\n\n".join(tables))
    if options.json is not None:
        options.json.write_text(json.dumps(measured, indent=1) + "\n")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description="Measure this package beside its peers.")
    parser.add_argument("--quick", action="store_true", help="few samples: a look, no proof")
    parser.add_argument("--only", action="append", choices=[_BASICS, *_PARTS], help="this part; may be repeated")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write every sample of the basics to PATH")
    return parser.parse_args()


def _measure_basics(quick: bool, measured: dict[str, object]) -> list[str]:
    samples = _measure(quick)
    lives, lives_table = _measure_lives(quick)
    print("measure the link ...", file=sys.stderr)
    lines = list(link.measure(link.QUICK if quick else link.Plan()))
    measured.update(report.as_json(samples | lives), link=[vars(line) for line in lines])
    return [report.table(samples), lives_table, link.table(lines)]


def _measure_parts(quick: bool, parts: Iterable[str]) -> list[str]:
    tables = []
    for part in parts:
        print(f"measure {part} ...", file=sys.stderr)
        tables.append(str(importlib.import_module(f"tests.benchmarks.{part}").run(quick)).strip("\n"))
    return tables


def _measure(quick: bool) -> dict[Key, Sample]:
    from . import session  # imports dspy, which reads the environment

    plan = session.QUICK if quick else session.Plan()
    samples: dict[Key, Sample] = {}
    with session.nothing_left_running():
        for step in (session.measure_import, session.measure_starts, session.measure_cells):
            print(f"{step.__name__.replace('_', ' ')} ...", file=sys.stderr)
            samples |= step(plan)
    return samples


def _measure_lives(quick: bool) -> tuple[dict[Key, Sample], str]:
    from . import lifecycle  # imports dspy, which reads the environment

    print("measure lives ...", file=sys.stderr)
    samples = lifecycle.measure(lifecycle.QUICK if quick else lifecycle.Plan())
    return samples, lifecycle.table(samples)


def _machine() -> str:
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("dspy", "ipykernel", "jupyter_client", "pyzmq", "websockets")
    )
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, {versions}\n"


if __name__ == "__main__":
    sys.exit(main())
