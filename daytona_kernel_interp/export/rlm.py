"""Export a recorded session as the JSON lines that the visualizer of ``rlm`` reads (github.com/alexzhang13/rlm).

Sources in that repository: ``visualizer/src/lib/types.ts`` and ``parse-logs.ts`` define what the visualizer reads,
``rlm/logger/rlm_logger.py`` and ``to_dict`` of ``rlm/core/types.py`` what ``rlm`` writes: one line of type
``metadata``, then one line of type ``iteration`` for each step. A model's call has its tokens in both forms: the fields
that the visualizer shows and the ``usage_summary`` that ``rlm`` writes.

The visualizer treats any text on ``stderr`` as a failure of the step, and shows only ``stdout`` and ``stderr``. So only
a step's error goes to ``stderr``; displays (by their description) and warnings go to ``stdout``. The prompt of a step
is the request to the main model that wrote it, if that was recorded. Cells that DSPy runs before the first step are no
iterations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..client.output_text import display_text, plain_text
from ..client.outputs import CellError, StreamText
from ..page import timeline
from ..page.shown_values import arguments, as_text, load, text_of
from ..recording.notebook_json import json_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ..recording.model import Entry, LMCall, RecordedCall, Transcript, Usage, ValueLoader


_MAX_VARIABLE = 20_000  # bytes; variables are repeated in each step, so large ones are not exported


def to_jsonl(transcript: Transcript) -> str:
    """Return the session as the text of a ``.jsonl`` file."""
    return "".join(json_text(line) + "\n" for line in (_metadata(transcript), *_iterations(transcript)))


def _metadata(transcript: Transcript) -> dict[str, Any]:
    facts = transcript.facts
    usages = [*(one.usage for one in transcript.lm_calls), *(one.usage for one in transcript.entries)]
    model = next((usage.model for usage in usages if usage is not None and usage.model), None)
    return {
        "type": "metadata",
        "timestamp": facts.began.isoformat(timespec="microseconds"),
        "root_model": model,
        "max_depth": 1,
        "max_iterations": None,
        "backend": "dspy",
        "backend_kwargs": {},
        "environment_type": facts.sandbox,
        "environment_kwargs": dict(facts.options),
        "other_backends": None,
    }


def _iterations(transcript: Transcript) -> Iterator[dict[str, Any]]:
    requests = _requests(transcript)
    for number, entry in enumerate((one for one in transcript.entries if not timeline.is_setup(one)), 1):
        request = requests.get(entry.index)
        reasoning = f"{entry.reasoning}\n\n" if entry.reasoning else ""
        reasoning_s = 0.0 if request is None else timeline.sane_duration(request.elapsed_s)
        yield {
            "type": "iteration",
            "iteration": number,
            "timestamp": entry.began.isoformat(timespec="microseconds"),
            "prompt": [] if request is None else _messages(request, transcript.store),
            "response": f"{reasoning}```repl\n{entry.code}\n```",
            "code_blocks": [{"code": entry.code, "result": _result(entry, transcript)}],
            "final_answer": _final_answer(entry, transcript.store),
            "iteration_time": timeline.cell_length_s(entry) + reasoning_s,
        }


def _requests(transcript: Transcript) -> dict[int, LMCall]:
    """Return the main model's last request before each step, by the step's index."""
    requests = sorted((one for one in transcript.lm_calls if one.entry is None), key=lambda one: one.began)
    found: dict[int, LMCall] = {}
    for entry in transcript.entries:
        before = [one for one in requests if one.began <= entry.began]
        if before:
            found[entry.index] = before[-1]
            requests = requests[len(before) :]
    return found


def _messages(request: LMCall, store: ValueLoader) -> list[dict[str, str]]:
    """Return the request as messages of role and content, which is all that the visualizer shows."""
    match load(request.request, store):
        case {"messages": [*messages]} if messages:
            parts = [one if isinstance(one, dict) else {"content": one} for one in messages]
            return [{"role": str(one.get("role", "user")), "content": as_text(one.get("content"))} for one in parts]
        case {"prompt": prompt} if prompt is not None:
            return [{"role": "user", "content": as_text(prompt)}]
        case _:
            return [{"role": "user", "content": request.request.summary}]


def _result(entry: Entry, transcript: Transcript) -> dict[str, Any]:
    printed = [plain_text(entry.late)]
    for output in entry.outputs:
        if isinstance(output, StreamText):
            printed.append(plain_text(output.text))
        elif not isinstance(output, CellError):
            printed.append(f"{display_text(output.data)}\n")
    return {
        "stdout": "".join(printed),
        "stderr": plain_text(entry.outcome.text) if timeline.failed(entry) else "",
        "locals": {name: _variable(entry, name, transcript.store) for name in entry.variables},
        "execution_time": timeline.cell_length_s(entry),
        "rlm_calls": [_call(call, transcript.store) for call in entry.calls if call.kind == "llm"],
    }


def _variable(entry: Entry, name: str, store: ValueLoader) -> Any:
    """Return the summary of a value; a short text itself, as the visualizer looks for the one named ``context``."""
    ref = entry.variables[name]
    value = load(ref, store, _MAX_VARIABLE)
    return value if isinstance(value, str) else ref.summary


def _call(call: RecordedCall, store: ValueLoader) -> dict[str, Any]:
    usage = call.usage
    line: dict[str, Any] = {
        "root_model": (usage.model if usage else None) or "",
        "prompt": "\n".join(text for _, text in arguments(call, store)),
        "response": "" if call.result is None else text_of(call.result, store),
        "prompt_tokens": (usage.prompt_tokens if usage else None) or 0,
        "completion_tokens": (usage.completion_tokens if usage else None) or 0,
        "usage_summary": {"model_usage_summaries": _usage_summary(usage)},
        "execution_time": timeline.sane_duration(call.elapsed_s),
    }
    if call.error is not None:
        line |= {"error": call.error[2], "error_type": call.error[0]}
    return line


def _usage_summary(usage: Usage | None) -> Mapping[str, Any]:
    if usage is None:
        return {}
    summary = {"total_input_tokens": usage.prompt_tokens or 0, "total_output_tokens": usage.completion_tokens or 0}
    return {usage.model or "unknown": {"total_calls": 1, **summary}}


def _final_answer(entry: Entry, store: ValueLoader) -> str | None:
    """Return the answer as text: the value of a single field, or all fields as they were submitted."""
    if entry.outcome.kind != "submitted" or entry.outcome.value is None:
        return None
    value = load(entry.outcome.value, store)
    if isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
    return as_text(value, laid_out=False)
