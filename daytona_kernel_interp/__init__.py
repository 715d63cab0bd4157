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

    from .interpreter.interpreter import KernelInterpreter
    from .monitor.live import live
    from .playback.diff import diff
    from .playback.offline_interpreter import ReplayInterpreter
    from .playback.replay import replay
    from .recording.recording import Recording
    from .sandboxes.daytona import DaytonaSandbox
    from .sandboxes.daytona.snapshot_image import KernelImage
    from .sandboxes.local import LocalSandbox
    from .sandboxes.remote_relay import RelaySandbox

__all__ = [
    "DaytonaSandbox",
    "KernelImage",
    "KernelInterpreter",
    "LocalSandbox",
    "Recording",
    "RelaySandbox",
    "ReplayInterpreter",
    "diff",
    "live",
    "replay",
]
__version__ = "0.1.0"


_HOMES = {
    "DaytonaSandbox": ".sandboxes.daytona",
    "KernelImage": ".sandboxes.daytona.snapshot_image",
    "KernelInterpreter": ".interpreter.interpreter",
    "LocalSandbox": ".sandboxes.local",
    "Recording": ".recording.recording",
    "RelaySandbox": ".sandboxes.remote_relay",
    "ReplayInterpreter": ".playback.offline_interpreter",
    "diff": ".playback.diff",
    "live": ".monitor.live",
    "replay": ".playback.replay",
}
_INTERPRETERS = {"KernelInterpreter", "ReplayInterpreter"}  # who touches one may write dspy.RLM(interpreter=...)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_HOMES[name], __name__), name)
    if name in _INTERPRETERS:
        from .interpreter.rlm_patch import install

        install()
    return value


def load_ipython_extension(shell: Any) -> None:
    """Add ``%sandbox_sessions``, ``%sandbox_vars``, ``%%sandbox`` and ``%sandbox_get``: ``%load_ext`` calls this."""
    from .jupyter.magics import load

    load(shell)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
