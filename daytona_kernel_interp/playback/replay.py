"""``replay``: run a recorded session again in a fresh kernel, and report every divergence.

The ending of a recorded step decides how it is replayed:

- It completed, raised or submitted: it is run and compared.
- It timed out: it is run with the same limit. It was interrupted: it is stopped after as long as it ran. Both must be
  stopped again; how far they came is not compared.
- Its kernel died: it is skipped, unless ``run_died`` is set. A fresh kernel runs the steps after it.
- It did not run, its ending is unknown, or its host ended first: it is skipped.

The recorded seeds are set again. Python's hash seed is not, because it belongs to the process that kernels are forked
from. A set of texts can therefore have another order; the divergence names this cause.
"""

from __future__ import annotations

import os
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..recording.model import Entry, Transcript
from ..recording.notebook_reader import open_run, read_plain_notebook, without_traceback
from ..recording.value_store import MemoryStore, value_of
from ..sandboxes.select import select_sandbox
from .compare import EXACT, Comparison, Difference, Tolerance
from .nondeterminism import NondeterminismTracker
from .rerun import RerunInterpreter, TapeServer, session_time_limit, time_limit
from .tape import Tape, call_text, diff_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ..interpreter.interpreter import KernelInterpreter
    from ..recording.model import ValueRef
    from ..recording.notebook_reader import RecordingSource
    from ..sandboxes.base import Sandbox
    from ..tools.binding import Tool

_NOT_RUN = {
    "not_run": "it did not run in the recording",
    "unknown": "it is not known whether it ran",
}
# A cause explains a difference if the difference disappears when only this cause is tolerated.
_KNOWN_CAUSES = {
    "memory address": replace(EXACT, addresses=True),
    "time": replace(EXACT, times=True),
    "temporary files": replace(EXACT, paths=True),
    "ids": replace(EXACT, ids=True),
    "rounding of floats": replace(EXACT, floats=1e-9),
}


@dataclass(frozen=True)
class Divergence:
    """One difference between a step of a replay and the recorded step.

    Attributes:
        step: Number of the step, from 0.
        what: ``output``, ``outcome`` or ``calls``.
        expected: The recorded text.
        came: The text of the replay.
        cause: The likely cause: ``nondeterministic: random``, ``follows from step 2``, ``edited: step 3``, ``live
            tool``. ``""``: unknown.
    """

    step: int
    what: str
    expected: str
    came: str
    cause: str = ""

    def __str__(self) -> str:
        cause = f" ({self.cause})" if self.cause else ""
        if "\n" in self.expected.rstrip("\n") or "\n" in self.came.rstrip("\n"):
            differs = diff_text(self.expected, self.came, "expected", "came").replace("recorded (expected)", "expected")
            return f"step {self.step}, {self.what}{cause}:\n{textwrap.indent(differs, '    ')}"
        texts = [text.rstrip("\n") or "(nothing)" for text in (self.expected, self.came)]
        return f"step {self.step}, {self.what}{cause}:\n    expected: {texts[0]}\n    came:     {texts[1]}"


@dataclass(frozen=True)
class SkippedStep:
    """A step that was not run, and the reason."""

    step: int
    why: str


@dataclass(frozen=True, repr=False)  # the generated repr would contain whole cells
class ReplayReport:
    """The result of a replay. As a context manager it shuts the interpreter down at the end.

    Attributes:
        name: Name of the recording.
        steps: Number of steps that were run.
        divergences: The divergences, ordered by step.
        skipped: The steps that were not run.
        problems: Parts of the recording that could not be read, a sentence each.
        transcript: The replayed session, for :func:`diff`.
        interpreter: The live session, if ``until`` or ``keep`` requested it. The caller shuts it down.
    """

    name: str
    steps: int
    divergences: list[Divergence]
    skipped: list[SkippedStep]
    problems: list[str]
    transcript: Transcript
    interpreter: KernelInterpreter | None = None

    @property
    def ok(self) -> bool:
        """Whether the replay has no divergences."""
        return not self.divergences

    def __enter__(self) -> ReplayReport:
        """Return the report."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Shut down the interpreter."""
        if self.interpreter is not None:
            self.interpreter.shutdown()

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        count = len(self.divergences)
        head = f"{self.name}: {self.steps} steps replayed, {count or 'no'} divergence{'s' * (count != 1)}"
        lines = [f"{head}{f', {len(self.skipped)} steps not run' if self.skipped else ''}"]
        lines += [f"note: {problem}" for problem in self.problems]
        lines += [f"step {skipped.step} was not run: {skipped.why}" for skipped in self.skipped]
        lines += map(str, self.divergences)
        return "\n".join(lines)


