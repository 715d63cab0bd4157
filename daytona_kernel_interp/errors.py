"""The package's exceptions. None of them knows DSPy.

``interpreter/dspy_errors.py`` derives from each the class that :class:`KernelInterpreter` raises, which is also one of
DSPy's: ``except KernelDied`` and ``except CodeInterpreterError`` both catch it.

::

    KernelError
    ├── SandboxFailed     a sandbox did not start, or its relay could not be reached
    │   └── SandboxGone   a running sandbox was stopped or deleted; its kernels and their variables are gone
    ├── TunnelLost        the link to the relay is lost; the outcome of the running cell is unknown
    ├── CellNotRun        the cell was lost or interrupted before it reached the kernel, which is alive
    ├── WireMismatch      host and sandbox have different versions of this package
    ├── KernelDied        the kernel's process ended; its variables are gone
    ├── SessionNotFound   there is no such session, or another process is its host
    ├── HostLost          a tool call was not answered, because the session's earlier host ended
    ├── RecordingError    a recording cannot be read or written, or lacks a value
    └── ReplayMismatch    a program does not do what was recorded
"""

from __future__ import annotations

from .formatting import printable


class KernelError(Exception):
    """Base class of the errors between host and kernel.

    Its text may come from a sandbox, so control characters in it are escaped.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(printable(arg) if isinstance(arg, str) else arg for arg in args))


class SandboxFailed(KernelError):
    """A sandbox that did not start, or whose relay could not be reached."""


class SandboxGone(SandboxFailed):
    """A sandbox that was stopped or deleted, or whose relay cannot run; its kernels and their variables are gone."""


class TunnelLost(KernelError):
    """A lost link to the relay. A running cell may or may not have ended."""


class CellNotRun(KernelError):
    """A cell that was lost or interrupted before it reached the kernel. It did not run; variables are unchanged."""


class WireMismatch(KernelError):
    """Different versions of the wire format on host and sandbox."""


class KernelDied(KernelError):
    """The end of the kernel's process, and of its variables.

    Attributes:
        exit_code: The process's exit code, negative for a signal; None if it is not known.
        out_of_memory: Whether the operating system killed the process because memory ran out.
        stderr: The end of the process's standard error, with control characters escaped.
    """

    def __init__(
        self, why: str, *, exit_code: int | None = None, out_of_memory: bool = False, stderr: str = ""
    ) -> None:
        super().__init__(why)
        self.exit_code, self.out_of_memory, self.stderr = exit_code, out_of_memory, printable(stderr)


class SessionNotFound(KernelError):
    """A session that does not exist, or whose host is alive where it has to be gone, or gone where it has to live."""


class HostLost(KernelError, ConnectionError):
    """A tool call that was not answered, because the session's earlier host ended.

    In the cell it is an error of this name that is also a ``ToolError`` and a ``ConnectionError``; recordings have the
    name.
    """


class RecordingError(KernelError):
    """A recording that cannot be written, is no recording, has another version, is cut off, or lacks a value."""


class ReplayMismatch(KernelError):
    """A request that differs from the recorded one. Nothing was run."""
