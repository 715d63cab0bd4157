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

    from .client.cell_result import CellResult as CellResult
    from .client.outputs import CellError as CellError
    from .client.outputs import DisplayData as DisplayData
    from .client.outputs import ExecuteResult as ExecuteResult
    from .client.outputs import StreamText as StreamText
    from .errors import CellNotRun as CellNotRun
    from .errors import HostLost as HostLost
    from .errors import KernelDied as KernelDied
    from .errors import KernelError as KernelError
    from .errors import RecordingError as RecordingError
    from .errors import ReplayMismatch as ReplayMismatch
    from .errors import SandboxFailed as SandboxFailed
    from .errors import SandboxGone as SandboxGone
    from .errors import SessionNotFound as SessionNotFound
    from .errors import TunnelLost as TunnelLost
    from .errors import WireMismatch as WireMismatch
    from .interpreter.dspy_compat import FinalOutput as FinalOutput
    from .interpreter.interpreter import KernelInterpreter as KernelInterpreter
    from .monitor.inspection import Inspection as Inspection
    from .monitor.live import live as live
    from .playback.compare import Tolerance as Tolerance
    from .playback.diff import diff as diff
    from .playback.offline_interpreter import ReplayInterpreter as ReplayInterpreter
    from .playback.replay import replay as replay
    from .recording.recording import Recording as Recording
    from .sandboxes.daytona import DaytonaSandbox as DaytonaSandbox
    from .sandboxes.daytona.snapshot_image import KernelImage as KernelImage
    from .sandboxes.local import LocalSandbox as LocalSandbox
    from .sandboxes.remote_relay import RelaySandbox as RelaySandbox

__version__ = "0.1.0"

_HOMES = {
    "CellError": ".client.outputs",
    "CellNotRun": ".errors",
    "CellResult": ".client.cell_result",
    "DaytonaSandbox": ".sandboxes.daytona",
    "DisplayData": ".client.outputs",
    "ExecuteResult": ".client.outputs",
    "FinalOutput": ".interpreter.dspy_compat",
    "HostLost": ".errors",
    "Inspection": ".monitor.inspection",
    "KernelDied": ".errors",
    "KernelError": ".errors",
    "KernelImage": ".sandboxes.daytona.snapshot_image",
    "KernelInterpreter": ".interpreter.interpreter",
    "LocalSandbox": ".sandboxes.local",
    "Recording": ".recording.recording",
    "RecordingError": ".errors",
    "RelaySandbox": ".sandboxes.remote_relay",
    "ReplayInterpreter": ".playback.offline_interpreter",
    "ReplayMismatch": ".errors",
    "SandboxFailed": ".errors",
    "SandboxGone": ".errors",
    "SessionNotFound": ".errors",
    "StreamText": ".client.outputs",
    "Tolerance": ".playback.compare",
    "TunnelLost": ".errors",
    "WireMismatch": ".errors",
    "diff": ".playback.diff",
    "live": ".monitor.live",
    "replay": ".playback.replay",
}
__all__ = [*_HOMES]
_INTERPRETERS = {"KernelInterpreter", "ReplayInterpreter"}  # who touches one may write dspy.RLM(interpreter=...)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_HOMES[name], __name__), name)
    if name in _INTERPRETERS:
        from .interpreter.rlm_async import install_async
        from .interpreter.rlm_patch import install

        install()
        install_async()
    return value


def load_ipython_extension(shell: Any) -> None:
    """Add ``%sandbox_sessions``, ``%sandbox_vars``, ``%%sandbox`` and ``%sandbox_get``: ``%load_ext`` calls this."""
    from .jupyter.magics import load

    load(shell)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
