"""Format the Markdown cells of a recording: about the session, the model, the tool calls and the result.

Text from a sandbox or a tool stands in code blocks, with a fence that is longer than any run of backticks in the text,
so that it cannot format the page.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..formatting import cut_middle, duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .model import Entry, LMCall, RecordedCall, SessionFacts, Usage

_SHOWN_CALLS = 200  # for one cell; the metadata has all
_SHOWN_CHARS = 4000
_UNANSWERED = "not answered"
_SIGNS = {"llm": "*Model call*", "tool": "*Tool call*"}
_RUN_OF_TICKS = re.compile("`+")
_ENDINGS = {
    "interrupted": "The cell was interrupted; variables kept.",
    "timeout": "The cell reached its time limit and was interrupted; variables kept.",
    "died": "The kernel died.",
    "not_run": "The cell did not run.",
    "unknown": "It is not known how the cell ended.",
}


def block(text: str, language: str = "text") -> str:
    """Return ``text`` as a code block, with the middle of a long text left out."""
    text = cut_middle(text, _SHOWN_CHARS)
    longest = max(map(len, _RUN_OF_TICKS.findall(text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def inline(text: str) -> str:
    """Return ``text`` as inline code."""
    if text and text.isprintable() and "`" not in text:  # the usual case, without a search
        return f"`{text}`"
    text = " ".join(text.split())
    longest = max(map(len, _RUN_OF_TICKS.findall(text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if text.startswith("`") or text.endswith("`") or not text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def usage_of(usage: Usage | None) -> str:
    """Return model, tokens and cost as text; empty if nothing is known."""
    if usage is None:
        return ""
    parts = [] if usage.model is None else [inline(usage.model)]
    if usage.prompt_tokens or usage.completion_tokens:
        parts.append(f"{usage.prompt_tokens or 0:,} + {usage.completion_tokens or 0:,} tokens")
    if usage.cost_usd is not None:
        parts.append(f"${usage.cost_usd:.6f}".rstrip("0").rstrip("."))
    return ", ".join(parts)


def session_summary(facts: SessionFacts) -> str:
    """Return the text of the first cell."""
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    return (
        f"# Session {inline(facts.session_id)}\n\n"
        f"Recording started at {facts.began:%Y-%m-%d %H:%M:%S} UTC; sandbox: {facts.sandbox}. {versions}.\n\n"
        "Each code cell has the code that the model sent, with its outputs. The cell below it lists the calls of tools "
        "and models, and the answer. The metadata of the cells has what a replay needs."
    )


def ending_summary(*, complete: bool, callback: bool, cells: int) -> str:
    """Return the text of the last cell."""
    lines = [f"{cells:,} cells. " + ("The session was shut down." if complete else _STILL_OPEN)]
    if not callback:
        lines.append(_NO_CALLBACK)
    return "\n\n".join(["---", *lines])


_STILL_OPEN = "The session was not shut down: it still runs, or its host process died."
_NO_CALLBACK = (
    "Recorded without DSPy's callback, so the model's reasoning, tokens and cost are missing. "
    "`dspy.RLM(..., interpreter=KernelInterpreter(record=...))` attaches it; otherwise use "
    "`dspy.configure(callbacks=[Recording.callback()])`."
)


def lm_summary(calls: Sequence[LMCall], reasoning: str | None) -> str:
    """Return the model's reasoning before a cell, and the duration, tokens and cost of its calls."""
    parts = []
    if reasoning:
        parts.append("\n".join(f"> {line}".rstrip() for line in reasoning.splitlines()))
    for call in calls:
        facts = [text for text in (usage_of(call.usage), duration(call.elapsed_s, missing=_UNANSWERED)) if text]
        parts.append(f"*Model:* {', '.join(facts)}" + (f" — raised {inline(call.error)}" if call.error else ""))
    return "\n\n".join(parts)


def cell_summary(entry: Entry, submitted: Mapping[str, str] | None, *, is_dspys_own: bool = False) -> str:
    """Return the text below a cell: its calls, its answer and how it ended; may be empty.

    ``submitted`` has the arguments of SUBMIT as text, by field.
    """
    parts = ["*DSPy's own setup; not written by the model.*"] if is_dspys_own else []
    if entry.late:
        parts.append(f"Printed by threads of earlier cells since they ended:\n\n{block(entry.late)}")
    parts += map(_call, entry.calls[:_SHOWN_CALLS])
    if len(entry.calls) > _SHOWN_CALLS:
        parts.append(f"… and {len(entry.calls) - _SHOWN_CALLS:,} more calls, in the metadata.")
    if submitted is not None:
        parts.append("**SUBMIT**")
        parts += [f"{inline(name)}\n\n{block(text)}" for name, text in submitted.items()]
    if entry.outcome.kind == "unfinished":
        parts.append("**The host process ended before this cell did.**")
    elif entry.outcome.ending in _ENDINGS:
        parts.append(f"**{_ENDINGS[entry.outcome.ending]}**")
        if entry.outcome.text:
            parts.append(block(entry.outcome.text.splitlines()[0]))
    return "\n\n".join(parts)


def is_dspys_own(entry: Entry) -> bool:
    """Return whether DSPy runs the cell for its own purposes, such as the setup of its sub-agents."""
    return any(name.startswith("__dspy_") for name in entry.variables)


def _call(call: RecordedCall) -> str:
    took = duration(call.elapsed_s, missing=_UNANSWERED)
    facts = took if call.usage is None else ", ".join(filter(None, (usage_of(call.usage), took)))
    text = f"{_SIGNS[call.kind]} {inline(call.name)}: {facts}\n- arguments: {inline(call.arguments.summary)}"
    if call.error is not None:
        name, _, message = call.error
        return f"{text}\n- raised: {inline(f'{name}: {message}'[:_SHOWN_CHARS])}"
    return text if call.result is None else f"{text}\n- returned: {inline(call.result.summary)}"
