"""The record of one call of ``execute``: the entry that it becomes, for each way in which a call can end."""

from __future__ import annotations

import contextvars
import functools
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest

from daytona_kernel_interp.client.execution import ExecutionResult
from daytona_kernel_interp.client.output_collector import OutputCollector
from daytona_kernel_interp.client.outputs import CellError, StreamText
from daytona_kernel_interp.codec import values
from daytona_kernel_interp.errors import CellNotRun, KernelDied
from daytona_kernel_interp.recording.call_tree import CompletedLMCall, Reasoning, enclosing_calls
from daytona_kernel_interp.recording.model import Usage
from daytona_kernel_interp.recording.step_recorder import PendingRef, StepRecorder
from daytona_kernel_interp.recording.value_store import MemoryStore, value_of
from daytona_kernel_interp.wire.comm import OutputField, ToolFailure, ToolSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Owner:
    """A recorder that keeps values in memory, and the steps that ended."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.ended: list[tuple[StepRecorder, BaseException | None]] = []
        self.checks = 0

    def store_value(self, buffers: Sequence[values.Buffer], key: str = "", *, is_call: bool = False) -> PendingRef:
        return functools.partial(self.store.keep, buffers)

    def check_slow_later(self, step: StepRecorder) -> None:
        self.checks += 1

    def end_step(self, step: StepRecorder, error: BaseException | None) -> None:
        self.ended.append((step, error))


@dataclass
class Input:
    """A variable."""

    buffers: list[values.Buffer]
    key: str = ""


@dataclass
class Request:
    """A request with one variable, one tool and one output field."""

    code: str = "code"
    variables: Mapping[str, Input] = field(default_factory=lambda: {"n": Input(values.dumps(5))})
    tools: tuple[ToolSpec, ...] = (ToolSpec("look"),)
    fields: tuple[OutputField, ...] | None = (OutputField("answer", "str"), OutputField("score", ""))


def cell(
    *, replied: bool = True, submission: Sequence[Any] | None = None, error: CellError | None = None
) -> OutputCollector:
    """Return a cell that printed a line."""
    made = OutputCollector("id")
    made.replied, made.submission = replied, submission
    for output in (StreamText("stdout", "1\n"), error):
        if output is not None:
            made.add(output)
    return made


def result(of: OutputCollector, interrupted: str | None = None, *, timed_out: bool = False) -> ExecutionResult:
    """Return the end of a cell, after which a thread printed."""
    return ExecutionResult(of, "late", interrupted, timed_out)


def caused(cause: Exception) -> Exception:
    """Return an error with a cause."""
    error = RuntimeError("wrapped")
    error.__cause__ = cause
    return error


def test_a_step_becomes_an_entry() -> None:
    """Inputs, outputs, calls and result are in the entry, and the owner is notified of the end."""
    owner, usage = Owner(), Usage("m", 3, None, 0.5)
    asked = CompletedLMCall("c", datetime.now(timezone.utc), 0.1, values.dumps("hi"), None, usage, "")
    with StepRecorder(owner, Request(), Reasoning([asked, asked], "because")) as step:
        sent = cell()
        step.request_sent(sent)
        step.request_sent(sent)
        context = contextvars.copy_context()
        second = step.observer.call_started(2, "look", values.dumps(([], {})), context)
        first = step.observer.call_started(1, "llm_query", values.dumps((["hi"], {})), context)
        assert context[enclosing_calls] == (second, first)
        first.lm_calls.append(asked)
        failure = ToolFailure("KeyError", ("LookupError",), "'a'")
        step.observer.call_ended(second, "error", values.dumps(failure.to_value()))
        step.observer.call_ended(first, "result", values.dumps("ho"))
        step.cell_ended(result(sent))
        assert step.set_result("1\n") == "1\n"
    assert owner.ended == [(step, None)]
    assert owner.checks == 1
    entry = step.entry(4, None, over=True, shut_down=False)
    assert (entry.index, entry.id, entry.code, entry.late) == (4, "id", "code", "late")
    assert value_of(owner.store, entry.variables["n"]) == 5
    assert entry.output_fields == ({"name": "answer", "type": "str"}, {"name": "score"})
    assert (entry.outputs, entry.tools) == ((StreamText("stdout", "1\n"),), (ToolSpec("look"),))
    assert (entry.reasoning, entry.usage) == ("because", Usage("m", 6, None, 1.0))
    assert [(call.id, call.kind, call.error) for call in entry.calls] == [
        (1, "llm", None),
        (2, "tool", ("KeyError", ("LookupError",), "'a'")),
    ]
    assert entry.calls[0].result is not None
    assert value_of(owner.store, entry.calls[0].result) == "ho"
    assert (entry.calls[0].usage, step.lm_calls_in_tools()) == (usage, [asked])
    assert entry.outcome.value is not None
    assert (entry.outcome.kind, value_of(owner.store, entry.outcome.value)) == ("returned", "1\n")
    assert entry.elapsed_s is not None


def test_an_unfinished_step_has_only_its_inputs() -> None:
    """A step that is written while it runs has no outputs, no calls and no duration."""
    step = StepRecorder(Owner(), Request(), Reasoning())
    step.call_started(1, "look", values.dumps(([], {})), contextvars.copy_context())
    entry = step.entry(0, None, over=False, shut_down=False)
    assert (entry.outcome.kind, entry.outcome.ending, entry.elapsed_s) == ("unfinished", "unknown", None)
    assert (entry.outputs, entry.calls) == ((), ())


@pytest.mark.parametrize(
    ("ended", "error", "ending"),
    [
        (result(cell()), None, "ok"),
        (result(cell()), ValueError(), "error"),
        (result(cell(), "interrupt", timed_out=True), ValueError(), "timeout"),
        (result(cell(error=CellError("KeyboardInterrupt", "", "")), "interrupt"), ValueError(), "interrupted"),
        (result(cell(replied=False), "interrupt"), ValueError(), "interrupted"),
        (result(cell(), "interrupt"), None, "ok"),
        (result(cell(submission=values.dumps({})), timed_out=True), None, "ok"),
        (None, caused(CellNotRun("")), "not_run"),
        (None, caused(KernelDied("")), "died"),
        (None, ValueError(), "unknown"),
        (None, KeyboardInterrupt(), "interrupted"),
    ],
)
def test_how_a_cell_ended(ended: ExecutionResult | None, error: BaseException | None, ending: str) -> None:
    """The ending is that of the cell, which the caller's error does not always say."""
    step = StepRecorder(Owner(), Request(), Reasoning())
    step.request_sent(cell())
    if ended is not None:
        step.request_sent(ended.cell)
        step.cell_ended(ended)
    assert step.entry(0, error, over=True, shut_down=False).outcome.ending == ending


