"""One call of ``execute`` in the making: what becomes an entry of a recording."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from ..codec import values
from ..wire.comm import ToolFailure
from .call_tree import CompletedLMCall, Reasoning, enclosing_calls
from .model import Entry, Outcome, RecordedCall, Usage, ValueRef
from .step_ending import ending_of, outcome_of
from .value_store import INLINE_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Future
    from contextvars import Context

    from ..client.execution import ExecutionResult
    from ..client.output_collector import OutputCollector
    from ..interpreter.request import CellRequest
    from ..wire.comm import OutputField
    from .recorder import Recorder

_LLM_TOOLS = ("llm_query", "llm_query_batched")


@dataclass
class CallRecord:
    """A tool call under way, or ended."""

    owner: Recorder
    id: int
    name: str
    began_s: float
    arguments: StoredValue
    op: str = ""  # of its reply
    reply_value: StoredValue | None = None
    elapsed_s: float | None = None
    lm_calls: list[CompletedLMCall] = field(default_factory=list)


@dataclass
class StoredValue:
    """A value that is kept, or being kept on a thread.

    A large one is begun at once: its buffers may be the caller's own memory, which a tool may change.
    """

    buffers: Sequence[values.Buffer]
    key: str = ""  # its hash, if that is known
    is_call: bool = False  # the arguments of one
    ref: ValueRef | None = None
    writing: Future[dict[str, str]] | None = None  # gives its text, if it turned out to be small

    @property
    def is_large(self) -> bool:
        """Whether it gets a file of its own."""
        return len(self.buffers) > 1 or (len(self.buffers) == 1 and len(self.buffers[0]) > INLINE_BYTES)


@dataclass
class LMResponse:
    """A call of a model that has ended, with what is kept of it."""

    call: CompletedLMCall
    request: StoredValue
    outputs: StoredValue | None


class StepRecorder:
    """One call of ``execute`` in the making."""

    def __init__(self, owner: Recorder, request: CellRequest, reasoning: Reasoning) -> None:
        self._owner, self._request = owner, request
        self.reasoning, self.lm_responses = (
            reasoning,
            owner.store_lm_calls(reasoning.lm_calls) if reasoning.lm_calls else [],
        )
        self.reasoning_written = False
        self.began, self._clock = datetime.now(timezone.utc), time.perf_counter()
        self.result_value: Any = None
        self._cell: OutputCollector | None = None
        self._result: ExecutionResult | None = None
        self._calls: list[CallRecord] = []
        self.sent_at: float | None = None  # on the I/O loop's clock
        self.slow = False
        self.variables = {name: owner.store_value(one.buffers, one.key) for name, one in request.variables.items()}
        self.inline_values: dict[str, str] = {}  # the small values that are new with it

    def __enter__(self) -> StepRecorder:
        """The call goes on."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """It is over."""
        self._owner.end_step(self, error)

    # --- hooks, on the I/O loop ------------------------------------------------------------------------

    @property
    def observer(self) -> StepRecorder:
        """Who is told of the calls of tools."""
        return self

    def request_sent(self, cell: OutputCollector) -> None:
        """Its request goes out."""
        self._cell = cell
        if self.sent_at is None:
            self.sent_at = asyncio.get_running_loop().time()
            self._owner.check_slow_later()

    def call_started(self, call_id: int, name: str, buffers: Sequence[values.Buffer], context: Context) -> CallRecord:
        """The cell calls a tool, which will run in ``context``."""
        arguments = self._owner.store_value(buffers, is_call=True)
        call = CallRecord(self._owner, call_id, name, time.perf_counter() - self._clock, arguments)
        self._calls.append(call)
        context.run(enclosing_calls.set, (*context.get(enclosing_calls, ()), call))
        return call

    def call_ended(self, call: CallRecord, op: str, buffers: Sequence[values.Buffer]) -> None:
        """The tool has answered."""
        call.elapsed_s = time.perf_counter() - self._clock - call.began_s
        call.op, call.reply_value = op, self._owner.store_value(buffers)

    # --- hooks, in the caller's thread -------------------------------------------------------------------

    def cell_ended(self, result: ExecutionResult) -> None:
        """The cell is over, and its kernel lives."""
        self._result = result

    def set_result(self, value: Any) -> Any:
        """Take what the caller gets, and return it."""
        self.result_value = value
        return value

    # --- as an entry -------------------------------------------------------------------------------------

    def entry(self, index: int, error: BaseException | None, *, over: bool, shut_down: bool) -> Entry:
        """Return it as an entry; the small values that are new with it are in :attr:`inline_values`."""
        cell, result, request = self._cell, self._result, self._request
        settle, inline = self._owner.wait_stored, self.inline_values
        outcome = Outcome("unfinished", "unknown")
        if over:
            ending = ending_of(cell, result, error, shut_down=shut_down)
            outcome = outcome_of(self.result_value, error, cell, ending, self._store_value)
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
            late="" if result is None else result.background_output,
            reasoning=self.reasoning.reasoning,
            usage=_total(self.reasoning.lm_calls) if self.reasoning.lm_calls else None,
        )

    def lm_calls_in_tools(self) -> list[CompletedLMCall]:
        """Return the calls of language models that the cell's tools made."""
        return [call for note in self._calls for call in note.lm_calls]

    def _store_value(self, buffers: Sequence[values.Buffer]) -> ValueRef:
        return self._owner.wait_stored(StoredValue(buffers), self.inline_values)

    def _call(self, call: CallRecord) -> RecordedCall:
        settle, inline = self._owner.wait_stored, self.inline_values
        error, result = None, None
        if call.op == "error" and call.reply_value is not None:
            failure = ToolFailure.from_value(values.loads(call.reply_value.buffers))
            error = (failure.type, failure.bases, failure.message)
        elif call.reply_value is not None:
            result = settle(call.reply_value, inline)
        return RecordedCall(
            id=call.id,
            name=call.name,
            kind="llm" if call.name in _LLM_TOOLS else "tool",
            began_s=call.began_s,
            elapsed_s=call.elapsed_s,
            arguments=settle(call.arguments, inline),
            result=result,
            error=error,
            usage=_total(call.lm_calls) if call.lm_calls else None,
        )


def _total(lm_calls: Sequence[CompletedLMCall]) -> Usage | None:
    """Return what some calls of models took together."""
    usages = [call.usage for call in lm_calls if call.usage is not None]
    if not usages:
        return None

    def sum_of(numbers: list[Any]) -> Any:
        known = [number for number in numbers if number is not None]
        return sum(known) if known else None

    models = sorted({usage.model for usage in usages if usage.model is not None})
    return Usage(
        model=", ".join(models) or None,
        prompt_tokens=sum_of([usage.prompt_tokens for usage in usages]),
        completion_tokens=sum_of([usage.completion_tokens for usage in usages]),
        cost_usd=sum_of([usage.cost_usd for usage in usages]),
    )


def _id_of(call: CallRecord) -> int:
    return call.id


def _field(field: OutputField) -> Mapping[str, Any]:
    return {"name": field.name, **({"type": field.type} if field.type else {})}
