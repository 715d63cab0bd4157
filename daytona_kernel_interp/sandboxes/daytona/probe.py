"""What ``prepare.py`` and a relay said of a sandbox: made ours here, for it may come from whatever runs in there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import SandboxFailed
from .sandbox import SandboxPaths

if TYPE_CHECKING:
    from collections.abc import Mapping

_SECRET = re.compile(r"[A-Za-z0-9_-]{20,100}")  # it becomes a header
_STARTED = re.compile(r"[0-9]{0,20}")  # it becomes part of a shell's command, as the texts do, which are quoted there
_PACKAGE = re.compile(r"[A-Za-z0-9._-]{1,100}")
_MAX_CHARS = 4096


@dataclass(frozen=True)
class ProbeResult:
    """What a look at a sandbox found where no relay serves us."""

    python: str
    version: tuple[int, ...]
    missing: tuple[str, ...]  # of what the relay needs
    installed: bool  # the package, as the host has it
    uploaded: bool  # or its part for sandboxes
    folder: str  # ours
    cwd: str
    port: int | None  # None: it is taken


@dataclass(frozen=True)
class ServingRelay:
    """A relay that serves us."""

    paths: SandboxPaths
    secret: str
    process: str  # pid and start time


def parse_probe(answer: Mapping[str, object]) -> ProbeResult | ServingRelay:
    """Return what a look found.

    Raises:
        SandboxFailed: If the answer makes no sense.
    """
    relay = answer.get("relay")
    try:
        return _parse_result(answer) if relay is None else _parse_relay(relay)
    except (KeyError, TypeError, ValueError):
        raise SandboxFailed(_INVALID_ANSWER) from None


def parse_install(answer: Mapping[str, object]) -> str:
    """Return the Python that has everything now.

    Raises:
        SandboxFailed: If the answer makes no sense.
        LookupError: With what was said instead, if nothing could be installed.
    """
    if "error" in answer:
        raise LookupError(str(answer["error"]))
    try:
        return _text(answer["python"])
    except (KeyError, ValueError):
        raise SandboxFailed(_INVALID_ANSWER) from None


_INVALID_ANSWER = (
    "the Daytona sandbox gave an answer that makes no sense: something in its image or snapshot stands in the way of "
    "its Python; choose another, or name its python"
)


def _parse_result(answer: Mapping[str, object]) -> ProbeResult:
    return ProbeResult(
        python=_text(answer["python"]),
        version=tuple(map(_number, _list(answer["version"]))),
        missing=tuple(_matching(_PACKAGE, name) for name in _list(answer["missing"])),
        installed=answer["installed"] is True,
        uploaded=answer["uploaded"] is True,
        folder=_text(answer["folder"]),
        cwd=_text(answer["cwd"]),
        port=None if answer["port"] is None else _port(answer["port"]),
    )


def _parse_relay(answer: object) -> ServingRelay:
    if not isinstance(answer, dict):
        raise ValueError("not an object")
    place = SandboxPaths(
        python=_text(answer["python"]),
        path="",
        folder=_text(answer["folder"]),
        cwd=_text(answer["cwd"]),
        port=_port(answer["port"]),
    )
    process = f"{_number(answer['pid'])} {_matching(_STARTED, answer['started'])}".rstrip()
    return ServingRelay(place, _matching(_SECRET, answer["secret"]), process)


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise ValueError("not a list")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_CHARS or "\0" in value:
        raise ValueError("not a text")
    return value


def _matching(pattern: re.Pattern[str], value: object) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError("not such a text")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 32:
        raise ValueError("not a number")
    return value


def _port(value: object) -> int:
    if not 0 < (port := _number(value)) < 1 << 16:
        raise ValueError("not a port")
    return port
