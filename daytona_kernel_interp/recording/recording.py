"""``Recording``: a recorded session to be looked at in code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from ..errors import RecordingError
from . import notebook_reader as notebook
from .value_store import value_of

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from .model import Entry, LMCall, SessionFacts, Transcript, ValueRef


class Recording:
    """A session that ``KernelInterpreter(record=...)`` wrote. Its steps are the calls of ``execute``, in order.

    Reading one runs nothing of it. Values are loaded when they are asked for (:meth:`value`), and checked against
    their hashes then.

    ::

        recording = Recording.load("run.ipynb")
        for step in recording:
            print(step.code, step.outcome.kind, [call.name for call in step.calls])
    """

    def __init__(self, transcript: Transcript) -> None:
        self.transcript = transcript

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recording:
        """Return the recording in a notebook; one that still grows, too.

        What of it cannot be read is named in :attr:`problems`.

        Raises:
            RecordingError: If the file cannot be read, is no recording, or one of another version.
        """
        return cls(notebook.read(path))

    @property
    def facts(self) -> SessionFacts:
        """What holds for the whole session: its id, versions, options, seeds."""
        return self.transcript.facts

    @property
    def lm_calls(self) -> Sequence[LMCall]:
        """The calls of language models, in the order they began; none without DSPy's callback."""
        return self.transcript.lm_calls

    @property
    def problems(self) -> Sequence[str]:
        """What could not be read, a sentence each."""
        return self.transcript.problems

    @property
    def complete(self) -> bool:
        """Whether the session was shut down; else its host died, or it still runs."""
        return self.transcript.complete

    def __len__(self) -> int:
        return len(self.transcript.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.transcript.entries)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Entry]: ...
    def __getitem__(self, index: int | slice) -> Entry | Sequence[Entry]:
        return self.transcript.entries[index]

    def __repr__(self) -> str:
        state = "" if self.complete else ", not shut down"
        return f"<Recording of session {self.facts.session_id!r}: {len(self)} steps{state}>"

    def value(self, ref: ValueRef) -> Any:
        """Return a fresh copy of a value that a step, a call or an outcome names.

        Raises:
            RecordingError: If it is missing, was changed, or is of a library that is missing here.
        """
        return value_of(self.transcript.store, ref)

    def to_dataframe(self) -> Any:
        """Return the steps as a pandas DataFrame, one a row.

        Raises:
            RecordingError: If pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise RecordingError("to_dataframe() needs pandas, which is not installed: pip install pandas.") from error
        return pandas.DataFrame([_row(step) for step in self], columns=list(_COLUMNS)).set_index("step")

    def lm(self, match: Literal["request", "order"] = "request") -> Any:
        """Return the recorded language model, for one run: a ``dspy.BaseLM`` that gives the recorded answers.

        With a :class:`ReplayInterpreter` a whole ``dspy.RLM`` call runs again offline, at no cost. What nobody asked
        when the recording was made raises :class:`~..errors.ReplayMismatch`, with the nearest recorded request.

        Args:
            match: ``"request"``: prompts must be the recorded ones. ``"order"``: the main model's answers one after the
                other, whatever is asked; for prompts that changed, or another version of DSPy, which words them
                otherwise.

        Raises:
            RecordingError: If no calls of a language model were recorded: that takes :meth:`callback`.
        """
        from ..playback.recorded_lm import RecordedLM

        return RecordedLM(self, match)

    def to_html(self, path: str | os.PathLike[str] | None = None, *, title: str | None = None) -> str:
        """Return the session as a page that needs no server and no network, and write it to ``path`` if one is given.

        Raises:
            ImportError: If the ``report`` extra is not installed.
        """
        from ..page.html import to_html

        page = to_html(self.transcript, title or f"session {self.facts.session_id}")
        if path is not None:
            Path(path).write_text(page, encoding="utf-8", errors="replace")
        return page

    def to_jsonl(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return the session as JSON lines for the visualizer of ``rlm``, and write them to ``path`` if given."""
        from ..export.rlm import to_jsonl

        lines = to_jsonl(self.transcript)
        if path is not None:
            Path(path).write_text(lines, encoding="utf-8", errors="replace")
        return lines

    def _repr_html_(self) -> str:
        from ..page.notebook_view import to_card

        return to_card(self.transcript, f"session {self.facts.session_id}")

    @staticmethod
    def callback() -> Any:
        """Return the DSPy callback that gives recordings the model's reasoning, tokens and cost.

        It is one for all sessions of this process, which it tells apart by DSPy's call ids; sessions that are not
        recorded are none of its business. ``dspy.RLM(..., interpreter=KernelInterpreter(record=...))`` brings it along
        by itself (DSPy 3.3 and later). With ``interpreter_factory=``, other modules or an older DSPy, add it::

            dspy.configure(callbacks=[Recording.callback()])
        """
        from .dspy_callback import session_callback

        return session_callback()


_COLUMNS = (
    "step",
    "began",
    "elapsed_s",
    "kind",
    "ending",
    "error",
    "code",
    "printed",
    "tool_calls",
    "llm_calls",
    "reasoning",
    "model",
    "prompt_tokens",
    "completion_tokens",
    "cost_usd",
)


def _row(step: Entry) -> tuple[object, ...]:
    usage = step.usage
    tokens = (
        (None,) * 4 if usage is None else (usage.model, usage.prompt_tokens, usage.completion_tokens, usage.cost_usd)
    )
    llm_calls = sum(call.kind == "llm" for call in step.calls)
    return (
        step.index,
        step.began,
        step.elapsed_s,
        step.outcome.kind,
        step.outcome.ending,
        step.outcome.error,
        step.code,
        "".join(text for output in step.outputs if (text := getattr(output, "text", None))),
        len(step.calls) - llm_calls,
        llm_calls,
        step.reasoning,
        *tokens,
    )
