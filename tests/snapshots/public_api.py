"""Names and signatures that user code relies on.

Annotations are compared as they are written, so the text does not depend on the Python version.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from typing import TYPE_CHECKING, Any

import daytona_kernel_interp
from daytona_kernel_interp import KernelInterpreter, LocalSandbox, ReplayInterpreter
from daytona_kernel_interp.client.outputs import CellError, DisplayData, ExecuteResult, StreamText
from daytona_kernel_interp.codec.records import Record, SequenceRecord
from daytona_kernel_interp.errors import (
    CellNotRun,
    HostLost,
    KernelDied,
    KernelError,
    RecordingError,
    ReplayMismatch,
    SandboxFailed,
    SandboxGone,
    SessionNotFound,
    TunnelLost,
    WireMismatch,
)
from daytona_kernel_interp.monitor.inspection import Inspection, PendingCall, RunningCell, Variable
from daytona_kernel_interp.monitor.live import Live
from daytona_kernel_interp.playback.compare import Tolerance
from daytona_kernel_interp.playback.diff import RunDiff
from daytona_kernel_interp.playback.replay import ReplayReport
from daytona_kernel_interp.testing import DaytonaEmulator, Fault
from tests.snapshots.file_formats import GOLDEN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Objects that the exported names take, return or raise. They are listed with their names, without modules.
REACHED: tuple[type, ...] = (
    *(CellError, DisplayData, ExecuteResult, StreamText),
    *(PendingCall, Inspection, RunningCell, Variable, Live, Record, SequenceRecord),
    *(Tolerance, RunDiff, ReplayReport, DaytonaEmulator, Fault),
)
ERRORS: tuple[type, ...] = (
    *(KernelError, SandboxFailed, SandboxGone, TunnelLost, CellNotRun, WireMismatch, KernelDied),
    *(SessionNotFound, HostLost, RecordingError, ReplayMismatch),
)
PROTOCOLS = (
    *("__call__", "__enter__", "__exit__", "__aenter__", "__aexit__", "__len__", "__iter__", "__getitem__"),
    *("__contains__", "__bool__", "_repr_html_", "_repr_mimebundle_"),
)
LINE = 110


class _Written:
    """An annotation whose repr is its source text."""

    def __init__(self, annotation: Any) -> None:
        self._text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)

    def __repr__(self) -> str:
        return self._text


def public_api(folder: Path) -> str:
    """Return every exported name with its signature and public members, then the objects those lead to."""
    exported = [(name, getattr(daytona_kernel_interp, name)) for name in sorted(daytona_kernel_interp.__all__)]
    named = {id(value) for _, value in exported}
    reached = [(value.__name__, value) for value in REACHED if id(value) not in named]
    lines = ["# Exported"]
    for name, value in exported:
        lines += ["", *_described(name, value)]
    lines += ["", "# Attributes of instances", ""]
    for made in (KernelInterpreter(sandbox=LocalSandbox()), ReplayInterpreter(GOLDEN / "recording-v1.ipynb")):
        attributes = ", ".join(sorted(name for name in vars(made) if not name.startswith("_")))
        lines.append(f"{type(made).__name__}: {attributes}")
    lines += ["", "# Reached through exported names"]
    for name, value in reached:
        lines += ["", *_described(name, value)]
    lines += ["", "# Errors", ""]
    for error in ERRORS:
        above = " < ".join(each.__name__ for each in error.__mro__[1:-1])
        lines.append(f"{error.__name__} < {above}")
    lines += ["", *_signature("KernelDied", KernelDied), ""]
    return "\n".join(lines)


def _described(name: str, value: Any) -> Iterator[str]:
    if not inspect.isclass(value):
        yield from _signature(f"def {name}", value)
        return
    if issubclass(value, Exception):  # listed with the errors
        yield f"class {name}"
        return
    yield from _signature(f"class {name}", value)
    fields = [each.name for each in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
    for member in sorted(_members(value)):
        if member in fields:
            continue
        found = inspect.getattr_static(value, member)
        match found:
            case property() | functools.cached_property():
                get: Any = found.fget if isinstance(found, property) else found.func
                settable = " (settable)" if getattr(found, "fset", None) else ""
                yield f"    property {member}: {_Written(inspect.signature(get).return_annotation)!r}{settable}"
            case classmethod() | staticmethod():
                yield from _signature(f"    {type(found).__name__} {member}", getattr(value, member))
            case _ if callable(found):
                kind = "async def" if inspect.iscoroutinefunction(found) else "def"
                yield from _signature(f"    {kind} {member}", found)
            case str() | int() | float() | None:
                yield f"    {member} = {found!r}"
            case _:
                yield f"    {member}"


def _members(of: type) -> set[str]:
    """Return the public names that the package's own classes among the bases of ``of`` define."""
    ours = [each for each in of.__mro__ if each.__module__.split(".")[0] == daytona_kernel_interp.__name__]
    names = {name for each in ours for name in vars(each)}
    return {name for name in names if not name.startswith("_") or name in PROTOCOLS}


def _signature(name: str, of: Any) -> list[str]:
    try:
        signature = inspect.signature(of)
    except ValueError:  # an exception class with the constructor of BaseException
        return [f"{name}(*args)"]
    parameters = [
        each if each.annotation is each.empty else each.replace(annotation=_Written(each.annotation))
        for each in signature.parameters.values()
    ]
    returns = signature.return_annotation
    if inspect.isclass(of) or returns is signature.empty:
        signature = signature.replace(parameters=parameters, return_annotation=signature.empty)
    else:
        signature = signature.replace(parameters=parameters, return_annotation=_Written(returns))
    line = f"{name}{signature}"
    if len(line) <= LINE:
        return [line]
    indent = " " * (len(name) - len(name.lstrip()))
    listed = [f"{indent}        {each}," for each in _parts(parameters)]
    tail = "" if signature.return_annotation is signature.empty else f" -> {signature.return_annotation!r}"
    return [f"{name}(", *listed, f"{indent}    ){tail}"]


def _parts(parameters: list[inspect.Parameter]) -> Iterator[str]:
    """Yield each parameter as text, and the ``/`` and ``*`` between them."""
    kinds = [each.kind for each in parameters]
    for position, each in enumerate(parameters):
        if each.kind is each.KEYWORD_ONLY and not {each.KEYWORD_ONLY, each.VAR_POSITIONAL} & set(kinds[:position]):
            yield "*"
        yield str(each)
        if each.kind is each.POSITIONAL_ONLY and each.kind not in kinds[position + 1 :]:
            yield "/"
