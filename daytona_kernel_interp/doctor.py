"""What ``daytona-kernel doctor`` does: goes from the key to a cell in a sandbox, and says where it stops and why."""

from __future__ import annotations

import email.utils
import importlib.metadata
import os
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import __version__
from .interpreter import CodeInterpreterError, KernelInterpreter
from .loop import io_loop
from .sandboxes.daytona import DaytonaSandbox, lost
from .sandboxes.daytona.service import api_url
from .settings import DAYTONA_KEY_VARIABLE, has_daytona_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CLOCK_S = 60.0
_CELLS = 5
_VERSIONS = """
import platform, ipykernel, websockets
f"Python {platform.python_version()}, ipykernel {ipykernel.__version__}, websockets {websockets.__version__}"
"""


@dataclass(frozen=True)
class Check:
    """One line of the table."""

    what: str
    found: str
    took_s: float | None = None
    advice: str = ""  # empty: all is well


def examine(sandbox: DaytonaSandbox | None = None) -> Iterator[Check]:
    """Yield one check after the other; the first that fails is the last. A sandbox is made, and deleted."""
    wanted = sandbox or DaytonaSandbox()
    interpreter = KernelInterpreter(sandbox=wanted)
    steps: list[Callable[[], Check]] = [
        _key,
        _clock,
        _account,
        lambda: _start(interpreter, wanted),
        lambda: _cells(interpreter),
        lambda: _versions(interpreter),
    ]
    try:
        for step in steps:
            begun = time.monotonic()
            try:
                check = step()
            except Exception as error:
                check = Check(step.__name__.strip("_<>"), "failed", None, str(error))
            took_s = time.monotonic() - begun if check.took_s is None else check.took_s
            yield Check(check.what, check.found, took_s, check.advice)
            if check.advice and check.what != "clock":
                return
    finally:
        interpreter.shutdown()


def _key() -> Check:
    if has_daytona_key():
        return Check("key", f"{DAYTONA_KEY_VARIABLE} is set")
    return Check("key", "none", advice=f"set {DAYTONA_KEY_VARIABLE}, in the environment or in .env")


def _clock() -> Check:
    """The API says in every answer, refusals included, what time it is there."""
    url = f"{api_url()}/health"
    try:
        with urllib.request.urlopen(urllib.request.Request(url), timeout=10) as answer:
            there = answer.headers.get("Date")
    except urllib.error.HTTPError as error:
        with error:
            there = error.headers.get("Date")
    except OSError as error:
        return Check("API", f"{api_url()} does not answer", advice=f"check DAYTONA_API_URL and the network ({error})")
    if there is None:
        return Check("clock", "unknown: the API does not tell the time")
    skew_s = time.time() - email.utils.parsedate_to_datetime(there).timestamp()
    advice = "" if abs(skew_s) < _CLOCK_S else "set this machine's clock: tokens and certificates depend on it"
    return Check("clock", f"{skew_s:+.0f} s from the API's", advice=advice)


def _account() -> Check:
    found = io_loop().run(lost.find())
    return Check("API", f"{api_url()}, {len(found)} sandboxes of ours")


def _start(interpreter: KernelInterpreter, wanted: DaytonaSandbox) -> Check:
    named = wanted.snapshot_name or "Daytona's default"
    try:
        interpreter.start()
    except CodeInterpreterError as error:
        return Check("sandbox", f"snapshot {named}", advice=str(error))
    return Check("sandbox", f"snapshot {named}, region {os.environ.get('DAYTONA_TARGET') or 'default'}: started")


def _cells(interpreter: KernelInterpreter) -> Check:
    """The way of a cell goes through the preview's WebSocket."""
    taken = []
    for _ in range(_CELLS):
        begun = time.monotonic()
        interpreter.execute("None")
        taken.append(time.monotonic() - begun)
    return Check("preview", f"{_CELLS} cells over its WebSocket, the median's time", sorted(taken)[_CELLS // 2])


def _versions(interpreter: KernelInterpreter) -> Check:
    there = interpreter.execute(_VERSIONS)
    return Check("versions", f"here: {__version__}, SDK {importlib.metadata.version('daytona')}; there: {there}")
