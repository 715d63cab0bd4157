"""What holds for every test: an environment of its own, nothing left running, and ``live`` on demand.

It must import without dspy and daytona, because the tests marked ``python`` or ``kernel`` run where those are missing.
With ``pytest -n`` each worker process imports this file, so each has its own folder and checks its own processes.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import examples, hermetic, leftovers
from tests.environments import missing_pythons

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.hosts import Hosts

# At import and not in a fixture: test modules import dspy while they are collected.
_FOLDER = Path(tempfile.mkdtemp(prefix="dki-"))
_TAKEN = hermetic.isolate(os.environ, _FOLDER)
leftovers.mark(os.environ, _FOLDER.name)
examples.register_profiles()

_MODEL_KEYS = ("OPENROUTER_API_KEY", "OPENAI_API_KEY", "ANTHROPIC_API_KEY")
_HOSTS_S = 180
_END_S = 5.0  # what a process gets to end by itself once the last test is over

# The marks of the tests that the other environments run. Modules without them may import what is missing there.
_ENVIRONMENT_MARKS = frozenset({"python", "kernel", "dspy"})


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--matrix", action="store_true", help="run the matrix, not the oldest combination of versions")


def pytest_configure(config: pytest.Config) -> None:
    """Give the keys back, those of ``.env`` included, where live tests were asked for."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell starts what runs in its background so; then Python raises no KeyboardInterrupt, here and in children.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if _live_wanted(config):
        os.environ.update({name: value for name, value in _TAKEN.items() if name not in os.environ})
        _load_env_file(config.rootpath / ".env")


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(_FOLDER, ignore_errors=True)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """In an environment for the tests of certain marks, import only the modules that have some.

    Others may need what is not installed there.
    """
    marks = set(re.findall(r"\w+", str(config.getoption("markexpr", default="")))) - {"or"}
    if not marks or not marks <= _ENVIRONMENT_MARKS or not re.fullmatch(r"test_.*\.py", collection_path.name):
        return None
    text = collection_path.read_text(encoding="utf-8")
    return None if any(f"mark.{mark}" in text for mark in marks) else True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip a live test unless ``-m live`` was given and the keys it names (else any model key) are set.

    The first test of those that start hosts waits for the import of everything, on a busy machine for minutes.
    The environments' sessions start first, as the longest; the short tests come last, so that workers end together.
    """
    items.sort(key=_turn)
    if not re.search(r"\bslow\b", str(config.getoption("markexpr", default=""))):
        left_out = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    for item in items:
        if "hosts" in getattr(item, "fixturenames", ()) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_HOSTS_S))
        marker = item.get_closest_marker("live")
        if marker is None:
            continue
        if not _live_wanted(config):
            item.add_marker(pytest.mark.skip(reason="needs -m live"))
        elif marker.args and (missing := [name for name in marker.args if not os.environ.get(name)]):
            item.add_marker(pytest.mark.skip(reason=f"needs {', '.join(missing)}"))
        elif not marker.args and not any(os.environ.get(name) for name in _MODEL_KEYS):
            item.add_marker(pytest.mark.skip(reason=f"needs one of {', '.join(_MODEL_KEYS)}"))


@pytest.hookimpl(optionalhook=True)  # without pytest-xdist there is no such hook
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object | None:
    """With ``--dist loadfile``, keep the tests of a file in one worker, but not the sessions of the environments."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):  # type: ignore[misc] # xdist has no types
        def _split_scope(self, nodeid: str) -> str:
            return nodeid if "tests/matrix/" in nodeid else str(super()._split_scope(nodeid))

    return Scheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_running() -> Iterator[None]:
    """Fail the session if a process that it started is still there at its end."""
    before = leftovers.running()
    yield
    left = leftovers.wait_gone(leftovers.running() - before, timeout_s=_END_S)
    assert not left, "the tests left processes running:\n" + "\n".join(left)


@pytest.fixture(scope="session")
def hosts() -> Iterator[Hosts]:
    """Starts other processes that use the package, each in an instant."""
    from tests.hosts import Hosts

    with Hosts() as made:
        yield made


def _live_wanted(config: pytest.Config) -> bool:
    expression = str(config.getoption("markexpr", default=""))
    return re.search(r"(?<!not )\blive\b", expression) is not None


def _load_env_file(path: Path) -> None:
    from dotenv import dotenv_values  # reads the named file whatever PYTHON_DOTENV_DISABLED says

    for name, value in dotenv_values(path).items():
        if value is not None:
            os.environ.setdefault(name, value)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the Pythons that an environment needs and this machine lacks."""
    reports = (report for group in ("passed", "failed", "skipped") for report in terminalreporter.getreports(group))
    if any("tests/matrix/" in report.nodeid for report in reports) and (missing := missing_pythons()):
        terminalreporter.section("Pythons this machine lacks")
        terminalreporter.line(f"not tested on: {', '.join(missing)}")


def _turn(item: pytest.Item) -> int:
    return 0 if "tests/matrix/" in item.nodeid else 2 if "tests/unit/" in item.nodeid else 1
