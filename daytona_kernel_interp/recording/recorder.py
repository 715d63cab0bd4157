"""The recorder: what an interpreter's calls do, written down while it happens.

A step is noted when its call begins, and written when it ends. One that takes longer than :data:`SLOW_S` is written
before, as unfinished, in case this process is gone by then. Recording never breaks what it records: whatever goes
wrong here is logged once, and ends the recording.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.metadata
import logging
import platform
import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.event_loop import DaemonThreads
from .call_tree import CompletedLMCall, Reasoning, tree
from .model import LMCall, SessionFacts, ValueRef
from .recording_file import NotebookWriter
from .redaction import known_secrets
from .step_recorder import LMResponse, StepRecorder, StoredValue

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from ..client.execution import ExecutionResult
    from ..codec import values
    from ..interpreter.request import CellRequest
    from ..session.kernel_session import KernelSession

log = logging.getLogger(__name__)

SLOW_S = 0.1


class NullStep:
    """What stands for a step where nothing is recorded."""

    observer = None
    request_sent = None

    def __enter__(self) -> NullStep:
        """Begin nothing."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """End nothing."""

    def cell_ended(self, result: ExecutionResult) -> None:
        """Take nothing."""

    def set_result(self, value: Any) -> Any:
        """Return it."""
        return value


def begin_recording(recorder: Recorder, session: KernelSession, options: Mapping[str, Any], seed: int | None) -> None:
    """Begin to record a session.

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


def begin_step(recorder: Recorder | None, request: CellRequest) -> StepRecorder | NullStep:
    """Begin to note one call of ``execute``; used as a context, it is told how that ends."""
    step = None if recorder is None else recorder.begin_step(request)
    return NullStep() if step is None else step


