"""Parse the answers of ``probe_script.py`` and of a relay. Any code in the sandbox may have written them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import SandboxFailed
from .sandbox import SandboxPaths

if TYPE_CHECKING:
    from collections.abc import Mapping

_SECRET = re.compile(r"[A-Za-z0-9_-]{20,100}")  # becomes a header
_STARTED = re.compile(r"[0-9]{0,20}")  # becomes part of a shell command, as the texts do, which are quoted
_PACKAGE = re.compile(r"[A-Za-z0-9._-]{1,100}")
_MAX_CHARS = 4096


@dataclass(frozen=True)
class ProbeResult:
    """What a sandbox has, if none of its relays is serving this host."""

    python: str
    version: tuple[int, ...]
    missing: tuple[str, ...]  # requirements of the relay
    installed: bool  # the host's version of the package
    uploaded: bool  # or the guest archive
    folder: str  # for this package's files
    cwd: str
    port: int | None  # None: taken


@dataclass(frozen=True)
class ServingRelay:
    """A relay that is serving this host."""

    paths: SandboxPaths
    secret: str
    process: str  # pid and start time


def parse_probe(answer: Mapping[str, object]) -> ProbeResult | ServingRelay:
    """Return the result of a probe.

    Raises:
        SandboxFailed: If the answer is invalid.
    """
    relay = answer.get("relay")
    try:
        return _parse_result(answer) if relay is None else _parse_relay(relay)
    except (KeyError, TypeError, ValueError):
        raise SandboxFailed(_INVALID_ANSWER) from None


def parse_install(answer: Mapping[str, object]) -> str:
    """Return the Python that has all requirements now.

    Raises:
        SandboxFailed: If the answer is invalid.
        LookupError: If the installation failed; the message is its output.
    """
    if "error" in answer:
        raise LookupError(str(answer["error"]))
    try:
        return _text(answer["python"])
    except (KeyError, ValueError):
        raise SandboxFailed(_INVALID_ANSWER) from None


_INVALID_ANSWER = (
    "the Daytona sandbox sent an invalid answer: something in its image or snapshot interferes with its Python; "
    "choose another one, or pass python="
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
