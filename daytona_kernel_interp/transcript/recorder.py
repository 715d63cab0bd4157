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
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..loop import DaemonThreads
from ..wire import values
from ..wire.calls import ToolFailure
from .calltree import Said, Thought, calls_around, tree
from .ending import ending_of, outcome_of
from .model import Call, Entry, Facts, LMCall, Outcome, Ref, Usage
from .secrets import known
from .store import size_of
from .writer import Writer

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence
    from concurrent.futures import Future
    from contextvars import Context

    from ..cell import Cell
    from ..request import Request
    from ..running import CellResult
    from ..session import Session
    from ..wire.calls import Field

log = logging.getLogger(__name__)

SLOW_S = 0.1
_AHEAD_S = 0.001  # after a request or an answer went out: the kernel works then, and nothing here waits
_LARGE_BYTES = 64 * 1024  # kept on a thread of its own
_LLM_TOOLS = ("llm_query", "llm_query_batched")


@dataclass
class CallNote:
    """A tool call under way, or ended."""

    owner: Recorder
    id: int
    name: str
    began_s: float
    arguments: _Kept
    op: str = ""  # of its reply
    answer: _Kept | None = None
    elapsed_s: float | None = None
    said: list[Said] = field(default_factory=list)


@dataclass
class _Kept:
    """A value that is kept, or being kept on the recorder's own thread."""

    buffers: Sequence[values.Buffer]
    key: str = ""  # its hash, if that is known
    is_call: bool = False  # the arguments of one
    ref: Ref | None = None
    text: str | None = None  # of a small one that is new
    writing: Future[None] | None = None


