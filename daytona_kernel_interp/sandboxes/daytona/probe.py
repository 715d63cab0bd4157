"""Parse the answers of ``probe_script.py`` and of a relay. Any code in the sandbox may have written them."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - pydantic reads annotations
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...errors import SandboxFailed

_Text = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]
_Number = Annotated[int, Field(strict=True, ge=0, lt=1 << 32)]
_Port = Annotated[int, Field(strict=True, gt=0, lt=1 << 16)]
_Package = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,100}$")]
_Answer = TypeVar("_Answer", bound=BaseModel)

_INVALID_ANSWER = (
    "the Daytona sandbox sent an invalid answer: something in its image or snapshot interferes with its Python; "
    "choose another one, or pass python="
)


class ProbeResult(BaseModel):
    """What a sandbox has, if none of its relays is serving this host."""

    model_config = ConfigDict(strict=True, frozen=True)

    python: _Text
    version: Annotated[tuple[_Number, ...], Field(strict=False)]
    missing: Annotated[tuple[_Package, ...], Field(strict=False)]  # requirements of the relay
    installed: bool  # the host's version of the package
    folder: _Text  # for this package's files
    cwd: _Text
    port: _Port | None  # None: taken


class SandboxPaths(BaseModel):
    """Paths in a sandbox, and the relay's port."""

    model_config = ConfigDict(strict=True, frozen=True)

    python: _Text
    path: Annotated[str, Field(max_length=4096)]  # of the guest archive, for PYTHONPATH; empty: Python has the package
    folder: _Text  # of this session: journals, connection files, kernel states
    cwd: _Text
    port: _Port

    def facts(self) -> dict[str, Any]:
        """Return the fields of this class as JSON, without those of :class:`ServingRelay`."""
        return self.model_dump(include=set(SandboxPaths.model_fields))


class ServingRelay(SandboxPaths):
    """A relay that is serving this host."""

    secret: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{20,100}$", repr=False)]  # becomes a header
    pid: _Number
    started: Annotated[str, Field(pattern=r"^[0-9]{0,20}$")]

    @property
    def process(self) -> str:
        """Process id and start time."""
        return f"{self.pid} {self.started}".rstrip()


def parse_probe(answer: Mapping[str, object]) -> ProbeResult | ServingRelay:
    """Return the result of a probe.

    Raises:
        SandboxFailed: If the answer is invalid.
    """
    relay = answer.get("relay")
    return _parse(ProbeResult, answer) if relay is None else _parse(ServingRelay, relay)


def parse_install(answer: Mapping[str, object]) -> str:
    """Return the Python that has all requirements after an installation.

    Raises:
        SandboxFailed: If the answer is invalid.
    """
    return _parse(_Installed, answer).python


def parse_start(answer: Mapping[str, object]) -> ServingRelay:
    """Return the relay that was started.

    Raises:
        SandboxFailed: If it did not start, or the answer is invalid.
    """
    if "error" in answer:
        raise SandboxFailed(f"no relay can be started in the Daytona sandbox: {answer['error']}")
    return _parse(ServingRelay, answer.get("relay"))


class _Installed(BaseModel):
    python: _Text


def _parse(kind: type[_Answer], answer: object) -> _Answer:
    try:
        return kind.model_validate(answer)
    except ValidationError:
        raise SandboxFailed(_INVALID_ANSWER) from None
