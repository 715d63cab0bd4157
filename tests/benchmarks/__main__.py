"""``python -m tests.benchmarks``: measure, and print the table."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests import hermetic

from . import emulator, link, report

if TYPE_CHECKING:
    from .samples import Key, Sample


class Lives(NamedTuple):
    """What ``lifecycle`` measured, and its table."""

    samples: dict[Key, Sample]
    table: str


def main() -> int:
    """Run what was asked for; the exit code is 0 whether or not targets were reached."""
    options = _options()
    folder = Path(tempfile.mkdtemp(prefix="dki-bench-"))
    hermetic.isolate(os.environ, folder)
    try:
        samples = _measure(options.quick)
        lives = _measure_lives(options.quick)
        lines = _measure_link(options.quick)
        emulated = emulator.run(options.quick)
        carried = _measure_values(options.quick)
        shown = _measure_pages(options.quick)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(_machine())
    print(f"{report.table(samples)}\n\n{lives.table}")
    print(f"\n{link.table(lines)}")
    print(f"\n{emulated}\n\n{carried}\n\n{shown}")
    if options.json is not None:
        measured = {
            "machine": _machine(),
            **report.as_json(samples | lives.samples),
            "link": [vars(line) for line in lines],
        }
        options.json.write_text(json.dumps(measured, indent=1) + "\n")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description="Measure this package beside its peers.")
    parser.add_argument("--quick", action="store_true", help="few samples: a look, no proof")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write every sample to PATH")
    return parser.parse_args()


def _measure(quick: bool) -> dict[Key, Sample]:
    from . import session  # imports dspy, which reads the environment

    plan = session.QUICK if quick else session.Plan()
    samples: dict[Key, Sample] = {}
    with session.nothing_left_running():
        for step in (session.measure_import, session.measure_starts, session.measure_cells):
            print(f"{step.__name__.replace('_', ' ')} ...", file=sys.stderr)
            samples |= step(plan)
    return samples


def _measure_lives(quick: bool) -> Lives:
    from . import lifecycle  # imports dspy, which reads the environment

    print("measure lives ...", file=sys.stderr)
    samples = lifecycle.measure(lifecycle.QUICK if quick else lifecycle.Plan())
    return Lives(samples, lifecycle.table(samples))


def _measure_link(quick: bool) -> list[link.Line]:
    print("measure the link ...", file=sys.stderr)
    return list(link.measure(link.QUICK if quick else link.Plan()))


def _measure_values(quick: bool) -> str:
    from . import values  # imports dspy, which reads the environment

    print("measure values ...", file=sys.stderr)
    return values.run(quick)


def _measure_pages(quick: bool) -> str:
    from . import reporting

    print("measure pages ...", file=sys.stderr)
    return reporting.run(quick)


def _machine() -> str:
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("dspy", "ipykernel", "jupyter_client", "pyzmq", "websockets")
    )
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, {versions}\n"


if __name__ == "__main__":
    sys.exit(main())
