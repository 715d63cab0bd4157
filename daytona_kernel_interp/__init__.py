"""A real IPython kernel in a sandbox as the Python REPL of DSPy's RLM.

::

    import dspy
    from daytona_kernel_interp import KernelInterpreter

    rlm = dspy.RLM("context, question -> answer", interpreter=KernelInterpreter())

Names load when they are first used, so that importing the package costs nothing and ``wire`` and ``guest`` never
import dspy.
"""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers know the name; importing typing would cost more than all the rest of this file
if TYPE_CHECKING:
    from typing import Any

    from .interpreter import KernelInterpreter
    from .sandboxes.daytona import DaytonaSandbox
    from .sandboxes.local import LocalSandbox
    from .sandboxes.relay import RelaySandbox
    from .transcript.differing import diff
    from .transcript.offline import ReplayInterpreter
    from .transcript.recording import Recording
    from .transcript.replaying import replay

__all__ = [
    "DaytonaSandbox",
    "KernelInterpreter",
    "LocalSandbox",
    "Recording",
    "RelaySandbox",
    "ReplayInterpreter",
    "diff",
    "replay",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "KernelInterpreter":
        from .interpreter import KernelInterpreter
        from .rlm_keyword import install

        install()
        return KernelInterpreter
    if name == "DaytonaSandbox":
        from .sandboxes.daytona import DaytonaSandbox

        return DaytonaSandbox
    if name == "RelaySandbox":
        from .sandboxes.relay import RelaySandbox

        return RelaySandbox
    if name == "LocalSandbox":
        from .sandboxes.local import LocalSandbox

        return LocalSandbox
    if name == "ReplayInterpreter":
        from .rlm_keyword import install
        from .transcript.offline import ReplayInterpreter

        install()
        return ReplayInterpreter
    if name == "Recording":
        from .transcript.recording import Recording

        return Recording
    if name == "replay":
        from .transcript.replaying import replay

        return replay
    if name == "diff":
        from .transcript.differing import diff

        return diff
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
