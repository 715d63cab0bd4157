"""What a reader of the notebook sees beside code and outputs: Markdown about the session, the model and the calls.

Whatever came from a sandbox, a model or a tool stands in code blocks, whose fence is longer than any in the text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..formatting import cut_middle, duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .model import Entry, LMCall, RecordedCall, SessionFacts, Usage

_SHOWN_CALLS = 200  # of one cell; the metadata has all
_SHOWN_CHARS = 4000
_UNANSWERED = "not answered"
_SIGNS = {"llm": "*Model call*", "tool": "*Tool call*"}
_RUN_OF_TICKS = re.compile("`+")
_ENDINGS = {
    "interrupted": "It was interrupted; variables kept.",
    "timeout": "It was interrupted, because its time was up; variables kept.",
    "died": "Its kernel died.",
    "not_run": "It did not run.",
    "unknown": "What became of it is not known.",
}


def block(text: str, language: str = "text") -> str:
    """Return ``text`` as a code block, cut in the middle if it is long."""
    text = cut_middle(text, _SHOWN_CHARS)
    longest = max(map(len, _RUN_OF_TICKS.findall(text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def inline(text: str) -> str:
    """Return ``text`` as code in a line."""
    if text and text.isprintable() and "`" not in text:  # most are
        return f"`{text}`"
    text = " ".join(text.split())
    longest = max(map(len, _RUN_OF_TICKS.findall(text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if text.startswith("`") or text.endswith("`") or not text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def usage_of(usage: Usage | None) -> str:
    """Return what a model took for a reader; empty if nothing is known."""
    if usage is None:
        return ""
    parts = [] if usage.model is None else [inline(usage.model)]
    if usage.prompt_tokens or usage.completion_tokens:
        parts.append(f"{usage.prompt_tokens or 0:,} + {usage.completion_tokens or 0:,} tokens")
    if usage.cost_usd is not None:
        parts.append(f"${usage.cost_usd:.6f}".rstrip("0").rstrip("."))
    return ", ".join(parts)


def session_summary(facts: SessionFacts) -> str:
    """Return what the notebook begins with."""
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    return (
        f"# Session {inline(facts.session_id)}\n\n"
        f"Recorded from {facts.began:%Y-%m-%d %H:%M:%S} UTC on; kernel: {facts.sandbox}. {versions}.\n\n"
        "Each code cell is what the model sent, with what it showed. Below it stand the calls that it made of tools "
        "and models, and its answer. What only a replay needs is in the cells' metadata."
    )


def ending_summary(*, complete: bool, callback: bool, cells: int) -> str:
    """Return what the notebook ends with."""
    lines = [f"{cells:,} cells. " + ("The session was shut down." if complete else _STILL_OPEN)]
    if not callback:
        lines.append(_NO_CALLBACK)
    return "\n\n".join(["---", *lines])


_STILL_OPEN = "The session was not shut down: it still runs, or its host died."
_NO_CALLBACK = (
    "Recorded without DSPy's callback: the model's reasoning, tokens and cost are not in it. "
    "`dspy.RLM(..., interpreter=KernelInterpreter(record=...))` brings it along; elsewhere "
    "`dspy.configure(callbacks=[Recording.callback()])` does."
)


def lm_summary(calls: Sequence[LMCall], reasoning: str | None) -> str:
    """Return what the model thought before a cell, and what it took to write it."""
    parts = []
    if reasoning:
        parts.append("\n".join(f"> {line}".rstrip() for line in reasoning.splitlines()))
    for call in calls:
        facts = [text for text in (usage_of(call.usage), duration(call.elapsed_s, missing=_UNANSWERED)) if text]
        parts.append(f"*Model:* {', '.join(facts)}" + (f" — raised {inline(call.error)}" if call.error else ""))
    return "\n\n".join(parts)


def cell_summary(entry: Entry, submitted: Mapping[str, str] | None, *, is_dspys_own: bool = False) -> str:
    """Return what stands under a cell: its calls, its answer and how it ended; empty if there is nothing to say.

    ``submitted`` has its answer's fields, for a reader.
    """
    parts = ["*DSPy's own setup; the model did not write it.*"] if is_dspys_own else []
    if entry.late:
        parts.append(f"Printed since by threads of earlier cells:\n\n{block(entry.late)}")
    parts += map(_call, entry.calls[:_SHOWN_CALLS])
    if len(entry.calls) > _SHOWN_CALLS:
        parts.append(f"… and {len(entry.calls) - _SHOWN_CALLS:,} calls more, in the metadata.")
    if submitted is not None:
        parts.append("**SUBMIT**")
        parts += [f"{inline(name)}\n\n{block(text)}" for name, text in submitted.items()]
    if entry.outcome.kind == "unfinished":
        parts.append("**The session's host ended before this cell did.**")
    elif entry.outcome.ending in _ENDINGS:
        parts.append(f"**{_ENDINGS[entry.outcome.ending]}**")
        if entry.outcome.text:
            parts.append(block(entry.outcome.text.splitlines()[0]))
    return "\n\n".join(parts)


def is_dspys_own(entry: Entry) -> bool:
    """Whether a cell is one that DSPy runs for itself, such as the setup of its sub-agents."""
    return any(name.startswith("__dspy_") for name in entry.variables)


def _call(call: RecordedCall) -> str:
    took = duration(call.elapsed_s, missing=_UNANSWERED)
    facts = took if call.usage is None else ", ".join(filter(None, (usage_of(call.usage), took)))
    text = f"{_SIGNS[call.kind]} {inline(call.name)}: {facts}\n- arguments: {inline(call.arguments.summary)}"
    if call.error is not None:
        name, _, message = call.error
        return f"{text}\n- raised: {inline(f'{name}: {message}'[:_SHOWN_CHARS])}"
    return text if call.result is None else f"{text}\n- returned: {inline(call.result.summary)}"
