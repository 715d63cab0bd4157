"""Record what an interpreter's calls of ``execute`` do, while they run.

Theory of operation
-------------------
One :class:`Recorder` belongs to one interpreter, for as long as that lives. A session that starts gives it the facts
and a new notebook (``begin``); each call of ``execute`` is a step (``begin_step``, ``end_step``); the end of the
session closes the notebook (``session_closed``). At most one step is open, as an interpreter runs one cell at a time.

The step collects: variables, tool calls and replies, the cell's outputs, the return value or the error, and, from the
DSPy callback by way of :mod:`.call_tree`, the model's reasoning and calls that led to the cell. When the call ends, the
step becomes an :class:`~.model.Entry` and the :class:`~.notebook_writer.NotebookWriter` writes it, before ``execute``
returns. So the file has every call that has returned.

Three threads take part:

- the caller's thread begins and ends steps;
- the I/O loop calls the step's hooks, and starts the timer that finds slow steps;
- two threads of the recorder's own. One writes a step that runs longer than ``SLOW_S`` as unfinished, so that the
  notebook shows its code if the process is killed meanwhile. The other hashes and writes large values as soon as they
  are known, because they may be the caller's memory, which a tool may change, and to save the caller the time.

``_lock`` protects the writer and the open step. The value thread takes no lock: a thread that holds the lock may wait
for a value. Values that come before the session has begun are stored when ``begin`` opens the notebook.

Recording must not break what it records. Errors are raised only by ``begin``, before anything runs. Any later error
ends the recording: it is logged once, the notebook keeps what it has, and the session goes on.

A session may end while a step is open, as the kernel dies or another thread shuts it down. Then the notebook is closed
after that step was written, and says whether the session was shut down.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.metadata
import logging
import os
import platform
import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..runtime.event_loop import DaemonThreads
from .call_tree import CompletedLMCall, Reasoning, tree
from .model import LMCall, SessionFacts
from .notebook_writer import NotebookWriter
from .redaction import known_secrets
from .step_recorder import StepRecorder
from .value_store import INLINE_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..client.execution import ExecutionResult
    from ..codec import values
    from ..session.kernel_session import KernelSession
    from .model import ValueRef
    from .step_recorder import PendingRef, RecordableRequest

T = TypeVar("T")
log = logging.getLogger(__name__)

SLOW_S = 0.1


class NullStep:
    """The step of an interpreter that is not recorded: every hook does nothing."""

    observer = None
    request_sent = None

    def __enter__(self) -> NullStep:
        """Return the step."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Do nothing."""

    def cell_ended(self, result: ExecutionResult) -> None:
        """Do nothing."""

    def set_result(self, value: T) -> T:
        """Return ``value``."""
        return value


def begin_recording(
    recorder: Recorder, session: KernelSession, options: Mapping[str, object], seed: int | None
) -> None:
    """Begin to record a session, and have its end close the notebook.

    Raises:
        RecordingError, OSError: As for :meth:`Recorder.begin`.
    """
    facts = SessionFacts(
        session_id=session.id,
        began=datetime.now(timezone.utc),
        sandbox=type(session.sandbox).__name__.removeprefix("Running"),
        versions=_versions(),
        options=options,
        seeds={} if seed is None else {"random": seed, "numpy": seed},
    )
    address = session.sandbox.address
    recorder.begin(facts, (session.kernel.key, address.secret, *address.headers.values()))
    session.on_closed = recorder.session_closed


def begin_step(recorder: Recorder | None, request: RecordableRequest) -> StepRecorder | NullStep:
    """Return a context manager that records one call of ``execute``, or does nothing without a recorder."""
    step = None if recorder is None else recorder.begin_step(request)
    return NullStep() if step is None else step