class Step:
    """One call of ``execute`` in the making."""

    def __init__(self, owner: Recorder, request: Request, thought: Thought) -> None:
        self._owner, self._request = owner, request
        self.thought = thought
        self.thought_written = False
        self.began, self._clock = datetime.now(timezone.utc), time.perf_counter()
        self.given: Any = None
        self._cell: Cell | None = None
        self._result: CellResult | None = None
        self._calls: list[CallNote] = []
        self._slow: asyncio.TimerHandle | None = None
        self._ahead: asyncio.TimerHandle | None = None
        self._variables = {name: owner.keep(one.buffers, one.key) for name, one in request.variables.items()}
        self._unsettled = list(self._variables.values())
        self._inline: dict[str, str] = {}

    # --- hooks, on the I/O loop ------------------------------------------------------------------------

    @property
    def observer(self) -> Step:
        """Who is told of the calls of tools."""
        return self

    def sent(self, cell: Cell) -> None:
        """Its request goes out."""
        self._cell = cell
        if self._slow is None:
            self._slow = asyncio.get_running_loop().call_later(SLOW_S, self._owner.begin_unfinished, self)
            if self.thought:
                self._look_ahead()

    def called(self, call_id: int, name: str, buffers: Sequence[values.Buffer], context: Context) -> CallNote:
        """The cell calls a tool, which will run in ``context``."""
        arguments = self._owner.keep(buffers, is_call=True)
        note = CallNote(self._owner, call_id, name, time.perf_counter() - self._clock, arguments)
        self._calls.append(note)
        self._unsettled.append(arguments)
        context.run(calls_around.set, (*context.get(calls_around, ()), note))
        return note

    def answered(self, note: CallNote, op: str, buffers: Sequence[values.Buffer]) -> None:
        """The tool has answered."""
        note.elapsed_s = time.perf_counter() - self._clock - note.began_s
        note.op, note.answer = op, self._owner.keep(buffers)
        self._unsettled.append(note.answer)
        self._look_ahead()

    def _look_ahead(self) -> None:
        """Have what is there already prepared while the cell goes on: its end has to wait for less then."""
        if self._ahead is None:
            self._ahead = asyncio.get_running_loop().call_later(_AHEAD_S, self._prepare)

    def _prepare(self) -> None:
        self._ahead = None
        self._owner.begin_ahead(self)

    # --- hooks, in the caller's thread -------------------------------------------------------------------

    def ended(self, result: CellResult) -> None:
        """The cell is over, and its kernel lives."""
        self._result = result

    def gave(self, value: Any) -> Any:
        """Take what the caller gets, and return it."""
        self.given = value
        return value

    def stop_timer(self) -> None:
        """There is nothing to write any more but its end."""
        for timer in (self._slow, self._ahead):
            if timer is not None:
                timer.cancel()  # from another thread: at worst it runs, and finds that the step has ended

    # --- as an entry -------------------------------------------------------------------------------------

    def entry(self, index: int, error: BaseException | None, *, over: bool, shut_down: bool) -> Entry:
        """Return it as an entry; the small values that are new with it are in :attr:`inline`."""
        cell, result, request = self._cell, self._result, self._request
        outcome = Outcome("unfinished", "unknown")
        if over:
            ending = ending_of(cell, result, error, shut_down=shut_down)
            outcome = outcome_of(self.given, error, cell, ending, self._keep)
        calls = sorted(self._calls, key=lambda note: note.id) if over else ()
        return Entry(
            index=index,
            id="" if cell is None else cell.msg_id,
            code=request.code,
            began=self.began,
            outcome=outcome,
            variables={name: self._ref(one) for name, one in self._variables.items()},
            tools=request.tools,
            output_fields=None if request.fields is None else tuple(map(_field, request.fields)),
            outputs=() if cell is None or not over else tuple(cell.outputs),
            calls=tuple(map(self._call, calls)),
            elapsed_s=time.perf_counter() - self._clock if over else None,
            late="" if result is None else result.late,
            reasoning=self.thought.reasoning,
            usage=_total(self.thought.said),
        )

    def settle(self) -> None:
        """Keep what is small of its variables and calls so far; what is large is being kept."""
        unsettled, self._unsettled = self._unsettled, []
        for kept in unsettled:
            if kept.writing is None:
                self._ref(kept)

    @property
    def inline(self) -> dict[str, str]:
        """The small values that are new with it."""
        return self._inline

    def said_inside(self) -> list[Said]:
        """Return the calls of language models that the cell's tools made."""
        return [said for note in self._calls for said in note.said]

    def _keep(self, buffers: Sequence[values.Buffer]) -> Ref:
        return self._ref(self._owner.keep(buffers))

    def _ref(self, kept: _Kept) -> Ref:
        return self._owner.settle(kept, self._inline)

    def _call(self, note: CallNote) -> Call:
        error, result = None, None
        if note.op == "error" and note.answer is not None:
            failure = ToolFailure.from_value(values.loads(note.answer.buffers))
            error = (failure.type, failure.bases, failure.message)
        elif note.answer is not None:
            result = self._ref(note.answer)
        return Call(
            id=note.id,
            name=note.name,
            kind="llm" if note.name in _LLM_TOOLS else "tool",
            began_s=note.began_s,
            elapsed_s=note.elapsed_s,
            arguments=self._ref(note.arguments),
            result=result,
            error=error,
            usage=_total(note.said),
        )


class NoStep:
    """What stands for a step where nothing is recorded."""

    observer = None
    sent = None

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


@contextlib.contextmanager
def step_of(recorder: Recorder | None, request: Request) -> Iterator[Step | NoStep]:
    """Note one call of ``execute``, and how it ends; yields a :class:`Step`, or what stands for one."""
    step = None if recorder is None else recorder.begin_step(request)
    if recorder is None or step is None:
        yield NoStep()
        return
    try:
        yield step
    except BaseException as error:
        recorder.end_step(step, error)
        raise
    else:
        recorder.end_step(step, None)


