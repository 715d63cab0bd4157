"""``ReplayInterpreter``: DSPy's CodeInterpreter contract, answered from a recording without a kernel."""

from __future__ import annotations

import contextlib
import functools
import threading
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import RecordingError, ReplayMismatch
from ..interpreter import dspy_errors
from ..interpreter.dspy_compat import REOPENS, CodeExecutionError, CodeInterpreterError, FinalOutput, with_callbacks
from ..interpreter.instructions import ExecutionInstructions
from ..interpreter.options import (
    CallSettings,
    InterpreterOptions,
    check_option,
    check_output_fields,
    check_tools,
    refuse_options,
)
from ..interpreter.request import build_request
from ..recording.notebook_reader import open_run
from ..recording.value_store import value_of
from .matcher import RecordingMatcher

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from typing_extensions import Never

    from ..client.outputs import Output
    from ..recording.model import Entry, Outcome, ValueRef
    from ..recording.notebook_reader import RecordingSource
    from ..sandboxes.base import Sandbox
    from ..tools.binding import Tool

_OPTION_NAMES = ("recording", "tools", "output_fields", *InterpreterOptions.__annotations__)
_SHUT_DOWN = "it was shut down"
_CORRECTABLE = ("error", "interrupted", "timeout")


class ReplayInterpreter:
    """An interpreter that returns recorded results instead of running code.

    For tests of RLM programs: no sandbox, no model (:meth:`Recording.lm` is the recorded one), no cost, and the same
    results every time. No code is run and no tool is called. A call must match the next recorded step in code,
    variables, tools and output fields. If it does not, the session ends with :class:`~..errors.ReplayMismatch`, whose
    text shows the difference from the most similar step.

    Args:
        recording: The notebook's path, or a :class:`Recording`.
        tools: As for :class:`KernelInterpreter`; they are not called.
        output_fields: As for :class:`KernelInterpreter`.
        sandbox: Ignored, like the next four: they make no difference without a kernel. They are accepted so that a
            program can pass both interpreters the same options.
        execution_timeout: Ignored.
        max_output_chars: Ignored; outputs are as they were recorded.
        max_value_bytes: Ignored.
        record: Ignored; nothing is written.
        on_output: Called with each recorded output.
        callbacks: DSPy callbacks for this interpreter.

    Raises:
        RecordingError: If the recording cannot be read.
        TypeError: If an option is unknown or has the wrong type.
        ValueError: If an option has a wrong value.
    """

    execution_instructions = ExecutionInstructions()  # part of the recorded prompts

    def __init__(
        self,
        recording: RecordingSource,
        tools: Mapping[str, Tool] | None = None,
        output_fields: Sequence[Mapping[str, object]] | None = None,
        *,
        sandbox: Sandbox | str | None = None,
        execution_timeout: float | None = None,
        max_output_chars: int | None = None,
        max_value_bytes: int | None = None,
        record: str | os.PathLike[str] | None = None,
        on_output: Callable[[Output], None] | None = None,
        callbacks: Sequence[object] | None = None,
        async_tools: object = "auto",
        **unknown: Never,
    ) -> None:
        if unknown:
            refuse_options(type(self).__name__, unknown, _OPTION_NAMES)
        check_output_fields(output_fields)
        check_option("on_output", on_output)
        check_tools({} if tools is None else tools)
        self.tools: dict[str, Tool] = dict(tools or {})
        self.output_fields = output_fields
        self.on_output = on_output
        self.callbacks = list(callbacks or [])
        self._recording = recording
        self._transcript, self._name = open_run(recording)
        self._matcher = RecordingMatcher(self._transcript, self._name)
        self._outputs: list[Output] = []
        self._lock = threading.Lock()
        self._ended: Exception | str | None = None

    # --- lifecycle ----------------------------------------------------------------------------------

    @with_callbacks
    def start(self) -> None:
        """Check that the interpreter was not shut down. Nothing is started."""
        self._check_open()

    async def astart(self) -> None:
        """Start like :meth:`start`."""
        self.start()

    @with_callbacks
    def shutdown(self) -> None:
        """End the session. On DSPy before 3.3, which uses interpreters again, the recording continues instead."""
        if not REOPENS and self._ended is None:
            self._ended = _SHUT_DOWN

    async def ashutdown(self) -> None:
        """Shut down like :meth:`shutdown`."""
        self.shutdown()

    def __enter__(self) -> ReplayInterpreter:
        """Return the interpreter."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Shut down the interpreter."""
        self.shutdown()

    async def __aenter__(self) -> ReplayInterpreter:
        """Return the interpreter."""
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Shut down the interpreter."""
        self.shutdown()

    def spawn(self) -> ReplayInterpreter:
        """Return a new interpreter at the beginning of the recording."""
        return ReplayInterpreter(
            self._recording,
            dict(self.tools),
            self.output_fields,
            on_output=self.on_output,
            callbacks=self.callbacks,
        )

    # --- cells --------------------------------------------------------------------------------------

    @with_callbacks
    def execute(self, code: str, variables: Mapping[str, object] | None = None) -> Any:
        """Return or raise what the recorded step returned or raised. Nothing is run.

        Raises:
            ReplayMismatch: If the call does not match the next recorded step. From DSPy 3.3 on it is also a
                CodeInterpreterError. The session is over.
            SyntaxError, CodeExecutionError, CodeInterpreterError: As recorded; CodeInterpreterError also for an
                invalid call.
        """
        with self._sole_call():
            self._check_open()
            entry = self._find(code, variables)
            if entry is None:
                return ""
            self._outputs = list(entry.outputs)
            if self.on_output is not None:
                for output in entry.outputs:
                    self.on_output(output)
            return self._conclude(entry.outcome)

    async def aexecute(self, code: str, variables: Mapping[str, object] | None = None) -> Any:
        """Run code like :meth:`execute`, without waiting."""
        return self.execute(code, variables)

    def __call__(self, code: str, variables: Mapping[str, object] | None = None) -> Any:
        """Run code like :meth:`execute`."""
        return self.execute(code, variables)

    def put(self, **variables: object) -> None:
        """Check that the recorded session put the same variables at this step."""
        self.execute("", variables)

    def get(self, name: str) -> NoReturn:
        """Raise an error: a recording has no variables to read.

        Raises:
            CodeInterpreterError: Always.
        """
        raise CodeInterpreterError(f"get({name!r}) is not available offline: there is no kernel that has variables.")

    def interrupt(self) -> None:
        """Do nothing: no cell runs."""

    @property
    def outputs(self) -> list[Output]:
        """The recorded outputs of the last step."""
        return list(self._outputs)

    @property
    def left(self) -> int:
        """The number of recorded steps that no call has matched yet; 0 when the whole recording was replayed."""
        return self._matcher.left

    # --- what one call needs ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def _sole_call(self) -> Iterator[None]:
        if not self._lock.acquire(blocking=False):
            raise CodeInterpreterError(
                "execute() was called while another call runs: one interpreter runs one cell at a time."
            )
        try:
            yield
        finally:
            self._lock.release()

    def _check_open(self) -> None:
        if isinstance(self._ended, Exception):
            raise self._ended
        if self._ended is not None:
            raise CodeInterpreterError(f"This interpreter cannot run code any more: {self._ended}. Create a new one.")

    def _find(self, code: str, variables: Mapping[str, object] | None) -> Entry | None:
        try:
            settings = CallSettings(self.tools, self.output_fields)
            request = build_request(code, variables, settings, self._matcher.inputs)
            return self._matcher.step(request, variables or {})
        except ReplayMismatch as error:
            raise self._finished_error(str(error)) from None

    def _finished_error(self, text: str) -> Exception:
        # DSPy before 3.3 shows every CodeInterpreterError to the model and continues: only another class ends the run.
        self._ended = ReplayMismatch(text) if REOPENS else dspy_errors.ReplayMismatch(text)
        return self._ended

    def _conclude(self, outcome: Outcome) -> Any:
        match outcome.kind:
            case "submitted":
                return FinalOutput(self._value(outcome.value))
            case "returned":
                return self._value(outcome.value)
            case "unfinished":
                raise self._finished_error(f"{self._name} ends within this step: the host ended before the cell did")
        if outcome.error == "SyntaxError":
            raise SyntaxError(outcome.text)
        # DSPy before 3.3 has no class for errors that the model can correct; the ending of the cell distinguishes them.
        if outcome.error == "CodeExecutionError" or outcome.ending in _CORRECTABLE:
            raise CodeExecutionError(outcome.text)
        raise CodeInterpreterError(outcome.text)

    def _value(self, ref: ValueRef | None) -> Any:
        if ref is None:
            return None
        try:
            return value_of(self._transcript.store, ref)
        except RecordingError as error:
            raise self._finished_error(str(error)) from error

    # --- copies ------------------------------------------------------------------------------------------

    def __deepcopy__(self, memo: dict[int, object]) -> ReplayInterpreter:
        """Return a new interpreter, as :meth:`spawn` does: two objects never share a position in a recording."""
        return self.spawn()

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle or copy the configuration; to be pickled, tools must be picklable."""
        create = functools.partial(ReplayInterpreter, on_output=self.on_output, callbacks=self.callbacks)
        return create, (self._recording, dict(self.tools), self.output_fields)
