"""Replies to inspect requests on the control channel. Protocol: ``wire/inspect_messages.py``.

Runs in ipykernel's control thread while cells run in the main thread. Nothing is published, no code of a value runs,
and history, ``_`` and the execution count stay as they are.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any, TypeVar

import ipykernel
import IPython
import tornado
import zmq

from ...codec import values
from ...wire.inspect_messages import CODE_CHARS, MAX_CALLS, NAMED_CHARS, REPR_S
from .inspector import copy_namespace, describe, is_large, line_of_thread, shown_tools, summarize, task_names

if TYPE_CHECKING:
    from collections.abc import Callable

    from .bridge import Bridge

T = TypeVar("T")

_MAX_STUCK_THREADS = 4  # threads that run a repr which does not return; beyond that no further repr is called
_LIBRARY_FOLDERS = (
    str(Path(__file__).parent),
    *(str(Path(module.__file__ or "").parent) for module in (IPython, ipykernel, tornado, zmq, asyncio)),
)


class InspectHandler:
    """Answers inspect requests; one per kernel."""

    def __init__(self, bridge: Bridge, shell: Any) -> None:
        self._bridge, self._shell = bridge, shell
        self._main_thread = threading.main_thread().ident
        self._cell_files = str(Path(gettempdir()) / "ipykernel_")
        self._running: dict[str, object] | None = None
        self._loop: asyncio.AbstractEventLoop  # of the running cell
        self._cell_started_at = 0.0
        self._count = self._stuck_threads = 0

    def cell_started(self, cell: str, code: object, number: int) -> None:
        """Note the cell that the main thread starts. Call it in the cell's event loop."""
        self._cell_started_at, self._loop = time.monotonic(), asyncio.get_running_loop()
        self._count += 1
        text = code[:CODE_CHARS] if type(code) is str else ""
        self._running = {"cell": cell, "code": text, "number": number}

    def cell_ended(self) -> None:
        """Note that no cell runs."""
        self._running = None

    # --- replies, in the control thread ---------------------------------------------------------------------

    def summary(self) -> dict[str, object]:
        """Return the variables and the running cell."""
        offered = self._bridge.bound_callables()
        hidden = {**copy_namespace(self._shell.user_ns_hidden), **offered}
        rows, left_out = summarize(self._shell.user_ns, hidden)
        return {
            **{"variables": rows, "left_out": left_out, "running": self._running_cell(), "count": self._count},
            "tools": shown_tools(offered)[:MAX_CALLS],
        }

    async def variable(
        self, name: object, *, with_value: bool, max_bytes: object
    ) -> tuple[dict[str, object], list[values.Buffer]]:
        """Return one variable: with its own repr, or with its encoded value, if no cell runs."""
        # A key of a str subclass would have its own __eq__ called.
        namespace = {key: value for key, value in copy_namespace(self._shell.user_ns).items() if type(key) is str}
        answer: dict[str, object] = {"running": self._running_cell(), "count": self._count}
        if type(name) is not str or name not in namespace:
            return {**answer, "missing": True}, []
        value = namespace[name]
        row = describe(name, value, NAMED_CHARS)
        answer["variables"] = [row]
        if with_value:
            try:
                return answer, await self._run_in_thread(lambda: self._encoded(name, value, max_bytes), None)
            except RuntimeError as error:
                return {**answer, "refused": str(error)}, []
        if self._running is None and self._stuck_threads < _MAX_STUCK_THREADS and not is_large(value):
            try:
                row[4] = await self._run_in_thread(lambda: _repr_of(value), REPR_S)
            except (RuntimeError, asyncio.TimeoutError):  # it raised, or took too long: the row stays as it is
                answer["own_repr"] = False
        return answer, []

    def _encoded(self, name: str, value: object, max_bytes: object) -> list[values.Buffer]:
        if self._running is not None:
            raise RuntimeError("a cell is running; its variables can be read when it has ended")
        try:
            return values.dumps(value, max_bytes=max_bytes if type(max_bytes) is int else None, snapshot=True)
        except (values.UnsupportedValue, values.ValueTooLarge) as error:
            raise TypeError(f"variable {name!r} cannot be sent to the host: {error}") from None

    async def _run_in_thread(self, work: Callable[[], T], limit_s: float | None) -> T:
        """Run ``work``, which calls code of a value and may never return, in a thread of its own."""
        done: concurrent.futures.Future[T] = concurrent.futures.Future()

        def serve() -> None:
            try:
                done.set_result(work())
            except BaseException as error:  # code of the value may raise anything, even SystemExit
                done.set_exception(RuntimeError(_message_of(error)))

        threading.Thread(target=serve, name="inspect", daemon=True).start()
        self._stuck_threads += 1
        returned = asyncio.wrap_future(done)
        returned.add_done_callback(self._thread_returned)
        return await asyncio.wait_for(asyncio.shield(returned), limit_s)

    def _thread_returned(self, returned: asyncio.Future[T]) -> None:
        self._stuck_threads -= 1
        if not returned.cancelled():
            returned.exception()

    def _running_cell(self) -> dict[str, object] | None:
        running, now = self._running, time.monotonic()
        if running is None:
            return None
        return {
            **running,
            "elapsed_s": now - self._cell_started_at,
            "line": line_of_thread(self._main_thread, self._cell_files),
            "calls": [[name, now - since] for name, since in self._bridge.pending_calls()][:MAX_CALLS],
            "tasks": task_names(_tasks_of(self._loop), _LIBRARY_FOLDERS)[:MAX_CALLS],
        }


def _repr_of(value: object) -> str:
    return str.__getitem__(repr(value), slice(0, NAMED_CHARS))


def _message_of(error: BaseException) -> str:
    try:
        return str.__str__(str(error))
    except BaseException:  # an exception's own __str__ may raise anything
        return type(error).__name__


def _tasks_of(loop: asyncio.AbstractEventLoop) -> set[Any]:
    """Return the tasks of a loop, or none if a task of a foreign class fails."""
    try:
        return asyncio.all_tasks(loop)
    except BaseException:  # asyncio calls done() of every task, which may be code of the session
        return set()
