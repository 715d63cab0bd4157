"""The model as JSON and back: what stands in the metadata of cells and notebook. Its form is ``schemas/v1.json``."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from ..wire.comm import Parameter, ToolSpec
from .model import Entry, LMCall, Outcome, RecordedCall, SessionFacts, Usage, ValueRef

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..client.outputs import Output


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)


# --- to JSON ---------------------------------------------------------------------------------------------


def ref_to_json(ref: ValueRef) -> dict[str, Any]:
    """Return a value's name as JSON."""
    return {"hash": ref.hash, "size": ref.size, "summary": ref.summary}


def _ref_or_none(ref: ValueRef | None) -> dict[str, Any] | None:
    return None if ref is None else ref_to_json(ref)


def seconds(value: float | None) -> float | None:
    """Return a time, or an amount of money, as it stands in JSON.

    To a millionth, and whole where it is: JavaScript knows no ``1.0``, so a notebook saved by JupyterLab has none.
    """
    if value is None:
        return None
    millionths = round(value * 1e6)
    return millionths / 1e6 if millionths % 1_000_000 else millionths // 1_000_000


def usage_to_json(usage: Usage) -> dict[str, Any]:
    """Return what a model took as JSON."""
    cost = seconds(usage.cost_usd)
    tokens = {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
    return _given(model=usage.model, **tokens, cost_usd=cost)


def _usage_or_none(usage: Usage | None) -> dict[str, Any] | None:
    return None if usage is None else usage_to_json(usage)


def _given(**items: Any) -> dict[str, Any]:
    return {name: item for name, item in items.items() if item is not None}


def facts_to_json(facts: SessionFacts) -> dict[str, Any]:
    """Return the session's facts as JSON."""
    return {
        "session_id": facts.session_id,
        "began": facts.began.isoformat(),
        "sandbox": facts.sandbox,
        "versions": dict(facts.versions),
        "options": dict(facts.options),
        "seeds": dict(facts.seeds),
    }


def tools_to_json(tools: Sequence[ToolSpec]) -> list[dict[str, Any]]:
    """Return the tools that a cell was offered as JSON."""
    return [
        {
            "name": tool.name,
            "doc": tool.doc,
            "parameters": None if tool.parameters is None else [[p.name, p.kind, p.default] for p in tool.parameters],
        }
        for tool in tools
    ]


def lm_call_to_json(call: LMCall) -> dict[str, Any]:
    """Return a call of a language model as JSON."""
    return {
        "call_id": call.call_id,
        "entry": call.entry,
        "began": call.began.isoformat(),
        "elapsed_s": seconds(call.elapsed_s),
        "request": ref_to_json(call.request),
        **_given(
            outputs=_ref_or_none(call.outputs),
            usage=_usage_or_none(call.usage),
            error=call.error or None,
        ),
    }


def offer_to_json(
    output_fields: Sequence[Mapping[str, Any]] | None,
    reasoning: str | None,
    tools: ValueRef | None,
    usage: Usage | None,
) -> dict[str, Any]:
    """Return what led to an entry and what was offered to it, as JSON."""
    return _given(
        output_fields=None if output_fields is None else [dict(field) for field in output_fields],
        reasoning=reasoning,
        tools=_ref_or_none(tools),
        usage=_usage_or_none(usage),
    )


# --- from JSON: whatever does not fit raises TypeError, ValueError or LookupError --------------------------


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text was expected, not {type(value).__name__}")
    return value


def _number(value: Any) -> float | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise TypeError(f"a number was expected, not {type(value).__name__}")
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"a whole number was expected, not {type(value).__name__}")
    return value


def ref_from_json(data: Mapping[str, Any]) -> ValueRef:
    """Return a value's name from JSON."""
    return ValueRef(_text(data["hash"]), _whole(data["size"]), _text(data["summary"]))


def _ref_given(data: Mapping[str, Any], name: str) -> ValueRef | None:
    return None if data.get(name) is None else ref_from_json(data[name])


def _usage_given(data: Mapping[str, Any]) -> Usage | None:
    usage = data.get("usage")
    if usage is None:
        return None
    model = usage.get("model")
    prompt, completion = (
        None if usage.get(name) is None else _whole(usage[name]) for name in ("prompt_tokens", "completion_tokens")
    )
    return Usage(None if model is None else _text(model), prompt, completion, _number(usage.get("cost_usd")))


