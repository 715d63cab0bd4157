"""The package's own errors. None of them knows DSPy; ``interpreter.py`` turns them into DSPy's.

::

    KernelError
    ├── SandboxFailed     a sandbox could not be started, or its relay could not be reached
    ├── TunnelLost        the link to the relay is gone; what the running cell did is unknown
    ├── WireMismatch      host and sandbox run different versions of this package
    └── KernelDied        the kernel's process ended; its variables are gone
"""

from __future__ import annotations


class KernelError(Exception):
    """Base class of what can go wrong between host and kernel."""


class SandboxFailed(KernelError):
    """A sandbox could not be started, or its relay could not be reached."""


class TunnelLost(KernelError):
    """The link to the relay is gone. A running cell may or may not have ended."""


class WireMismatch(KernelError):
    """Host and sandbox speak different versions of the wire."""


class KernelDied(KernelError):
    """The kernel's process ended, and its variables with it.

    ``exit_code`` is negative for a signal; ``stderr`` is the last of what the process wrote there.
    """

    def __init__(self, why: str, *, exit_code: int | None = None, stderr: str = "") -> None:
        super().__init__(why)
        self.exit_code, self.stderr = exit_code, stderr
