"""A JupyterLab widget that follows a session: its cells, the running line, pending tool calls, variables.

A thread inspects the session twice a second, or less often where inspections are slow, and updates the widget's state;
``widget.js`` draws it as plain text.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import KernelDied, KernelError, SessionNotFound
from .inspection import Inspection, RunningCell, as_list, clean, parse_inspection

try:
    import anywidget
    import traitlets
except ImportError as missing:
    raise ImportError("the live view needs anywidget: pip install 'daytona-kernel-interp[jupyter]'") from missing

Follow = Callable[[int], Mapping[str, object]]  # see MonitorServer.follow

POLL_S, _MAX_POLL_S = 0.5, 5.0
_REST_FACTOR = 25  # pause per inspection time: a large namespace costs the run no more than a small one
_MAX_FAILURES = 20  # in a row; a link may be down for some seconds
_MAX_STEPS = 200
_CODE_CHARS, _TAIL_CHARS = 2000, 1000
_STATES = ("running", "done", "failed", "submitted", "ended")


class SessionView(anywidget.AnyWidget):
    """A view of one session, updated until the session ends or :meth:`close` is called."""

    _esm = Path(__file__).with_name("widget.js")
    session = traitlets.Unicode().tag(sync=True)
    steps: Any = traitlets.List().tag(sync=True)  # number, code, state, took_s, tail, error
    now = traitlets.Dict().tag(sync=True)  # headings, running, calls, tasks
    variables: Any = traitlets.List().tag(sync=True)  # name, type, size, shape, value
    over = traitlets.Unicode().tag(sync=True)  # why updates have ended

    def __init__(self, follow: Follow, session: str) -> None:
        super().__init__(session=session)
        self._follow, self._change = follow, 0
        self._last_change: dict[int, dict[str, Any]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="daytona-kernel-view", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the updates and remove the widget."""
        self._stop.set()
        super().close()

    def refresh(self) -> None:
        """Update the state once, now.

        Raises:
            KernelError: If the session does not answer.
        """
        answer = self._follow(self._change)
        look = answer.get("look")
        found = parse_inspection(look if isinstance(look, Mapping) else {}, self.session)
        for step in map(_step, as_list(answer.get("steps"))):
            if step is not None:
                self._last_change[step["number"]] = step
        change = answer.get("change")
        self._change = change if type(change) is int else 0
        with self.hold_sync():
            self.steps = [self._last_change[number] for number in sorted(self._last_change)[-_MAX_STEPS:]]
            self.now = _now(found)
            self.variables = [list(cells) for cells in found.rows()]

    def _serve(self) -> None:
        failures = 0
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self.refresh()
                failures = 0
            except KernelError as error:
                failures += 1
                if isinstance(error, (SessionNotFound, KernelDied)) or failures >= _MAX_FAILURES:
                    self.over = clean(str(error), _TAIL_CHARS)
                    return
            self._stop.wait(min(_MAX_POLL_S, max(POLL_S, _REST_FACTOR * (time.monotonic() - began))))


def _now(inspection: Inspection) -> dict[str, Any]:
    running = inspection.running or RunningCell("", 0, 0.0)
    return {
        "headings": list(inspection.headings()),
        "footings": list(inspection.footings()),
        "code": running.code,
        "line": running.line,
        "calls": [[call.name, round(call.elapsed_s, 1)] for call in running.calls],
    }


def _step(step: object) -> dict[str, Any] | None:
    match step:
        case {"number": int(number), "code": str(code), "state": str(state), **rest}:
            took, tail, error = rest.get("took_s"), rest.get("tail"), rest.get("error")
            return {
                "number": number,
                "code": clean(code, _CODE_CHARS, lines=True),
                "state": state if state in _STATES else "ended",
                "took_s": round(took, 1) if isinstance(took, float) and 0 <= took < 1e9 else None,
                "tail": clean(tail, _TAIL_CHARS, lines=True) if isinstance(tail, str) else "",
                "error": clean(error, _TAIL_CHARS, lines=True) if isinstance(error, str) else "",
            }
    return None
