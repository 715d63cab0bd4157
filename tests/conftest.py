"""What holds for every test: an environment of its own, nothing left running, and ``live`` on demand.

It must import without dspy and daytona, because the tests marked ``quick`` run where those are missing.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests import hermetic, leftovers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.hosts import Hosts

# At import and not in a fixture: test modules import dspy while they are collected.
_FOLDER = Path(tempfile.mkdtemp(prefix="dki-"))
_TAKEN = hermetic.isolate(os.environ, _FOLDER)

_MODEL_KEYS = ("OPENROUTER_API_KEY", "OPENAI_API_KEY", "ANTHROPIC_API_KEY")
_HOSTS_S = 180
_END_S = 5.0  # what a process gets to end by itself once the last test is over

if "CI" not in os.environ:  # there hypothesis picks its own profile: fixed seeds, no deadline
    # Its limit of 0.2 s an example says more about the machine's load than about the code.
    hypothesis.settings.register_profile("by hand", deadline=None)
    hypothesis.settings.load_profile("by hand")


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
    """In an environment that is there for the tests of one mark, import only the modules that have some.

    Others may need what is not installed there.
    """
    mark = str(config.getoption("markexpr", default=""))
    if mark not in ("quick", "dspy") or not re.fullmatch(r"test_.*\.py", collection_path.name):
        return None
    return True if f"mark.{mark}" not in collection_path.read_text(encoding="utf-8") else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip a live test unless ``-m live`` was given and the keys it names (else any model key) are set.

    The first test of those that start hosts waits for the import of everything, on a busy machine for minutes.
    """
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
