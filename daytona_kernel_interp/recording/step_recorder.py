"""Record one call of ``execute``, from its start to the entry that the notebook gets.

The interpreter calls the hooks of a :class:`StepRecorder`: on the I/O loop while the cell runs, on the caller's thread
before and after. Protocols declare what it needs of the interpreter's request, so that this package does not import the
interpreter.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

from ..codec import values
from ..errors import CellNotRun, KernelDied
from ..wire.comm import ToolFailure
from .call_tree import CompletedLMCall, EnclosingCall, Reasoning, enclosing_calls
from .model import LLM_TOOLS, Entry, Outcome, RecordedCall, ValueRef, total_usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextvars import Context

    from ..client.execution import ExecutionResult
    from ..client.output_collector import OutputCollector
    from ..wire.comm import OutputField, ToolSpec
    from .model import Ending

T = TypeVar("T")


# --- what is recorded ----------------------------------------------------------------------------------------


class RecordableInput(Protocol):
    """A variable on its way to the kernel."""

    @property
    def key(self) -> str:
        """The hash of its encoding; empty for a small value."""

    @property
    def buffers(self) -> Sequence[values.Buffer]:
        """Its encoding; empty if the kernel has the value from an earlier cell."""


class RecordableRequest(Protocol):
    """A cell that is about to be sent."""

    @property
    def code(self) -> str:
        """Its source."""

    @property
    def variables(self) -> Mapping[str, RecordableInput]:
        """The variables that are bound before it."""

    @property
    def tools(self) -> tuple[ToolSpec, ...]:
        """The tools that it can call."""

    @property
    def fields(self) -> tuple[OutputField, ...] | None:
        """The parameters of SUBMIT; None for one value without a name."""


# --- parts of a step -----------------------------------------------------------------------------------------


PendingRef: TypeAlias = "Callable[[], ValueRef]"  # waits until a value is stored, and returns the reference to it


@dataclass
class CallRecord(EnclosingCall):
    """A tool call that runs or has ended."""

    id: int
    name: str
    began_s: float
    arguments: PendingRef
    result: PendingRef | None = None
    error: tuple[str, tuple[str, ...], str] | None = None
    elapsed_s: float | None = None


class StepOwner(Protocol):
    """The recorder of the session that a step belongs to."""

    def store_value(self, buffers: Sequence[values.Buffer], key: str = "", *, is_call: bool = False) -> PendingRef:
        """Begin to store a value."""

    def check_slow_later(self, step: StepRecorder) -> None:
        """Write the step before it ends if it is slow."""

    def end_step(self, step: StepRecorder, error: BaseException | None) -> None:
        """Write the step, which has ended."""


class StepRecorder:
    """The record of one call of ``execute`` while it runs; a context manager around the call."""

    def __init__(self, owner: StepOwner, request: RecordableRequest, reasoning: Reasoning) -> None:
        self._owner, self._request = owner, request
        self.reasoning = reasoning
        self.reasoning_written = False
        self.began, self._clock = datetime.now(timezone.utc), time.perf_counter()
        self.result_value: object = None
        self._cell: OutputCollector | None = None
        self._result: ExecutionResult | None = None
        self._calls: list[CallRecord] = []
        self._variables: dict[str, PendingRef] = {}
        self.store_variables()

    def __enter__(self) -> StepRecorder:
        """Return the step."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Write the step."""
        self._owner.end_step(self, error)

    def store_variables(self) -> None:
        """Begin to store the variables; again if the session has begun since the first time."""
        given = self._request.variables
        self._variables = {name: self._owner.store_value(one.buffers, one.key) for name, one in given.items()}

    # --- hooks, on the I/O loop ------------------------------------------------------------------------

    @property
    def observer(self) -> StepRecorder:
        """The observer of the cell's tool calls."""
        return self

    def request_sent(self, cell: OutputCollector) -> None:
        """Note the cell whose request was sent. A repeated request replaces it."""
        if self._cell is None:
            self._owner.check_slow_later(self)
        self._cell = cell

    def call_started(self, call_id: int, name: str, buffers: Sequence[values.Buffer], context: Context) -> CallRecord:
        """Note a tool call, which will run in ``context``."""
        arguments = self._owner.store_value(buffers, is_call=True)
        call = CallRecord(self._owner, call_id, name, time.perf_counter() - self._clock, arguments)
        self._calls.append(call)
        context.run(enclosing_calls.set, (*context.get(enclosing_calls, ()), call))
        return call

    def call_ended(self, call: CallRecord, op: str, buffers: Sequence[values.Buffer]) -> None:
        """Note the reply to a tool call."""
        call.elapsed_s = time.perf_counter() - self._clock - call.began_s
        if op == "error":
            failure = ToolFailure.from_value(values.loads(buffers))
            call.error = (failure.type, failure.bases, failure.message)
        else:
            call.result = self._owner.store_value(buffers)

    # --- hooks, in the caller's thread -------------------------------------------------------------------

    def cell_ended(self, result: ExecutionResult) -> None:
        """Note that the cell ended and its kernel is alive."""
        self._result = result

    def set_result(self, value: T) -> T:
        """Note the return value of ``execute``, and return it."""
        self.result_value = value
        return value

    # --- as an entry -------------------------------------------------------------------------------------

    def entry(self, index: int, error: BaseException | None, *, over: bool, shut_down: bool) -> Entry:
        """Return the entry.

        Args:
            index: The number of the entry.
            error: What ``execute`` raised.
            over: Whether ``execute`` has ended; else the entry is unfinished.
            shut_down: Whether the session was shut down while the cell ran.
        """
        cell, request = self._cell, self._request
        calls = sorted(self._calls, key=lambda call: call.id) if over else ()
        return Entry(
            index=index,
            id="" if cell is None else cell.msg_id,
            code=request.code,
            began=self.began,
            outcome=self._outcome(error, shut_down=shut_down) if over else Outcome("unfinished", "unknown"),
            variables={name: stored() for name, stored in self._variables.items()},
            tools=request.tools,
            output_fields=None if request.fields is None else tuple(map(_field_to_json, request.fields)),
            outputs=tuple(cell.outputs) if cell is not None and over else (),
            calls=tuple(map(_recorded_call, calls)),
            elapsed_s=time.perf_counter() - self._clock if over else None,
            late="" if self._result is None else self._result.background_output,
            reasoning=self.reasoning.reasoning,
            usage=total_usage(call.usage for call in self.reasoning.lm_calls),
        )

    def lm_calls_in_tools(self) -> list[CompletedLMCall]:
        """Return the calls of language models that the cell's tools made."""
        return [lm_call for call in self._calls for lm_call in call.lm_calls]

    def _outcome(self, error: BaseException | None, *, shut_down: bool) -> Outcome:
        """Return how the call ended for its caller."""
        ending = self._ending(error, shut_down=shut_down)
        if error is not None:
            return Outcome("raised", ending, error=error_name(error), text=str(error))
        if self._cell is not None and self._cell.submission is not None:
            return Outcome("submitted", ending, self._owner.store_value(self._cell.submission)())
        try:
            buffers = values.dumps(self.result_value, max_bytes=None)
        except values.UnsupportedValue:
            buffers = values.dumps(str(self.result_value), max_bytes=None)
        return Outcome("returned", ending, self._owner.store_value(buffers)())

    def _ending(self, error: BaseException | None, *, shut_down: bool) -> Ending:
        """Return how the cell itself ended, which ``error``, what the caller got, does not always say."""
        result = self._result
        if result is not None:
            if result.cell.submission is None and result.timed_out:
                return "timeout"
            if result.cell.submission is None and result.interrupted and (result.cell.error or not result.cell.replied):
                return "interrupted"
            return "ok" if error is None else "error"
        cause = None if error is None else error.__cause__
        if self._cell is None or isinstance(cause, CellNotRun):
            return "not_run"
        if isinstance(cause, KernelDied) or shut_down:
            return "died"
        return "unknown" if isinstance(error, Exception) else "interrupted"  # a cancelled call's cell is interrupted


def _recorded_call(call: CallRecord) -> RecordedCall:
    return RecordedCall(
        id=call.id,
        name=call.name,
        kind="llm" if call.name in LLM_TOOLS else "tool",
        began_s=call.began_s,
        elapsed_s=call.elapsed_s,
        arguments=call.arguments(),
        result=None if call.result is None else call.result(),
        error=call.error,
        usage=total_usage(lm_call.usage for lm_call in call.lm_calls),
    )


def _field_to_json(field: OutputField) -> Mapping[str, str]:
    return {"name": field.name, **({"type": field.type} if field.type else {})}


def error_name(error: BaseException) -> str:
    """Return the class name of an error in a recording: DSPy's class where the error derives from one."""
    classes = type(error).__mro__
    return next((cls.__name__ for cls in classes if cls.__module__.startswith("dspy.")), classes[0].__name__)
