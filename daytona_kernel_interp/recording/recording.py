"""Define ``Recording``, the public class for reading a recorded session."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from ..client.outputs import StreamText
from ..errors import RecordingError
from . import notebook_reader as notebook
from .model import Usage
from .value_store import value_of

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from .model import Entry, LMCall, SessionFacts, Transcript, ValueRef


class Recording:
    """A session that ``KernelInterpreter(record=...)`` recorded: a sequence of steps, the calls of ``execute``.

    Reading a recording runs nothing of it. :meth:`value` loads a value and checks it against its hash.

    ::

        recording = Recording.load("run.ipynb")
        for step in recording:
            print(step.code, step.outcome.kind, [call.name for call in step.calls])
    """

    def __init__(self, transcript: Transcript) -> None:
        self.transcript = transcript

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recording:
        """Return the recording in a notebook, which may still be written.

        :attr:`problems` names the parts that cannot be read.

        Raises:
            RecordingError: If the file cannot be read, is no recording, or has another schema version.
        """
        return cls(notebook.read(path))

    @property
    def facts(self) -> SessionFacts:
        """The facts of the session: its id, versions, options and seeds."""
        return self.transcript.facts

    @property
    def lm_calls(self) -> Sequence[LMCall]:
        """The calls of language models, in the order in which they began; empty without DSPy's callback."""
        return self.transcript.lm_calls

    @property
    def problems(self) -> Sequence[str]:
        """One sentence for each part that could not be read."""
        return self.transcript.problems

    @property
    def complete(self) -> bool:
        """Whether the session was shut down; if not, its host process died or it still runs."""
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
        """Return a new copy of a value that a step, a call or an outcome refers to.

        Raises:
            RecordingError: If it is missing, was changed, or needs a library that is not installed.
        """
        return value_of(self.transcript.store, ref)

    def to_dataframe(self) -> Any:
        """Return a pandas DataFrame with one row for each step.

        Raises:
            RecordingError: If pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise RecordingError("to_dataframe() needs pandas, which is not installed: pip install pandas.") from error
        usages = [step.usage or Usage() for step in self]
        columns = {
            "step": [step.index for step in self],
            "began": [step.began for step in self],
            "elapsed_s": [step.elapsed_s for step in self],
            "kind": [step.outcome.kind for step in self],
            "ending": [step.outcome.ending for step in self],
            "error": [step.outcome.error for step in self],
            "code": [step.code for step in self],
            "printed": [_printed(step) for step in self],
            "tool_calls": [sum(call.kind == "tool" for call in step.calls) for step in self],
            "llm_calls": [sum(call.kind == "llm" for call in step.calls) for step in self],
            "reasoning": [step.reasoning for step in self],
            "model": [usage.model for usage in usages],
            "prompt_tokens": [usage.prompt_tokens for usage in usages],
            "completion_tokens": [usage.completion_tokens for usage in usages],
            "cost_usd": [usage.cost_usd for usage in usages],
        }
        return pandas.DataFrame(columns).set_index("step")

    def lm(self, match: Literal["request", "order"] = "request") -> Any:
        """Return the recorded language model, for one run: a ``dspy.BaseLM`` that returns the recorded answers.

        Together with a :class:`ReplayInterpreter` it runs a whole ``dspy.RLM`` call again, offline and at no cost. A
        request that was not recorded raises :class:`~..errors.ReplayMismatch`, which names the most similar recorded
        request.

        Args:
            match: ``"request"``: prompts must equal the recorded ones. ``"order"``: the main model's answers are
                returned in their recorded order, for any prompt. Use this for prompts that changed, or for another
                version of DSPy, which formats prompts differently.

        Raises:
            RecordingError: If no calls of a language model were recorded, which requires :meth:`callback`.
        """
        from ..playback.recorded_lm import RecordedLM

        return RecordedLM(self, match)

    def to_html(self, path: str | os.PathLike[str] | None = None, *, title: str | None = None) -> str:
        """Return the session as a self-contained HTML page, and write it to ``path`` if one is given.

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
        """Return the DSPy callback that supplies recordings with the model's reasoning, tokens and cost.

        One callback serves all sessions of this process, which it distinguishes by DSPy's call ids. On DSPy 3.3 and
        later, ``dspy.RLM(..., interpreter=KernelInterpreter(record=...))`` attaches it. With ``interpreter_factory=``,
        with other modules or with an older DSPy, add it::

            dspy.configure(callbacks=[Recording.callback()])
        """
        from .dspy_callback import session_callback

        return session_callback()


def _printed(step: Entry) -> str:
    return "".join(output.text for output in step.outputs if isinstance(output, StreamText))