def facts_from_json(data: Mapping[str, Any]) -> SessionFacts:
    """Return the session's facts from JSON."""
    return SessionFacts(
        session_id=_text(data["session_id"]),
        began=_moment(data["began"]),
        sandbox=_text(data["sandbox"]),
        versions={_text(name): _text(version) for name, version in data.get("versions", {}).items()},
        options=dict(data.get("options", {})),
        seeds={_text(name): _whole(seed) for name, seed in data.get("seeds", {}).items()},
    )


def call_from_json(data: Mapping[str, Any]) -> RecordedCall:
    """Return a call from JSON."""
    error = data.get("error")
    if data["kind"] not in ("tool", "llm"):
        raise ValueError(f"there are no calls of kind {data['kind']!r}")
    return RecordedCall(
        id=_whole(data["id"]),
        name=_text(data["name"]),
        kind=data["kind"],
        began_s=_number(data["began_s"]) or 0.0,
        elapsed_s=_number(data["elapsed_s"]),
        arguments=ref_from_json(data["arguments"]),
        result=_ref_given(data, "result"),
        error=None if error is None else (_text(error[0]), tuple(map(_text, error[1])), _text(error[2])),
        usage=_usage_given(data),
    )


def tools_from_json(data: Sequence[Mapping[str, Any]]) -> tuple[ToolSpec, ...]:
    """Return the tools that a cell was offered from JSON."""
    return tuple(map(_tool_from_json, data))


def _tool_from_json(data: Mapping[str, Any]) -> ToolSpec:
    parameters = data["parameters"]
    if parameters is not None:
        parameters = tuple(Parameter(_text(name), _whole(kind), default) for name, kind, default in parameters)
    return ToolSpec(_text(data["name"]), _text(data["doc"]), parameters)


def lm_call_from_json(data: Mapping[str, Any]) -> LMCall:
    """Return a call of a language model from JSON."""
    return LMCall(
        call_id=_text(data["call_id"]),
        entry=None if data["entry"] is None else _whole(data["entry"]),
        began=_moment(data["began"]),
        elapsed_s=_number(data["elapsed_s"]),
        request=ref_from_json(data["request"]),
        outputs=_ref_given(data, "outputs"),
        usage=_usage_given(data),
        error=_text(data.get("error", "")),
    )


def tools_ref(data: Mapping[str, Any]) -> ValueRef | None:
    """Return the name of an entry's tools from JSON; None: it had none."""
    return _ref_given(data, "tools")


def entry_from_json(
    data: Mapping[str, Any], code: str, outputs: Sequence[Output], tools: Sequence[ToolSpec] = ()
) -> Entry:
    """Return an entry from JSON, with the code and outputs of its cell."""
    outcome, fields, reasoning = data["outcome"], data.get("output_fields"), data.get("reasoning")
    return Entry(
        index=_whole(data["index"]),
        id=_text(data["id"]),
        code=code,
        began=_moment(data["began"]),
        outcome=outcome_from_json(outcome),
        variables={name: ref_from_json(ref) for name, ref in data["variables"].items()},
        tools=tuple(tools),
        output_fields=None if fields is None else tuple(dict(field) for field in fields),
        outputs=tuple(outputs),
        calls=tuple(map(call_from_json, data["calls"])),
        elapsed_s=_number(data["elapsed_s"]),
        late=_text(data.get("late", "")),
        reasoning=None if reasoning is None else _text(reasoning),
        usage=_usage_given(data),
    )


def outcome_from_json(data: Mapping[str, Any]) -> Outcome:
    """Return an outcome from JSON."""
    if data["kind"] not in ("submitted", "returned", "raised", "unfinished"):
        raise ValueError(f"no cell ends as {data['kind']!r}")
    if data["ending"] not in ("ok", "error", "interrupted", "timeout", "died", "not_run", "unknown"):
        raise ValueError(f"no cell ends as {data['ending']!r}")
    return Outcome(
        kind=data["kind"],
        ending=data["ending"],
        value=_ref_given(data, "value"),
        error=_text(data.get("error", "")),
        text=_text(data.get("text", "")),
    )
