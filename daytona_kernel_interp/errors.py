"""The package's own errors. None of them knows DSPy; ``interpreter.py`` turns them into DSPy's.

::

    KernelError
    ├── SandboxFailed     a sandbox could not be started, or its relay could not be reached
    │   └── SandboxGone   a sandbox was stopped or deleted under us; its kernels and their variables are gone
    ├── TunnelLost        the link to the relay is gone; what the running cell did is unknown
    ├── CellNotRun        lost, or interrupted, on the way to the kernel: the cell did not run, its kernel lives
    ├── WireMismatch      host and sandbox run different versions of this package
    ├── KernelDied        the kernel's process ended; its variables are gone
    ├── SessionNotFound   there is no session to take up, or its host lives
    ├── RecordingError    a recording cannot be read, or a value of it is missing
    └── ReplayMismatch    what a program asks for is not what was recorded
"""

from __future__ import annotations


class KernelError(Exception):
    """Base class of what can go wrong between host and kernel."""


class SandboxFailed(KernelError):
    """A sandbox could not be started, or its relay could not be reached."""


class SandboxGone(SandboxFailed):
    """A sandbox was stopped or deleted, or its relay cannot run; its kernels and their variables are gone."""


class TunnelLost(KernelError):
    """The link to the relay is gone. A running cell may or may not have ended."""


class CellNotRun(KernelError):
    """A cell did not run: it was lost, or interrupted, on its way to the kernel. Variables are as they were."""


class WireMismatch(KernelError):
    """Host and sandbox speak different versions of the wire."""


class KernelDied(KernelError):
    """The kernel's process ended, and its variables with it.

    ``exit_code`` is negative for a signal and None where nobody saw it; ``out_of_memory`` says that the operating
    system killed it for that; ``stderr`` is the last of what the process wrote there.
    """

    def __init__(
        self, why: str, *, exit_code: int | None = None, out_of_memory: bool = False, stderr: str = ""
    ) -> None:
        super().__init__(why)
        self.exit_code, self.out_of_memory, self.stderr = exit_code, out_of_memory, stderr


class SessionNotFound(KernelError):
    """There is no session of that id to take up, or the process that it belongs to still lives."""


class RecordingError(KernelError):
    """A file is no recording, or of another version, or was cut off, or lacks a value."""


class ReplayMismatch(KernelError):
    """A program that runs against a recording asks for something else than was recorded. Nothing was run."""
