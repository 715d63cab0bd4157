"""One call of ``execute`` in the making: what becomes an entry of a recording."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from ..codec import values
from ..wire.comm import ToolFailure
from .call_tree import Said, Thought, calls_around
from .model import Call, Entry, Outcome, Ref, Usage
from .step_ending import ending_of, outcome_of
from .value_store import INLINE_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Future
    from contextvars import Context

    from ..client.execution import CellResult
    from ..client.output_collector import Cell
    from ..interpreter.request import Request
    from ..wire.comm import Field
    from .recorder import Recorder

_LLM_TOOLS = ("llm_query", "llm_query_batched")


@dataclass
class CallNote:
    """A tool call under way, or ended."""

    owner: Recorder
    id: int
    name: str
    began_s: float
    arguments: Kept
    op: str = ""  # of its reply
    answer: Kept | None = None
    elapsed_s: float | None = None
    said: list[Said] = field(default_factory=list)


@dataclass
class Kept:
    """A value that is kept, or being kept on a thread.

    A large one is begun at once: its buffers may be the caller's own memory, which a tool may change.
    """

    buffers: Sequence[values.Buffer]
    key: str = ""  # its hash, if that is known
    is_call: bool = False  # the arguments of one
    ref: Ref | None = None
    writing: Future[dict[str, str]] | None = None  # gives its text, if it turned out to be small

    @property
    def is_large(self) -> bool:
        """Whether it gets a file of its own."""
        return len(self.buffers) > 1 or (len(self.buffers) == 1 and len(self.buffers[0]) > INLINE_BYTES)


@dataclass
class Heard:
    """A call of a model that has ended, with what is kept of it."""

    said: Said
    request: Kept
    outputs: Kept | None


class Step:
    """One call of ``execute`` in the making."""

    def __init__(self, owner: Recorder, request: Request, thought: Thought) -> None:
        self._owner, self._request = owner, request
        self.thought, self.heard = thought, owner.hear(thought.said) if thought.said else []
        self.thought_written = False
        self.began, self._clock = datetime.now(timezone.utc), time.perf_counter()
        self.given: Any = None
        self._cell: Cell | None = None
        self._result: CellResult | None = None
        self._calls: list[CallNote] = []
        self.sent_at: float | None = None  # on the I/O loop's clock
        self.slow = False
        self.variables = {name: owner.keep(one.buffers, one.key) for name, one in request.variables.items()}
        self.inline: dict[str, str] = {}  # the small values that are new with it

    def __enter__(self) -> Step:
        """The call goes on."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """It is over."""
        self._owner.end_step(self, error)

    # --- hooks, on the I/O loop ------------------------------------------------------------------------

    @property
    def observer(self) -> Step:
        """Who is told of the calls of tools."""
        return self

    def sent(self, cell: Cell) -> None:
        """Its request goes out."""
        self._cell = cell
        if self.sent_at is None:
            self.sent_at = asyncio.get_running_loop().time()
            self._owner.watch()

    def called(self, call_id: int, name: str, buffers: Sequence[values.Buffer], context: Context) -> CallNote:
        """The cell calls a tool, which will run in ``context``."""
        arguments = self._owner.keep(buffers, is_call=True)
        note = CallNote(self._owner, call_id, name, time.perf_counter() - self._clock, arguments)
        self._calls.append(note)
        context.run(calls_around.set, (*context.get(calls_around, ()), note))
        return note

    def answered(self, note: CallNote, op: str, buffers: Sequence[values.Buffer]) -> None:
        """The tool has answered."""
        note.elapsed_s = time.perf_counter() - self._clock - note.began_s
        note.op, note.answer = op, self._owner.keep(buffers)

    # --- hooks, in the caller's thread -------------------------------------------------------------------

    def ended(self, result: CellResult) -> None:
        """The cell is over, and its kernel lives."""
        self._result = result

    def gave(self, value: Any) -> Any:
        """Take what the caller gets, and return it."""
        self.given = value
        return value

    # --- as an entry -------------------------------------------------------------------------------------

    def entry(self, index: int, error: BaseException | None, *, over: bool, shut_down: bool) -> Entry:
        """Return it as an entry; the small values that are new with it are in :attr:`inline`."""
        cell, result, request = self._cell, self._result, self._request
        settle, inline = self._owner.settle, self.inline
        outcome = Outcome("unfinished", "unknown")
        if over:
            ending = ending_of(cell, result, error, shut_down=shut_down)
            outcome = outcome_of(self.given, error, cell, ending, self._keep)
        calls = sorted(self._calls, key=_id_of) if over else ()
        return Entry(
            index=index,
            id="" if cell is None else cell.msg_id,
            code=request.code,
            began=self.began,
            outcome=outcome,
            variables={name: settle(one, inline) for name, one in self.variables.items()},
            tools=request.tools,
            output_fields=None if request.fields is None else tuple(map(_field, request.fields)),
            outputs=() if cell is None or not over else tuple(cell.outputs),
            calls=tuple(map(self._call, calls)),
            elapsed_s=time.perf_counter() - self._clock if over else None,
            late="" if result is None else result.late,
            reasoning=self.thought.reasoning,
            usage=_total(self.thought.said) if self.thought.said else None,
        )

    def said_inside(self) -> list[Said]:
        """Return the calls of language models that the cell's tools made."""
        return [said for note in self._calls for said in note.said]

    def _keep(self, buffers: Sequence[values.Buffer]) -> Ref:
        return self._owner.settle(Kept(buffers), self.inline)

    def _call(self, note: CallNote) -> Call:
        settle, inline = self._owner.settle, self.inline
        error, result = None, None
        if note.op == "error" and note.answer is not None:
            failure = ToolFailure.from_value(values.loads(note.answer.buffers))
            error = (failure.type, failure.bases, failure.message)
        elif note.answer is not None:
            result = settle(note.answer, inline)
        return Call(
            id=note.id,
            name=note.name,
            kind="llm" if note.name in _LLM_TOOLS else "tool",
            began_s=note.began_s,
            elapsed_s=note.elapsed_s,
            arguments=settle(note.arguments, inline),
            result=result,
            error=error,
            usage=_total(note.said) if note.said else None,
        )


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


def _id_of(note: CallNote) -> int:
    return note.id


def _field(field: Field) -> Mapping[str, Any]:
    return {"name": field.name, **({"type": field.type} if field.type else {})}