class Recorder:
    """Writes down what one interpreter does. One file a session; see :class:`~.writer.NotebookWriter`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self._lock = threading.RLock()
        self._guard = _RecordingGuard(self)
        self._threads = DaemonThreads(1, "daytona-kernel-record")
        # Apart, as it takes no lock: who has the lock may wait for a value.
        self._values_threads = DaemonThreads(1, "daytona-kernel-values")
        self._writer: NotebookWriter | None = None
        self._step: StepRecorder | None = None
        self._slow_timer: asyncio.TimerHandle | None = None
        self._secrets: tuple[str, ...] = ()
        self._shut_down = False
        self._close_as_complete: bool | None = None  # what is to be said of a session that ended with a step still open

    @property
    def notebook(self) -> Path | None:
        """The notebook that is being written, or was last; None before the first session."""
        return None if self._writer is None else self._writer.path

    # --- a session ---------------------------------------------------------------------------------------

    def begin(self, facts: SessionFacts, secrets: Sequence[str] = ()) -> None:
        """A session begins; ``secrets`` open what is its own.

        Raises:
            RecordingError: If a file is there that is no recording; it is left as it is.
            OSError: If it cannot be written.
        """
        with self._lock:
            self._close_as_complete, self._shut_down = None, False
            self._writer, self._secrets = NotebookWriter(self.path, facts), tuple(secrets)
            known_secrets.add(*secrets)
            known_secrets.add_environment()
            if self._step is not None:  # a cell that begins with the session
                for stored in self._step.variables.values():
                    if stored.is_large:
                        self._begin_to_store(stored)

    def shutting_down(self) -> None:
        """The session is about to be shut down; a step that runs ends with it."""
        self._shut_down = True

    def session_closed(self, complete: bool) -> None:
        """The session ends for this host: ``complete`` if it was shut down. Calling it again does nothing."""
        with self._lock:
            if self._writer is None or self._writer.closed:
                return
            if self._step is not None:
                self._close_as_complete = complete
                return
            with self._guard:
                self.add_reasoning(Reasoning(tree.end_session(self)))
                self._writer.close(complete=complete)
            known_secrets.discard(*self._secrets)

    # --- a step ------------------------------------------------------------------------------------------

    def begin_step(self, request: CellRequest) -> StepRecorder | None:
        """A call of ``execute`` begins."""
        with self._lock:
            try:
                self._step = StepRecorder(self, request, tree.begin_cell(self))
            except Exception:
                self._step = None
                self.failed()
            return self._step

    def end_step(self, step: StepRecorder, error: BaseException | None) -> None:
        """It ends."""
        with self._lock:
            self._write(step, error, over=True)
            self._step = None
            if self._close_as_complete is not None:
                self.session_closed(self._close_as_complete)

    def check_slow_later(self) -> None:
        """Have a step that takes its time written before it ends, in case this process ends before. On the I/O loop.

        One timer serves all steps: most are over when it looks.
        """
        if self._slow_timer is None:
            self._slow_timer = asyncio.get_running_loop().call_later(SLOW_S, self._check_slow)

    def _check_slow(self) -> None:
        self._slow_timer, step, loop = None, self._step, asyncio.get_running_loop()
        if step is None or step.sent_at is None or step.slow:
            return
        left_s = step.sent_at + SLOW_S - loop.time()
        if left_s > 0:
            self._slow_timer = loop.call_later(left_s, self._check_slow)
        else:
            step.slow = True
            self._threads.submit(self._write_unfinished, step)

    def _write_unfinished(self, step: StepRecorder) -> None:
        with self._lock:
            if self._step is step:
                self._write(step, None, over=False)

    def _write(self, step: StepRecorder, error: BaseException | None, *, over: bool) -> None:
        writer = self._writer
        if writer is None or writer.closed:
            return
        try:
            writer.callback = writer.callback or tree.callback_active
            if step.reasoning and not step.reasoning_written:
                step.reasoning_written = True
                self._write_reasoning(writer, step.lm_responses, step.reasoning.reasoning)
            entry = step.entry(writer.entries, error, over=over, shut_down=self._shut_down)
            tool_lm_calls = step.lm_calls_in_tools() if entry.calls else ()
            lm_calls = (
                self._lm_calls(self.store_lm_calls(tool_lm_calls), entry.index, step.inline_values)
                if tool_lm_calls
                else ()
            )
            writer.put(entry, lm_calls, step.inline_values, over=over)
        except Exception:
            self.failed()

    def add_reasoning(self, reasoning: Reasoning) -> None:
        """A model answered, between cells."""
        if not reasoning:
            return
        with self._lock, self._guard:
            if self._writer is not None and not self._writer.closed:
                self._write_reasoning(self._writer, self.store_lm_calls(reasoning.lm_calls), reasoning.reasoning)
                self._writer.flush()

    def store_lm_calls(self, lm_calls: Sequence[CompletedLMCall]) -> list[LMResponse]:
        """Begin to keep what models were asked, and answered."""
        return [
            LMResponse(
                one, self.store_value(one.request), None if one.outputs is None else self.store_value(one.outputs)
            )
            for one in lm_calls
        ]

    def _write_reasoning(self, writer: NotebookWriter, responses: Sequence[LMResponse], reasoning: str | None) -> None:
        inline: dict[str, str] = {}
        writer.add_model(self._lm_calls(responses, None, inline), reasoning, inline)

    def _lm_calls(self, responses: Sequence[LMResponse], entry: int | None, inline: dict[str, str]) -> list[LMCall]:
        calls = []
        for one in sorted(responses, key=lambda one: one.call.began):
            request = self.wait_stored(one.request, inline)
            outputs = None if one.outputs is None else self.wait_stored(one.outputs, inline)
            call = one.call
            calls.append(
                LMCall(call.call_id, entry, call.began, call.elapsed_s, request, outputs, call.usage, call.error)
            )
        return calls

    # --- values ----------------------------------------------------------------------------------------------

    def store_value(self, buffers: Sequence[values.Buffer], key: str = "", *, is_call: bool = False) -> StoredValue:
        """Begin to keep a value: one that gets a file of its own is hashed and written on a thread."""
        stored = StoredValue(buffers, key, is_call)
        if stored.is_large:
            self._begin_to_store(stored)
        return stored

    def _begin_to_store(self, stored: StoredValue) -> None:
        writer = self._writer
        if writer is not None and not writer.closed and not writer.has(stored.key):
            stored.writing = self._values_threads.submit(self._store_now, stored)

    def wait_stored(self, stored: StoredValue, inline: dict[str, str]) -> ValueRef:
        """Return what names a value, once it is kept; the text of a small one that is new goes into ``inline``."""
        if stored.writing is not None:
            inline |= stored.writing.result()
        elif stored.ref is None:
            assert self._writer is not None
            stored.ref = self._writer.store_value(stored.buffers, stored.key, inline, is_call=stored.is_call)
        assert stored.ref is not None
        return stored.ref

    def _store_now(self, stored: StoredValue) -> dict[str, str]:
        assert self._writer is not None
        inline: dict[str, str] = {}
        stored.ref = self._writer.store_value(stored.buffers, stored.key, inline, is_call=stored.is_call)
        return inline

    def failed(self) -> None:
        """Something went wrong; the session goes on without its recording."""
        log.exception("recording to %s failed; the session goes on without it", self.notebook or self.path)
        if self._writer is not None:
            self._writer.abandon()


class _RecordingGuard:
    """Ends a recording, and nothing else, when something goes wrong with it."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        """Take an error, but not what is to end the thread or the process."""
        if not isinstance(error, Exception):
            return False
        self._recorder.failed()
        return True


@functools.cache
def _versions() -> Mapping[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("daytona-kernel-interp", "dspy", "jupyter_client"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
