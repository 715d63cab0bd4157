"""Render a recorded session as one HTML page that needs no server and no network.

Everything recorded is escaped or comes from :mod:`.html_parts`. The Content-Security-Policy of the page allows its own
script, by its hash, and forbids loading anything. Template, style and script are in ``assets/``.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import TYPE_CHECKING, Any

from ..client.output_text import plain_text
from ..formatting import duration, one_line
from . import timeline
from .shown_values import LAID_OUT_BYTES, arguments, as_text, dollars, load, step_title, text_of

try:
    import jinja2
    from markupsafe import Markup, escape

    from . import html_parts as parts
except ImportError as error:
    raise ImportError("The page needs the extra `report`: pip install 'daytona-kernel-interp[report]'.") from error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ..recording.model import Entry, RecordedCall, SessionFacts, Transcript, Usage

BUDGET_CHARS = 1_200_000  # of printed texts and values in the page; the longest are cut until all fit
MIN_CUT_CHARS, MAX_CUT_CHARS = 400, 20_000
COLOURED_CHARS = 400_000  # of highlighted code: each token is an element, and too many slow the browser
_OPEN_STEPS = 12  # the steps of a session are shown open up to this number

_ENDINGS = {
    "interrupted": "interrupted",
    "timeout": "timed out",
    "died": "kernel died",
    "not_run": "did not run",
    "unknown": "outcome unknown",
}


def to_html(transcript: Transcript, title: str) -> str:
    """Return the page as HTML."""
    script, style = _asset("page.js"), _asset("page.css")
    template = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(_asset("page.html.j2"))
    limit = fair_cut(_lengths(transcript))
    longest_s = max((timeline.cell_length_s(entry) for entry in transcript.entries), default=0.0)
    spans = timeline.cell_spans(transcript)
    steps = [
        _step(transcript, entry, spans[entry.index], limit, longest_s, code)
        for entry, code in zip(transcript.entries, _codes(transcript), strict=True)
    ]
    sums, facts = timeline.totals(transcript), transcript.facts
    return template.render(
        title=title,
        policy=_policy(script),
        script=Markup(script),
        style=Markup(style),
        facts=_tables(facts),
        subtitle=f"{facts.began:%d %B %Y, %H:%M} UTC · {facts.sandbox} · session {facts.session_id}",
        tiles=_tiles(sums),
        notes=_notes(transcript),
        answer=next((step for step in reversed(steps) if step["state"] == "submitted"), None),
        chart=timeline.chart(timeline.session_spans(transcript), sums.elapsed_s),
        steps=steps,
    )


def _policy(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "frame-src 'none'; base-uri 'none'; form-action 'none'"
    )


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


# --- limits ---------------------------------------------------------------------------------------------


def _lengths(transcript: Transcript) -> Iterable[int]:
    for entry in transcript.entries:
        for output in entry.outputs:
            yield len(getattr(output, "text", "")) or len(getattr(output, "traceback", ""))
        for call in entry.calls:
            yield from (ref.size for ref in (call.arguments, call.result) if ref is not None)
        if entry.outcome.value is not None:
            yield 2 * entry.outcome.value.size


def fair_cut(lengths: Iterable[int], budget: int = BUDGET_CHARS) -> int:
    """Return the length at which to cut texts so that all fit into ``budget``."""
    waiting = sorted(lengths)
    for number, length in enumerate(waiting):
        share = budget // (len(waiting) - number)
        if length > share:
            return max(MIN_CUT_CHARS, min(share, MAX_CUT_CHARS))
        budget -= length
    return MAX_CUT_CHARS


def _codes(transcript: Transcript) -> Iterator[Markup]:
    """Yield the code of each step; it is highlighted until the limit is reached."""
    left = COLOURED_CHARS
    for entry in transcript.entries:
        left -= len(entry.code)
        yield parts.code(entry.code) if left >= 0 else escape(entry.code)


# --- a step -------------------------------------------------------------------------------------------


def _step(
    transcript: Transcript, entry: Entry, spans: Sequence[timeline.Span], limit: int, longest_s: float, code: Markup
) -> dict[str, Any]:
    """Return the texts and parts of a step in the template."""
    state, label = _state(entry)
    value, length_s = entry.outcome.value, timeline.cell_length_s(entry)
    return {
        "anchor": f"s{entry.index}",
        "number": entry.index,
        "state": state,  # ok, submitted, failed
        "label": label,
        "gist": step_title(entry),
        "took": duration(entry.elapsed_s),
        "began": duration(timeline.seconds_between(transcript.facts.began, entry.began)),
        "share": f"{length_s / longest_s:.1%}" if longest_s else "0%",  # of the longest step
        "usage": _usage(entry.usage),
        "reasoning": parts.markdown(entry.reasoning) if entry.reasoning else None,
        "code": code,
        "calls": [_call(call, entry, transcript, limit) for call in entry.calls],
        "chart": timeline.chart(spans, length_s, bar_px=18) if len(spans) > 1 else None,
        "outputs": [parts.output_html(one, limit) for one in entry.outputs],
        "submitted": _submitted(entry, transcript, limit) if state == "submitted" else [],
        "error": parts.cut(plain_text(entry.outcome.text), limit) if state == "failed" else "",
        "returned": parts.cut(text_of(value, transcript.store), limit) if state == "ok" and value is not None else "",
        "late": parts.cut(plain_text(entry.late), limit),
        "variables": [(name, ref.summary) for name, ref in entry.variables.items()],
        "tools": [tool.name for tool in entry.tools if not tool.name.startswith("__dspy_")],  # DSPy's own
        "fields": [
            ": ".join(str(one[key]) for key in ("name", "type") if key in one) for one in entry.output_fields or ()
        ],
        "opened": len(transcript.entries) <= _OPEN_STEPS and not timeline.is_setup(entry),
    }


def _state(entry: Entry) -> tuple[str, str]:
    outcome = entry.outcome
    if outcome.kind == "submitted":
        return "submitted", "SUBMIT"
    if outcome.kind == "returned":
        return "ok", "ok"
    if outcome.kind == "unfinished":
        return "failed", "unfinished"
    named = _ENDINGS.get(outcome.ending) or one_line(outcome.text.partition(":")[0], 40)
    return "failed", named or outcome.error


def _submitted(entry: Entry, transcript: Transcript, limit: int) -> list[tuple[str, str]]:
    if entry.outcome.value is None:
        return []
    value = load(entry.outcome.value, transcript.store)
    if not isinstance(value, dict):
        return [("", entry.outcome.value.summary)]
    laid_out = entry.outcome.value.size <= LAID_OUT_BYTES
    return [(str(name), parts.cut(as_text(one, laid_out=laid_out), limit)) for name, one in value.items()]


def _call(call: RecordedCall, entry: Entry, transcript: Transcript, limit: int) -> dict[str, Any]:
    """Return the texts of a tool call or sub-call in the template."""
    given = arguments(call, transcript.store)
    result = None if call.result is None else parts.cut(text_of(call.result, transcript.store), limit)
    error = "" if call.error is None else f"{call.error[0]}: {call.error[2]}"
    return {
        "anchor": f"s{entry.index}-{call.id}",
        "kind": call.kind,
        "name": call.name,
        "gist": one_line(", ".join(f"{name}={text}" if name else text for name, text in given), 100),
        "took": duration(call.elapsed_s) if call.elapsed_s is not None else "not answered",
        "began": duration(call.began_s),
        "arguments": [(name, parts.cut(text, limit)) for name, text in given],
        "result": result,
        "error": parts.cut(error, limit),
        "usage": _usage(call.usage),
    }


# --- head and foot of the page ------------------------------------------------------------------------


def _usage(usage: Usage | None) -> str:
    """Return model, tokens and cost, as far as they are known."""
    if usage is None:
        return ""
    tokens = [
        f"{count:,} {way}" for count, way in ((usage.prompt_tokens, "in"), (usage.completion_tokens, "out")) if count
    ]
    parts = [usage.model or "", " / ".join(tokens), "" if usage.cost_usd is None else dollars(usage.cost_usd)]
    return " · ".join(filter(None, parts))


def _tiles(sums: timeline.Totals) -> list[tuple[str, str, str]]:
    """Return the totals of the session: label, number, remark."""
    tiles = [
        ("steps", f"{sums.steps:,}", f"{sums.failed} failed" if sums.failed else "none failed"),
        ("time", duration(sums.elapsed_s), f"{duration(sums.in_cells_s)} in cells"),
        ("tool calls", f"{sums.tool_calls:,}", _at_once(sums.tools_at_once)),
        ("LLM calls", f"{sums.llm_calls:,}", _at_once(sums.llms_at_once)),
    ]
    into, out, cost_usd = sums.usage.prompt_tokens or 0, sums.usage.completion_tokens or 0, sums.usage.cost_usd
    if into or out:
        tiles.append(("tokens", f"{into + out:,}", f"{into:,} in, {out:,} out"))
    if cost_usd is not None:
        tiles.append(("cost", dollars(cost_usd), "as reported by DSPy"))
    return tiles


def _at_once(count: int) -> str:
    return f"up to {count} at once" if count > 1 else ""


def _notes(transcript: Transcript) -> list[str]:
    notes = list(transcript.problems)
    if not transcript.complete:
        notes.append(
            "The session was not shut down: the host died, or the session was running when this page was written."
        )
    if not transcript.callback and any(entry.reasoning is None for entry in transcript.entries):
        notes.append("Recorded without DSPy's callback: the model's reasoning, tokens and cost are unknown.")
    return notes


def _tables(facts: SessionFacts) -> list[tuple[str, list[tuple[str, str]]]]:
    tables = (("Versions", facts.versions), ("Options", facts.options), ("Random seeds", facts.seeds))
    return [(name, [(str(key), str(one)) for key, one in table.items()]) for name, table in tables if table]