class Recorder:
    """Writes down what one interpreter does. One file a session; see :class:`~.writer.Writer`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self._lock = threading.RLock()
        self._threads = DaemonThreads(1, "daytona-kernel-record")
        self._writer: Writer | None = None
        self._step: Step | None = None
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
            with self._guarded():
                self.model_said(Thought(tree.let_go(self)))
                self._writer.close(complete=complete)
            known.discard(*self._secrets)

    # --- a step ------------------------------------------------------------------------------------------

    def begin_step(self, request: Request) -> Step | None:
        """A call of ``execute`` begins."""
        step = None
        with self._lock, self._guarded():
            step = self._step = Step(self, request, tree.claim(self))
        return step

    def end_step(self, step: Step, error: BaseException | None) -> None:
        """It ends."""
        step.stop_timer()
        with self._lock:
            self._write(step, error, over=True)
            self._step = None
            if self._closing is not None:
                self.session_closed(self._closing)

    def begin_ahead(self, step: Step) -> None:
        """Have written what led to a step, and kept what it has so far, while its cell runs."""
        self._threads.submit(self._write_ahead, step)

    def _write_ahead(self, step: Step) -> None:
        with self._lock, self._guarded():
            if self._step is step and self._writer is not None and not self._writer.closed:
                self._write_thought(step)
                step.settle()

    def _write_thought(self, step: Step) -> None:
        if not step.thought_written:
            step.thought_written = True
            self.model_said(step.thought)

    def begin_unfinished(self, step: Step) -> None:
        """Have a step that takes its time written before it ends, in case this process ends before."""
        self._threads.submit(self._write_unfinished, step)

    def _write_unfinished(self, step: Step) -> None:
        with self._lock:
            if self._step is step:
                self._write(step, None, over=False)

    def _write(self, step: Step, error: BaseException | None, *, over: bool) -> None:
        writer = self._writer
        if writer is None or writer.closed:
            return
        with self._guarded():
            writer.callback = writer.callback or tree.listens
            self._write_thought(step)
            entry = step.entry(writer.entries, error, over=over, shut_down=self._shut_down)
            said = step.said_inside() if over else []
            lm_calls = self._lm_calls(said, entry.index, step.inline) if said else []
            writer.put(entry, lm_calls, step.inline, over=over)

    def model_said(self, thought: Thought) -> None:
        """A model answered, between cells."""
        if not thought:
            return
        with self._lock, self._guarded():
            if self._writer is not None and not self._writer.closed:
                inline: dict[str, str] = {}
                self._writer.put_model(self._lm_calls(thought.said, None, inline), thought.reasoning, inline)

    def _lm_calls(self, said: Sequence[Said], entry: int | None, inline: dict[str, str]) -> list[LMCall]:
        calls = []
        for one in sorted(said, key=lambda one: one.began):
            request = self.settle(self.keep(one.request), inline)
            outputs = None if one.outputs is None else self.settle(self.keep(one.outputs), inline)
            calls.append(LMCall(one.call_id, entry, one.began, one.elapsed_s, request, outputs, one.usage, one.error))
        return calls

    # --- values ----------------------------------------------------------------------------------------------

    def keep(self, buffers: Sequence[values.Buffer], key: str = "", *, is_call: bool = False) -> _Kept:
        """Begin to keep a value: a large one is hashed and written on a thread of its own."""
        kept = _Kept(buffers, key, is_call)
        writer = self._writer
        if writer is not None and not writer.closed and size_of(buffers) >= _LARGE_BYTES and not writer.has(key):
            kept.writing = self._threads.submit(self._keep_now, kept)
        return kept

    def settle(self, kept: _Kept, inline: dict[str, str]) -> Ref:
        """Return what names a value, once it is kept; the text of a small one that is new goes into ``inline``."""
        if kept.writing is not None:
            kept.writing.result()
        elif kept.ref is None:
            self._keep_now(kept)
        assert kept.ref is not None
        if kept.text is not None:
            inline[kept.ref.hash] = kept.text
        return kept.ref

    def _keep_now(self, kept: _Kept) -> None:
        assert self._writer is not None
        kept.ref, kept.text = self._writer.keep(kept.buffers, kept.key, is_call=kept.is_call)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception:
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


def _total(said: Sequence[Said]) -> Usage | None:
    """Return what some calls of models took together."""
    told = [one.usage for one in said if one.usage is not None]
    if not told:
        return None

    def sum_of(numbers: list[Any]) -> Any:
        known = [number for number in numbers if number is not None]
        return sum(known) if known else None

    models = sorted({usage.model for usage in told if usage.model is not None})
    return Usage(
        model=", ".join(models) or None,
        prompt_tokens=sum_of([usage.prompt_tokens for usage in told]),
        completion_tokens=sum_of([usage.completion_tokens for usage in told]),
        cost_usd=sum_of([usage.cost_usd for usage in told]),
    )


def _field(field: Field) -> Mapping[str, Any]:
    return {"name": field.name, **({"type": field.type} if field.type else {})}