def test_a_cell_that_a_shutdown_ends_died() -> None:
    """A cell whose session is shut down dies with its kernel; one that was not sent did not run."""
    step = StepRecorder(Owner(), Request(), Reasoning())
    assert step.entry(0, ValueError(), over=True, shut_down=True).outcome.ending == "not_run"
    step.request_sent(cell())
    assert step.entry(0, ValueError(), over=True, shut_down=True).outcome.ending == "died"


@pytest.mark.parametrize(
    ("given", "kind", "recorded"),
    [("text", "returned", "text"), (object, "returned", "<class 'object'>")],
)
def test_the_return_value_is_stored(given: Any, kind: str, recorded: object) -> None:
    """A value that the codec cannot encode is stored as its text."""
    owner = Owner()
    step = StepRecorder(owner, Request(), Reasoning())
    step.set_result(given)
    outcome = step.entry(0, None, over=True, shut_down=False).outcome
    assert outcome.value is not None
    assert (outcome.kind, value_of(owner.store, outcome.value)) == (kind, recorded)


def test_the_error_is_recorded_with_its_text() -> None:
    """The entry has the class and the message of what ``execute`` raised."""
    outcome = StepRecorder(Owner(), Request(), Reasoning()).entry(0, KeyError("a"), over=True, shut_down=False).outcome
    assert (outcome.kind, outcome.error, outcome.text) == ("raised", "KeyError", "'a'")