class Recorder:
    """The recorder of one interpreter; see "Theory of operation"."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self._lock = threading.RLock()
        self._renew_threads()
        self._writer: NotebookWriter | None = None
        self._step: StepRecorder | None = None
        self._slow_timer: asyncio.TimerHandle | None = None
        self._secrets: tuple[str, ...] = ()
        self._shut_down = False
        # Whether a session that ended with a step still open was shut down; None: no such session.
        self._close_as_complete: bool | None = None

    @property
    def notebook(self) -> Path | None:
        """The notebook of the session; None before the first session."""
        return None if self._writer is None else self._writer.path

    # --- a session ---------------------------------------------------------------------------------------

    def begin(self, facts: SessionFacts, secrets: Sequence[str] = ()) -> None:
        """Begin the notebook of a session; ``secrets`` are the session's own keys, which it must not contain.

        Raises:
            RecordingError: If the file exists and is no recording; it is not changed.
            OSError: If the file cannot be written.
        """
        with self._lock:
            self._close_as_complete, self._shut_down = None, False
            self._writer, self._secrets = NotebookWriter(self.path, facts), tuple(secrets)
            known_secrets.add(*secrets)
            known_secrets.add_named(os.environ)
            if self._step is not None:  # the call of execute that starts the session
                self._step.store_variables()

    def shutting_down(self) -> None:
        """Note that the session is about to be shut down, which ends a running step."""
        self._shut_down = True

    def session_closed(self, complete: bool) -> None:
        """Close the notebook, or have the open step close it. Repeated calls do nothing.

        Args:
            complete: Whether the session was shut down, not detached or lost.
        """
        with self._lock:
            if self._writer is None or self._writer.closed:
                return
            if self._step is not None:
                self._close_as_complete = complete
                return
            try:
                self.add_reasoning(Reasoning(tree.end_session(self)))
                self._writer.close(complete=complete)
            except Exception:  # recording must not break what it records
                self._fail()
            known_secrets.discard(*self._secrets)
            self._slow_steps_thread.shutdown()
            self._values_thread.shutdown()
            self._renew_threads()

    def _renew_threads(self) -> None:
        """Have pools for the next session; a pool has no thread before its first job."""
        self._slow_steps_thread = DaemonThreads(1, "daytona-kernel-record")
        self._values_thread = DaemonThreads(1, "daytona-kernel-values")

    # --- a step ------------------------------------------------------------------------------------------

    def begin_step(self, request: RecordableRequest) -> StepRecorder | None:
        """Return the record of a call of ``execute`` that begins; None if the recording failed."""
        with self._lock:
            self._step = None
            try:
                self._step = StepRecorder(self, request, tree.begin_cell(self))
            except Exception:  # recording must not break what it records
                self._fail()
            return self._step

    def end_step(self, step: StepRecorder, error: BaseException | None) -> None:
        """Write a step that has ended; ``error`` is what ``execute`` raises."""
        with self._lock:
            self._write(step, error, over=True)
            self._step = None
            if self._close_as_complete is not None:
                self.session_closed(self._close_as_complete)

    def check_slow_later(self, step: StepRecorder) -> None:
        """Find out later whether a step is slow, on the I/O loop. One timer serves all steps, as most end before it."""
        if self._slow_timer is None:
            self._slow_timer = asyncio.get_running_loop().call_later(SLOW_S, self._check_slow, step)

    def _check_slow(self, step: StepRecorder) -> None:
        self._slow_timer = None
        if self._step is step:
            self._slow_steps_thread.submit(self._write_unfinished, step)
        elif self._step is not None:
            self.check_slow_later(self._step)

    def _write_unfinished(self, step: StepRecorder) -> None:
        with self._lock:
            if self._step is step:
                self._write(step, None, over=False)

    def _write(self, step: StepRecorder, error: BaseException | None, *, over: bool) -> None:
        writer = self._writer
        if writer is None or writer.closed:
            return
        try:
            writer.callback = writer.callback or tree.current is not None
            if step.reasoning and not step.reasoning_written:
                step.reasoning_written = True
                writer.add_model(self._lm_calls(step.reasoning.lm_calls), step.reasoning.reasoning)
            entry = step.entry(writer.entries, error, over=over, shut_down=self._shut_down)
            lm_calls = self._lm_calls(step.lm_calls_in_tools(), entry.index) if entry.calls else ()
            writer.put(entry, lm_calls, over=over)
        except Exception:  # recording must not break what it records
            self._fail()

    # --- models ------------------------------------------------------------------------------------------

    def add_reasoning(self, reasoning: Reasoning) -> None:
        """Write reasoning and calls of a model that no cell follows."""
        if not reasoning:
            return
        with self._lock:
            try:
                if self._writer is not None and not self._writer.closed:
                    self._writer.add_model(self._lm_calls(reasoning.lm_calls), reasoning.reasoning)
                    self._writer.flush()
            except Exception:  # recording must not break what it records
                self._fail()

    def _lm_calls(self, calls: Sequence[CompletedLMCall], entry: int | None = None) -> list[LMCall]:
        made = []
        for call in sorted(calls, key=lambda call: call.began):
            request = self._store(call.request)
            outputs = None if call.outputs is None else self._store(call.outputs)
            made.append(
                LMCall(call.call_id, entry, call.began, call.elapsed_s, request, outputs, call.usage, call.error)
            )
        return made

    # --- values ----------------------------------------------------------------------------------------------

    def store_value(self, buffers: Sequence[values.Buffer], key: str = "", *, is_call: bool = False) -> PendingRef:
        """Begin to store a value, if it gets a file of its own, on the value thread.

        Its buffers may be the caller's own memory, which a tool may change.
        """
        store, writer = functools.partial(self._store, buffers, key, is_call=is_call), self._writer
        is_large = len(buffers) > 1 or (len(buffers) == 1 and len(buffers[0]) > INLINE_BYTES)
        if is_large and writer is not None and not writer.closed and not writer.has(key):
            return self._values_thread.submit(store).result
        return store

    def _store(self, buffers: Sequence[values.Buffer], key: str = "", *, is_call: bool = False) -> ValueRef:
        assert self._writer is not None
        return self._writer.store_value(buffers, key, is_call=is_call)

    def _fail(self) -> None:
        """Log the current exception, and end the recording."""
        log.exception("recording to %s failed; the session goes on without it", self.notebook or self.path)
        if self._writer is not None:
            self._writer.abandon()


@functools.cache
def _versions() -> Mapping[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("daytona-kernel-interp", "dspy", "jupyter_client"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