def replay(
    recording: RecordingSource,
    *,
    sandbox: Sandbox | str | None = None,
    until: int | None = None,
    edits: Mapping[int, str] | None = None,
    live_tools: Mapping[str, Tool] | None = None,
    tolerance: Tolerance | bool | None = None,
    run_died: bool = False,
    keep: bool = False,
    plain: bool = False,
) -> ReplayReport:
    """Run a recorded session again in a fresh kernel, with its tool calls answered from the recording, and compare.

    The recorded code runs in the given sandbox only. A ``"local"`` sandbox has no isolation: do not replay the
    recording of a stranger in it. No language model is called.

    Args:
        recording: The notebook's path, or a :class:`Recording`.
        sandbox: As for :class:`KernelInterpreter`.
        until: Stop before this step (from 0) and return the live session as :attr:`ReplayReport.interpreter`.
        edits: Replacement code for steps. The divergences from the first edit on are marked as edited.
        live_tools: Names and functions of tools that are called instead of being answered from the recording. A tool
            that the recording does not have is offered from the first edit on, and to the session that is returned.
        tolerance: Differences that do not count. None or False: all count; True: the defaults of :class:`Tolerance`.
        run_died: Also run the steps whose kernel died.
        keep: Return the live session at the end.
        plain: The notebook is not a recording: run its code cells, and compare with the outputs in it.

    Raises:
        RecordingError: If the recording cannot be read, or a value that the replay needs is missing.
        SandboxFailed: If no sandbox is selected.
        CodeInterpreterError: If the kernel cannot be started.
        TypeError: If ``plain`` is set and ``recording`` is not a path.
        ValueError: If ``until`` or ``edits`` names a step that does not exist, or ``live_tools`` a tool that nothing
            can call.
    """
    if not plain:
        transcript, name = open_run(recording)
    elif isinstance(recording, (str, os.PathLike)):
        transcript, name = read_plain_notebook(recording), Path(recording).name
    else:
        raise TypeError(f"plain=True takes the path of a notebook, not {type(recording).__name__}")
    changed = _checked(transcript, name, until, edits)
    if not changed and not keep and until is None:
        _check_live(transcript, name, live_tools or {})
    if tolerance is None or isinstance(tolerance, bool):
        tolerance = Tolerance() if tolerance else EXACT
    run = _Replay(transcript, name, select_sandbox(sandbox), changed, live_tools or {}, tolerance, plain=plain)
    return run.through(until, run_died=run_died, keep=keep or until is not None)


def _checked(transcript: Transcript, name: str, until: int | None, edits: Mapping[int, str] | None) -> dict[int, str]:
    count = len(transcript.entries)
    if until is not None and not (isinstance(until, int) and 0 <= until <= count):
        raise ValueError(f"{name} has {count} steps: until must be from 0 to {count}, not {until!r}")
    for step, code in (edits or {}).items():
        if not isinstance(step, int) or not 0 <= step < count:
            raise ValueError(f"{name} has no step {step!r} to edit: its steps are 0 to {count - 1}")
        if not isinstance(code, str):
            raise ValueError(f"the new code of step {step} must be a str, not {type(code).__name__}")
    return dict(edits or {})


