"""Render a recorded session for a notebook: a list of steps to open, without scripts and without the extra.

Notebooks insert the HTML into their own page, so everything recorded is escaped and shown as text.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from ..client.output_text import display_text, plain_text
from ..client.outputs import CellError, StreamText
from ..formatting import cut_middle, duration, one_line
from . import timeline
from .shown_values import as_text, dollars, load, step_title

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..recording.model import Entry, Transcript

_MAX_STEPS = 50  # of a longer session, the first and the last
_MAX_CHARS = 2_000  # of a step's code, and of its outputs
_COLOURS = {"submitted": "#21834d", "raised": "#c8352c", "unfinished": "#c8352c"}
_PRE = "margin:4px 0 6px;padding:6px 10px;border-left:3px solid #8886;background:#8881;white-space:pre-wrap"


def to_card(transcript: Transcript, title: str) -> str:
    """Return the session as HTML for the output of a notebook."""
    sums = timeline.totals(transcript)
    parts = [
        _count(sums.steps, "step"),
        duration(sums.elapsed_s),
        _count(sums.tool_calls, "tool call"),
        _count(sums.llm_calls, "LLM call"),
    ]
    if sums.failed:
        parts.insert(1, f"{sums.failed} failed")
    if tokens := (sums.usage.prompt_tokens or 0) + (sums.usage.completion_tokens or 0):
        parts.append(f"{tokens:,} tokens")
    if sums.usage.cost_usd is not None:
        parts.append(dollars(sums.usage.cost_usd))
    return "".join(
        [
            '<div style="max-width:860px;line-height:1.5">',
            f"<strong>{escape(title)}</strong> <span style='opacity:.7'>{escape(' · '.join(parts))}</span>",
            *(f"<div style='color:#a86b00'>{escape(problem)}</div>" for problem in transcript.problems),
            *_steps(transcript),
            "</div>",
        ]
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _steps(transcript: Transcript) -> Iterator[str]:
    entries = transcript.entries
    half = _MAX_STEPS // 2
    if len(entries) <= _MAX_STEPS:
        yield from (_step(entry, transcript) for entry in entries)
        return
    yield from (_step(entry, transcript) for entry in entries[:half])
    yield f"<div style='opacity:.7;padding-left:14px'>… {len(entries) - 2 * half} more steps …</div>"
    yield from (_step(entry, transcript) for entry in entries[-half:])


def _step(entry: Entry, transcript: Transcript) -> str:
    colour = _COLOURS.get(entry.outcome.kind, "inherit")
    calls = f" · {_count(len(entry.calls), 'call')}" if entry.calls else ""
    return (
        f"<details><summary><b style='color:{colour}'>{entry.index}</b> {escape(one_line(step_title(entry), 100))} "
        f"<span style='opacity:.6'>{duration(entry.elapsed_s)}{calls}</span></summary>"
        f"<pre style='{_PRE}'>{escape(cut_middle(entry.code, _MAX_CHARS))}</pre>"
        f"<pre style='{_PRE}'>{escape(cut_middle(_shown(entry, transcript), _MAX_CHARS))}</pre></details>"
    )


def _shown(entry: Entry, transcript: Transcript) -> str:
    """Return the outputs and the outcome of a step as text."""
    parts = []
    for output in entry.outputs:
        if isinstance(output, StreamText):
            parts.append(plain_text(output.text).rstrip("\n"))
        elif isinstance(output, CellError):
            parts.append(output.summary)
        else:
            parts.append(display_text(output.data))
    if entry.outcome.kind == "submitted" and entry.outcome.value is not None:
        parts.append(f"SUBMIT {as_text(load(entry.outcome.value, transcript.store))}")
    elif timeline.failed(entry) and not any(isinstance(output, CellError) for output in entry.outputs):
        parts.append(plain_text(entry.outcome.text) or entry.outcome.ending)
    return "\n".join(parts)
