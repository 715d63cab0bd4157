"""A real IPython kernel in a sandbox as the Python REPL of DSPy's RLM.

::

    import dspy
    from daytona_kernel_interp import KernelInterpreter

    rlm = dspy.RLM("context, question -> answer", interpreter=KernelInterpreter())

Names are imported on first use: importing the package costs nothing, and ``wire`` and ``guest``, which run in the
sandbox, never import dspy.
"""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers know the name; importing typing would cost more than all the rest of this file
if TYPE_CHECKING:
    from typing import Any

    from .client.cell_result import CellResult
    from .client.outputs import CellError, DisplayData, ExecuteResult, StreamText
    from .errors import (
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
    from .interpreter.dspy_compat import FinalOutput
    from .interpreter.interpreter import KernelInterpreter
    from .monitor.inspection import Inspection
    from .monitor.live import live
    from .playback.compare import Tolerance
    from .playback.diff import diff
    from .playback.offline_interpreter import ReplayInterpreter
    from .playback.replay import replay
    from .recording.recording import Recording
    from .sandboxes.daytona import DaytonaSandbox
    from .sandboxes.daytona.snapshot_image import KernelImage
    from .sandboxes.local import LocalSandbox
    from .sandboxes.remote_relay import RelaySandbox

__all__ = [
    "CellError",
    "CellNotRun",
    "CellResult",
    "DaytonaSandbox",
    "DisplayData",
    "ExecuteResult",
    "FinalOutput",
    "HostLost",
    "Inspection",
    "KernelDied",
    "KernelError",
    "KernelImage",
    "KernelInterpreter",
    "LocalSandbox",
    "Recording",
    "RecordingError",
    "RelaySandbox",
    "ReplayInterpreter",
    "ReplayMismatch",
    "SandboxFailed",
    "SandboxGone",
    "SessionNotFound",
    "StreamText",
    "Tolerance",
    "TunnelLost",
    "WireMismatch",
    "diff",
    "live",
    "replay",
]
__version__ = "0.1.0"


_HOMES = {  # of all names that are no errors
    "CellError": ".client.outputs",
    "CellResult": ".client.cell_result",
    "DaytonaSandbox": ".sandboxes.daytona",
    "DisplayData": ".client.outputs",
    "ExecuteResult": ".client.outputs",
    "FinalOutput": ".interpreter.dspy_compat",
    "Inspection": ".monitor.inspection",
    "KernelImage": ".sandboxes.daytona.snapshot_image",
    "KernelInterpreter": ".interpreter.interpreter",
    "LocalSandbox": ".sandboxes.local",
    "Recording": ".recording.recording",
    "RelaySandbox": ".sandboxes.remote_relay",
    "ReplayInterpreter": ".playback.offline_interpreter",
    "StreamText": ".client.outputs",
    "Tolerance": ".playback.compare",
    "diff": ".playback.diff",
    "live": ".monitor.live",
    "replay": ".playback.replay",
}
_INTERPRETERS = {"KernelInterpreter", "ReplayInterpreter"}  # who touches one may write dspy.RLM(interpreter=...)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_HOMES.get(name, ".errors"), __name__), name)
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
