"""Names in the built wheel: files, and the entry points that other programs know."""

from __future__ import annotations

import configparser
import subprocess
import sys
import zipfile
from pathlib import Path

PROJECT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")


def wheel(folder: Path) -> str:
    """Build the wheel and return its names. The build backend comes from uv's cache where that has it."""
    build = [str(UV), "build", "--quiet", "--wheel", "--out-dir", str(folder), str(PROJECT)]
    if subprocess.run([*build, "--offline"], capture_output=True).returncode != 0:
        subprocess.run(build, check=True)
    (built,) = folder.glob("*.whl")
    entry_points = configparser.ConfigParser()
    with zipfile.ZipFile(built) as archive:
        names = sorted(archive.namelist())
        (listed,) = (name for name in names if name.endswith("/entry_points.txt"))
        entry_points.read_string(archive.read(listed).decode())
    points = [f"{group}: {name}" for group in entry_points.sections() for name in sorted(entry_points[group])]
    return "\n".join(["# Entry points", *points, "", f"# {built.name}", *names, ""])
