"""Run recorded steps again in a real kernel, with tool calls answered from the tape."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NoReturn

from ..codec import values
from ..errors import KernelDied, ReplayMismatch, SandboxGone, TunnelLost
from ..interpreter.dspy_compat import CodeInterpreterError, FinalOutput
from ..interpreter.interpreter import KernelInterpreter
from ..recording.model import LLM_TOOLS, Entry, Outcome, RecordedCall
from ..recording.step_recorder import error_name
from ..tools.binding import ToolAborted, ToolReply, ToolRunner, weak_method
from ..wire.comm import ToolFailure
from .tape import Tape, signature_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..codec.values import Buffer
    from ..recording.model import ValueLoader
    from ..recording.value_store import MemoryStore
    from ..tools.binding import Invoke, Tool
    from ..wire.comm import ToolSpec

_MIN_LIMIT_S = 0.1  # time limit of a step that was stopped
_LOST = (KernelDied, SandboxGone, TunnelLost)


class TapeServer:
    """Answers the tool calls of a replay from the tape, and keeps the calls of each step."""

    def __init__(self, tape: Tape, recorded: ValueLoader, store: MemoryStore, live_tools: Mapping[str, Tool]) -> None:
        self.tape, self.live = tape, dict(live_tools)
        self.active = True  # else the live tools run, without the tape
        self._store, self._given_values = recorded, store
        self.step = 0
        self.calls: list[RecordedCall] = []  # of the current step
        self.unanswered: list[tuple[int, str]] = []  # step and error text
        self.live_answers: list[tuple[int, RecordedCall, RecordedCall]] = []  # step, recorded call, live call

    def find_answer(self, name: str, buffers: Sequence[Buffer]) -> tuple[RecordedCall | None, ToolReply | None]:
        """Return the recorded call, and its reply unless there was none or the tool is live.

        A call of a recorded tool that is not on the tape is noted, and its reply is an error.
        """
        try:
            call = self.tape.take(self.step, name, buffers)
        except ReplayMismatch as miss:
            if name in self.live:
                return None, None
            self.unanswered.append((self.step, str(miss)))
            return None, _error("ReplayMismatch", ("RuntimeError",), str(miss))
        if call.error is not None:
            return call, _error(*call.error)
        if call.result is None or name in self.live:
            return call, None
        return call, ToolReply("result", list(self._store.load(call.result)))

    def note(
        self, name: str, buffers: Sequence[Buffer], reply: ToolReply | None, recorded: RecordedCall | None
    ) -> None:
        """Add a call and its reply to the step; for a live tool also keep the recorded call, to compare the two."""
        result, error = None, None
        if reply is not None and reply.op == "result":
            result = self._given_values.keep(reply.buffers)
        elif reply is not None:
            failure = ToolFailure.from_value(values.loads(reply.buffers))
            error = (failure.type, tuple(failure.bases), failure.message)
        kind = recorded.kind if recorded is not None else "llm" if name in LLM_TOOLS else "tool"
        call = RecordedCall(len(self.calls), name, kind, 0.0, 0.0, self._given_values.keep(buffers), result, error)
        self.calls.append(call)
        if name in self.live and recorded is not None:
            self.live_answers.append((self.step, recorded, call))


def _error(name: str, bases: tuple[str, ...], message: str) -> ToolReply:
    return ToolReply("error", values.dumps(ToolFailure(name, bases, message).to_value()))


class _TapeRunner(ToolRunner):
    """Answers the calls of recorded tools through the tape server, and runs the calls of live tools."""

    def __init__(self, invoke: Invoke, max_value_bytes: int | None, server: TapeServer) -> None:
        super().__init__(invoke, max_value_bytes)
        self._server = server
        self._over = asyncio.Event()

    def begin_cell(self, *args: Any) -> None:
        super().begin_cell(*args)
        self._over = asyncio.Event()

    def end_cell(self) -> None:
        super().end_cell()
        self._over.set()

    async def run(self, name: str, buffers: Sequence[Buffer], call_id: int = 0, *, arrow: bool = False) -> ToolReply:
        server = self._server
        if not server.active:
            return await super().run(name, buffers, call_id, arrow=arrow)
        try:
            recorded, reply = server.find_answer(name, buffers)
        except Exception as error:  # such as a missing value: without a reply the cell would wait forever
            raise ToolAborted(error) from error
        if name in server.live:
            reply = await super().run(name, buffers, call_id, arrow=arrow)
        server.note(name, buffers, reply, recorded)
        if reply is None:  # not answered in the recording: wait until the cell ends
            await self._over.wait()
            raise asyncio.CancelledError
        return reply


class RerunInterpreter(KernelInterpreter):
    """The interpreter of a replay. After :meth:`use_live_tools` it is an ordinary KernelInterpreter."""

    tape_server: TapeServer  # set before the start

    def use_live_tools(self) -> None:
        """Stop using the tape: from now on cells may call the live tools, and no other."""
        self.tools.clear()
        self.tools.update(self.tape_server.live)
        self.output_fields = None
        self.tape_server.active = False

    def run_step(
        self,
        entry: Entry,
        variables: dict[str, object],
        store: MemoryStore,
        timeout_s: float | None,
        new_tools: Mapping[str, Tool],
    ) -> Entry:
        """Run a recorded step, which may also call ``new_tools``, and return the entry of this run."""
        self.tape_server.step, self.tape_server.calls = entry.index, []
        self.tools.clear()
        self.tools.update({spec.name: self.tape_server.live.get(spec.name) or stub_tool(spec) for spec in entry.tools})
        self.tools.update(new_tools)
        self.output_fields = None if entry.output_fields is None else [dict(field) for field in entry.output_fields]
        self.execution_timeout = timeout_s
        self._access.last_result, self._access.outputs = None, []
        began = datetime.now(timezone.utc)
        outcome = self._outcome(lambda: self.execute(entry.code, variables), store)
        result = self._access.last_result
        return replace(
            entry,
            began=began,
            elapsed_s=(datetime.now(timezone.utc) - began).total_seconds(),
            outputs=self.outputs,
            calls=list(self.tape_server.calls),
            outcome=outcome,
            late=result.background_output if result is not None else "",
        )

    def _outcome(self, run: Callable[[], Any], store: MemoryStore) -> Outcome:
        try:
            value = run()
        except SyntaxError as error:
            return Outcome("raised", "error", error="SyntaxError", text=str(error))
        except CodeInterpreterError as error:
            ending: Any = "error"
            result = self._access.last_result
            if isinstance(error.__cause__, _LOST):
                ending = "died" if isinstance(error.__cause__, KernelDied) else "unknown"
            elif result is None:
                ending = "not_run"
            elif result.timed_out:
                ending = "timeout"
            elif result.interrupted:
                ending = "interrupted"
            return Outcome("raised", ending, error=error_name(error), text=str(error))
        if isinstance(value, FinalOutput):
            return Outcome("submitted", "ok", value=store.keep(values.dumps(value.output, max_bytes=None)))
        return Outcome("returned", "ok", value=store.keep(values.dumps(value, max_bytes=None)))

    def start(self) -> None:
        """Start the session, and answer its tool calls from the tape."""
        super().start()
        session = self._access.session
        if session is not None and not isinstance(session.tools, _TapeRunner):
            session.tools.close()
            session.tools = _TapeRunner(weak_method(self.invoke_tool), self.max_value_bytes, self.tape_server)


def stub_tool(spec: ToolSpec) -> Tool:
    """Return a function with the name, docstring and signature of a recorded tool, which refuses calls."""

    def tool(*args: object, **kwargs: object) -> NoReturn:
        raise ReplayMismatch(f"the tool {spec.name!r} exists only in the recording: pass it in live_tools")

    tool.__name__, tool.__doc__ = spec.name, spec.doc
    # 0 makes inspect report that the function has no signature, as it did for the recorded tool.
    tool.__signature__ = signature_of(spec) or 0  # type: ignore[attr-defined]
    return tool


def session_time_limit(options: Mapping[str, object]) -> float | None:
    """Return the time limit in seconds that a recorded session began with."""
    limit = options.get("execution_timeout")
    return float(limit) if isinstance(limit, (int, float)) and not isinstance(limit, bool) and limit > 0 else None


def time_limit(entry: Entry, options: Mapping[str, object]) -> float | None:
    """Return the time limit in seconds for running a step again.

    A step that was interrupted is stopped after as long as it ran. So is one that timed out, unless the session's limit
    explains that: the limit can change between steps, and a recording has only the first.
    """
    limit_s, ran_s = session_time_limit(options), entry.elapsed_s
    if ran_s is None or entry.outcome.ending not in ("interrupted", "timeout"):
        return limit_s
    if entry.outcome.ending == "timeout" and limit_s is not None and limit_s <= ran_s:
        return limit_s
    return max(_MIN_LIMIT_S, ran_s)