def _check_live(transcript: Transcript, name: str, live_tools: Mapping[str, Tool]) -> None:
    recorded = _recorded_tools(transcript)
    for tool in live_tools:
        if tool not in recorded:
            there = f"its tools are {', '.join(sorted(recorded))}" if recorded else "it has no tools"
            raise ValueError(f"{name} has no tool {tool!r} to call live: {there}")


def _recorded_tools(transcript: Transcript) -> set[str]:
    return {spec.name for entry in transcript.entries for spec in entry.tools}


class _Replay:
    """The state of one replay."""

    def __init__(
        self,
        transcript: Transcript,
        name: str,
        sandbox: Sandbox,
        edits: dict[int, str],
        live_tools: Mapping[str, Tool],
        tolerance: Tolerance,
        *,
        plain: bool,
    ) -> None:
        self._transcript, self._name, self._sandbox, self._edits = transcript, name, sandbox, edits
        self._plain = plain  # a notebook that is not a recording: only outputs are known
        self._value_store = MemoryStore()
        tape = Tape(transcript.entries, transcript.store)
        self._tape_server = TapeServer(tape, transcript.store, self._value_store, live_tools)
        recorded = _recorded_tools(transcript)
        self._new_tools = {name: tool for name, tool in live_tools.items() if name not in recorded}
        self._comparison = Comparison(transcript.store, self._value_store, tolerance)
        self._nondeterminism = NondeterminismTracker()
        self._nondeterministic: dict[int, str] = {}  # by step: why it may differ from run to run
        self._divergences: list[Divergence] = []
        self._skipped: list[SkippedStep] = []
        self._actual_entries: list[Entry] = []
        self._values: dict[str, tuple[ValueRef, object]] = {}  # by variable: the last reference and its value
        self._interpreter: RerunInterpreter | None = None
        self._kernel_lost: str | None = None  # why no further step can run

    def through(self, until: int | None, *, run_died: bool, keep: bool) -> ReplayReport:
        entries = self._transcript.entries[:until]
        try:
            for entry in entries:
                if why := self._skip_reason(entry, run_died):
                    self._skipped.append(SkippedStep(entry.index, why))
                    # The steps after this one ran in a fresh kernel, so they get one here, too.
                    if entry.outcome.ending == "died":
                        self._close()
                elif self._step(entry):
                    self._close()
            self._add_call_divergences(entries[-1].index if entries else -1)
            if keep and self._kernel_lost is None:
                self._interpreter = self._interpreter or self._create_interpreter()
                self._interpreter.start()
                self._interpreter.use_live_tools()
                self._interpreter.execution_timeout = session_time_limit(self._transcript.facts.options)
            else:
                self._close()
        except BaseException:  # also Ctrl-C: the sandbox would outlive the replay
            self._close()
            raise
        return ReplayReport(
            self._name,
            len(self._actual_entries),
            self._divergences,
            self._skipped,
            list(self._transcript.problems),
            Transcript(self._transcript.facts, self._actual_entries, self._value_store),
            self._interpreter,
        )

    def _close(self) -> None:
        if self._interpreter is not None:
            self._interpreter.shutdown()
            self._interpreter = None

    def _create_interpreter(self) -> RerunInterpreter:
        interpreter = RerunInterpreter(sandbox=self._sandbox)
        interpreter.tape_server = self._tape_server
        for name in ("max_output_chars", "max_value_bytes"):
            limit = self._transcript.facts.options.get(name, 0)
            if limit is None or (type(limit) is int and limit > 0):  # a file can contain any value
                setattr(interpreter, name, limit)
        interpreter.seed = self._transcript.facts.seeds.get("random")  # numpy has the same seed
        return interpreter

    def _skip_reason(self, entry: Entry, run_died: bool) -> str:
        if self._kernel_lost is not None:
            return self._kernel_lost
        if self._plain:
            return ""
        if entry.outcome.ending == "died" and not run_died:
            return "its kernel died; run_died=True runs it"
        if entry.outcome.kind == "unfinished":
            return "the host ended first"
        return _NOT_RUN.get(entry.outcome.ending, "")

    def _step(self, entry: Entry) -> bool:
        """Run a step and compare it. Return whether its kernel died, as in the recording."""
        self._interpreter = self._interpreter or self._create_interpreter()
        code = self._edits.get(entry.index, entry.code)
        again = replace(entry, code=code)
        limit = time_limit(entry, self._transcript.facts.options)
        new = self._new_tools if self._edited(entry.index) else {}
        came = self._interpreter.run_step(again, self._variables(entry), self._value_store, limit, new)
        self._actual_entries.append(came)
        self._nondeterministic[entry.index] = self._nondeterminism.analyze(entry.index, code)
        if self._plain:
            came = replace(came, outputs=[without_traceback(output) for output in came.outputs])
            found = list(self._comparison.outputs(entry.outputs, came.outputs))
        else:
            found = list(self._comparison.results(entry, came))
        if found:
            cause = self._cause(entry, came)
            self._divergences += [Divergence(entry.index, one.what, one.expected, one.came, cause) for one in found]
            self._nondeterminism.mark_differing(entry.index)
        if came.outcome.ending in ("died", "unknown"):
            if entry.outcome.ending == "died":
                return True
            self._kernel_lost = f"the replay's kernel was lost in step {entry.index}"
        return False

    def _variables(self, entry: Entry) -> dict[str, object]:
        for name, ref in entry.variables.items():
            if name not in self._values or self._values[name][0] != ref:
                self._values[name] = ref, value_of(self._transcript.store, ref)
        return {name: self._values[name][1] for name in entry.variables}

    def _cause(self, entry: Entry, came: Entry) -> str:
        # The most certain cause first. An edit explains what follows from it, but not what would have differed anyway.
        edited, followed = self._edited(entry.index), self._nondeterminism.differing_steps
        missed = any(step == entry.index for step, _ in self._tape_server.unanswered)
        if edited and (entry.index in self._edits or followed or missed):
            return edited
        if missed:
            return "a call is not on the tape"
        if any(step == entry.index for step, _ in self._live_differences()):
            return "live tool"
        if followed:
            return f"follows from step {', '.join(map(str, followed))}"
        source = self._nondeterministic[entry.index]
        for known, tolerance in _KNOWN_CAUSES.items():
            comparison = Comparison(self._transcript.store, self._value_store, tolerance)
            source = source or ("" if list(comparison.results(entry, came)) else known)
        return _nondeterministic_cause(source) or edited

    def _edited(self, step: int) -> str:
        before = [edited for edited in sorted(self._edits) if edited <= step]
        return f"edited: step {before[-1]}" if before else ""

    def _add_call_divergences(self, last: int) -> None:
        """Add the calls that are not on the tape, were not made, or were answered differently by a live tool."""
        store = self._transcript.store
        for step, text in self._tape_server.unanswered:
            cause = self._edited(step) or _nondeterministic_cause(self._nondeterministic.get(step, ""))
            self._divergences.append(Divergence(step, "calls", "(not called)", text, cause))
        ran = {entry.index for entry in self._actual_entries}
        for step in range(last + 1):
            for call in self._tape_server.tape.left(step) if step in ran else ():
                text, cause = call_text(call.name, store.load(call.arguments)), self._edited(step)
                self._divergences.append(Divergence(step, "calls", text, "(not called)", cause))
        for step, differs in self._live_differences():
            self._divergences.append(Divergence(step, "calls", differs.expected, differs.came, "live tool"))
        self._divergences.sort(key=lambda found: found.step)

    def _live_differences(self) -> Iterator[tuple[int, Difference]]:
        for step, recorded, live in self._tape_server.live_answers:
            for difference in self._comparison.answers(recorded, live):
                yield step, difference


def _nondeterministic_cause(source: str) -> str:
    return f"nondeterministic: {source}" if source else ""
