"""The other Pythons and versions that the package is tested on, each in a folder of ``.venvs``.

``python -m tests.environments`` builds those that are missing or out of date. A Python that this machine
does not have is named and left out. The one that runs this must have ``uv`` beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
FOLDER = PROJECT / ".venvs"
# Settled before a test can change PATH or HOME.
_SEARCHED = tuple(Path(folder) for folder in os.get_exec_path())
_PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"


@dataclass(frozen=True)
class Environment:
    """One virtual environment: a Python, the pins it is made of, and the tests it is for.

    ``name`` is also the name of its file of pins. Each of ``parts`` selects the tests of one session by their marks.
    """

    name: str
    version: str
    parts: tuple[str, ...] = ("kernel",)
    whole: bool = False  # with dspy and daytona, not just what a kernel needs
    editable: bool = True  # with this very package in it
    files: tuple[str, ...] = ()  # of pins, if not the one that has the name

    @property
    def pins(self) -> list[Path]:
        return [PROJECT / file for file in self.files or (f"constraints/{self.name}.txt",)]

    @property
    def python(self) -> Path:
        return FOLDER / self.name / "bin" / "python"

    @property
    def stamp(self) -> Path:
        return FOLDER / self.name / "built-from"

    def is_current(self) -> bool:
        """Whether the environment stands and was built from the pins and the project file of now."""
        return self.python.exists() and self.stamp.exists() and self.stamp.read_text().strip() == self.fingerprint()

    def fingerprint(self) -> str:
        sources = (PROJECT / "pyproject.toml", *self.pins)
        # The place counts: an editable install points at it.
        return hashlib.sha256(b"\0".join([bytes(PROJECT), *map(Path.read_bytes, sources)])).hexdigest()


# `make test` runs it beside the newest versions, which have the environment that runs everything.
OLDEST = Environment("oldest", "3.10", parts=("python or kernel", "dspy"), whole=True)

ENVIRONMENTS = (
    OLDEST,
    Environment("python3.10-ipykernel6", "3.10"),
    Environment("python3.11-ipykernel6", "3.11"),
    Environment("python3.12", "3.12"),
    Environment("python3.13", "3.13", parts=("python or kernel",)),
    Environment("dspy-3.1.3", "3.11", parts=("dspy",), whole=True),
    Environment("dspy-3.2.1", "3.11", parts=("dspy",), whole=True),
    Environment("dspy-3.3.1", "3.11", parts=("dspy",), whole=True),
)

# What the sandbox's image installs, as its Dockerfile does; a test brings the wheel and runs the relay from it.
IMAGE = Environment(
    "sandbox-image",
    "3.13",
    editable=False,
    files=("sandbox_image/requirements.txt", "sandbox_image/requirements-data.txt"),
)


def find_python(version: str) -> Path | None:
    """Return a Python of this ``X.Y`` version that runs here, or None."""
    own = Path(sys.executable)
    named = [folder / f"python{version}" for folder in _SEARCHED]
    managed = sorted(_PYENV.glob(f"{version}.*/bin/python"), reverse=True)
    return next((path for path in (own, *named, *managed) if _runs(path, version)), None)


def missing_pythons() -> list[str]:
    """Return the versions that an environment still to be built asks for and this machine lacks."""
    versions = sorted({environment.version for environment in (*ENVIRONMENTS, IMAGE) if not environment.is_current()})
    return [version for version in versions if find_python(version) is None]


def build(environment: Environment, python: Path, uv: Path) -> None:
    """Make the environment anew; it counts as built only once everything is installed."""
    place = environment.python.parent.parent
    shutil.rmtree(place, ignore_errors=True)
    _run(uv, "venv", "--quiet", "--no-project", "--python", python, place)
    install: tuple[str | Path, ...] = (uv, "pip", "install", "--quiet", "--python", environment.python)
    pins = [word for path in environment.pins for word in ("--requirement", path)]
    if environment.whole:
        _run(*install, "--constraint", *environment.pins, "--group", "test", "--editable", PROJECT)
    else:
        _run(*install, *(() if environment.editable else ("--no-deps",)), *pins)
    if environment.editable and not environment.whole:
        _run(*install, "--no-deps", "--editable", PROJECT)
    environment.stamp.write_text(environment.fingerprint() + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="build only these")
    every = (*ENVIRONMENTS, IMAGE)
    names = parser.parse_args().names or [environment.name for environment in every]
    uv = Path(sys.executable).parent / "uv"
    for environment in every:
        if environment.name not in names or environment.is_current():
            continue
        python = find_python(environment.version)
        if python is None:
            print(f"{environment.name}: left out, there is no Python {environment.version} here")
            continue
        print(f"{environment.name}: building", flush=True)
        build(environment, python, uv)


def _runs(python: Path, version: str) -> bool:
    """Whether this really is that Python: a version manager's shim exists without running."""
    if not os.access(python, os.X_OK):
        return False
    tell: list[str | Path] = [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    try:
        told = subprocess.run(tell, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return told.returncode == 0 and told.stdout.strip() == version


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, cwd=PROJECT)


if __name__ == "__main__":
    main()
