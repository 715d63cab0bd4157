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
from .call_tree import Said, Thought, tree
from .model import Facts, LMCall, Ref
from .recording_file import Writer
from .redaction import known
from .step_recorder import Heard, Kept, Step

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from ..client.execution import CellResult
    from ..codec import values
    from ..interpreter.request import Request
    from ..session.kernel_session import Session

log = logging.getLogger(__name__)

SLOW_S = 0.1


class NoStep:
    """What stands for a step where nothing is recorded."""

    observer = None
    sent = None

    def __enter__(self) -> NoStep:
        """Begin nothing."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """End nothing."""

    def ended(self, result: CellResult) -> None:
        """Take nothing."""

    def gave(self, value: Any) -> Any:
        """Return it."""
        return value


def begin(recorder: Recorder, session: Session, options: Mapping[str, Any], seed: int | None) -> None:
    """Begin to record a session.

    Raises:
        RecordingError, OSError: As for :meth:`Recorder.begin`.
    """
    facts = Facts(
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


def step_of(recorder: Recorder | None, request: Request) -> Step | NoStep:
    """Begin to note one call of ``execute``; used as a context, it is told how that ends."""
    step = None if recorder is None else recorder.begin_step(request)
    return NoStep() if step is None else step


class Recorder:
    """Writes down what one interpreter does. One file a session; see :class:`~.writer.Writer`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self._lock = threading.RLock()
        self._guarded = _Guard(self)
        self._threads = DaemonThreads(1, "daytona-kernel-record")
        # Apart, as it takes no lock: who has the lock may wait for a value.
        self._values_threads = DaemonThreads(1, "daytona-kernel-values")
        self._writer: Writer | None = None
        self._step: Step | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._secrets: tuple[str, ...] = ()
        self._shut_down = False
        self._closing: bool | None = None  # what is to be said of a session that ended with a step still open

    @property
    def notebook(self) -> Path | None:
        """The notebook that is being written, or was last; None before the first session."""
        return None if self._writer is None else self._writer.path

    # --- a session ---------------------------------------------------------------------------------------

    def begin(self, facts: Facts, secrets: Sequence[str] = ()) -> None:
        """A session begins; ``secrets`` open what is its own.

        Raises:
            RecordingError: If a file is there that is no recording; it is left as it is.
            OSError: If it cannot be written.
        """
        with self._lock:
            self._closing, self._shut_down = None, False
            self._writer, self._secrets = Writer(self.path, facts), tuple(secrets)
            known.add(*secrets)
            known.add_environment()
            if self._step is not None:  # a cell that begins with the session
                for kept in self._step.variables.values():
                    if kept.is_large:
                        self._begin_to_keep(kept)

    def shuts_down(self) -> None:
        """The session is about to be shut down; a step that runs ends with it."""
        self._shut_down = True

    def session_closed(self, complete: bool) -> None:
        """The session ends for this host: ``complete`` if it was shut down. Calling it again does nothing."""
        with self._lock:
            if self._writer is None or self._writer.closed:
                return
            if self._step is not None:
                self._closing = complete
                return
            with self._guarded:
                self.model_said(Thought(tree.let_go(self)))
                self._writer.close(complete=complete)
            known.discard(*self._secrets)

    # --- a step ------------------------------------------------------------------------------------------

    def begin_step(self, request: Request) -> Step | None:
        """A call of ``execute`` begins."""
        with self._lock:
            try:
                self._step = Step(self, request, tree.claim(self))
            except Exception:
                self._step = None
                self.failed()
            return self._step

    def end_step(self, step: Step, error: BaseException | None) -> None:
        """It ends."""
        with self._lock:
            self._write(step, error, over=True)
            self._step = None
            if self._closing is not None:
                self.session_closed(self._closing)

    def watch(self) -> None:
        """Have a step that takes its time written before it ends, in case this process ends before. On the I/O loop.

        One timer serves all steps: most are over when it looks.
        """
        if self._watch is None:
            self._watch = asyncio.get_running_loop().call_later(SLOW_S, self._look_for_slow)

    def _look_for_slow(self) -> None:
        self._watch, step, loop = None, self._step, asyncio.get_running_loop()
        if step is None or step.sent_at is None or step.slow:
            return
        left_s = step.sent_at + SLOW_S - loop.time()
        if left_s > 0:
            self._watch = loop.call_later(left_s, self._look_for_slow)
        else:
            step.slow = True
            self._threads.submit(self._write_unfinished, step)

    def _write_unfinished(self, step: Step) -> None:
        with self._lock:
            if self._step is step:
                self._write(step, None, over=False)

    def _write(self, step: Step, error: BaseException | None, *, over: bool) -> None:
        writer = self._writer
        if writer is None or writer.closed:
            return
        try:
            writer.callback = writer.callback or tree.listens
            if step.thought and not step.thought_written:
                step.thought_written = True
                self._add_thought(writer, step.heard, step.thought.reasoning)
            entry = step.entry(writer.entries, error, over=over, shut_down=self._shut_down)
            said = step.said_inside() if entry.calls else ()
            lm_calls = self._lm_calls(self.hear(said), entry.index, step.inline) if said else ()
            writer.put(entry, lm_calls, step.inline, over=over)
        except Exception:
            self.failed()

    def model_said(self, thought: Thought) -> None:
        """A model answered, between cells."""
        if not thought:
            return
        with self._lock, self._guarded:
            if self._writer is not None and not self._writer.closed:
                self._add_thought(self._writer, self.hear(thought.said), thought.reasoning)
                self._writer.flush()

    def hear(self, said: Sequence[Said]) -> list[Heard]:
        """Begin to keep what models were asked, and answered."""
        return [
            Heard(one, self.keep(one.request), None if one.outputs is None else self.keep(one.outputs)) for one in said
        ]

    def _add_thought(self, writer: Writer, heard: Sequence[Heard], reasoning: str | None) -> None:
        inline: dict[str, str] = {}
        writer.add_model(self._lm_calls(heard, None, inline), reasoning, inline)

    def _lm_calls(self, heard: Sequence[Heard], entry: int | None, inline: dict[str, str]) -> list[LMCall]:
        calls = []
        for one in sorted(heard, key=lambda one: one.said.began):
            request = self.settle(one.request, inline)
            outputs = None if one.outputs is None else self.settle(one.outputs, inline)
            said = one.said
            calls.append(
                LMCall(said.call_id, entry, said.began, said.elapsed_s, request, outputs, said.usage, said.error)
            )
        return calls

    # --- values ----------------------------------------------------------------------------------------------

    def keep(self, buffers: Sequence[values.Buffer], key: str = "", *, is_call: bool = False) -> Kept:
        """Begin to keep a value: one that gets a file of its own is hashed and written on a thread."""
        kept = Kept(buffers, key, is_call)
        if kept.is_large:
            self._begin_to_keep(kept)
        return kept

    def _begin_to_keep(self, kept: Kept) -> None:
        writer = self._writer
        if writer is not None and not writer.closed and not writer.has(kept.key):
            kept.writing = self._values_threads.submit(self._keep_now, kept)

    def settle(self, kept: Kept, inline: dict[str, str]) -> Ref:
        """Return what names a value, once it is kept; the text of a small one that is new goes into ``inline``."""
        if kept.writing is not None:
            inline |= kept.writing.result()
        elif kept.ref is None:
            assert self._writer is not None
            kept.ref = self._writer.keep(kept.buffers, kept.key, inline, is_call=kept.is_call)
        assert kept.ref is not None
        return kept.ref

    def _keep_now(self, kept: Kept) -> dict[str, str]:
        assert self._writer is not None
        inline: dict[str, str] = {}
        kept.ref = self._writer.keep(kept.buffers, kept.key, inline, is_call=kept.is_call)
        return inline

    def failed(self) -> None:
        """Something went wrong; the session goes on without its recording."""
        log.exception("recording to %s failed; the session goes on without it", self.notebook or self.path)
        if self._writer is not None:
            self._writer.abandon()


class _Guard:
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
