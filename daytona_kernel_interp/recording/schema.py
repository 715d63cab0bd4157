"""Convert the model to the JSON in the metadata of cells and notebook, and back; its form is ``schemas/v1.json``.

pydantic reads the JSON into the dataclasses of the model. It ignores keys that it does not know, which the schema
forbids to write: a reader must be able to read what a later program of the same schema version adds.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import AfterValidator, TypeAdapter, ValidationError

from ..wire.comm import Parameter, ToolSpec
from .model import Entry, LMCall, Outcome, RecordedCall, SessionFacts, Usage, ValueRef

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..client.outputs import Output

JsonObject = dict[str, object]

T = TypeVar("T")


# --- to JSON ---------------------------------------------------------------------------------------------


def ref_to_json(ref: ValueRef) -> JsonObject:
    """Return a reference to a value as JSON."""
    return {"hash": ref.hash, "size": ref.size, "summary": ref.summary}


def seconds(value: float | None) -> float | None:
    """Return a duration, or an amount of money, as it is written: rounded to a millionth, whole numbers as int.

    JavaScript has no ``1.0``: a notebook that JupyterLab saved has ``1``, and the cell's hash must not change by that.
    """
    if value is None:
        return None
    millionths = round(value * 1e6)
    return millionths / 1e6 if millionths % 1_000_000 else millionths // 1_000_000


def usage_to_json(usage: Usage) -> JsonObject:
    """Return tokens and cost of a model's calls as JSON."""
    tokens = {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
    return _known(model=usage.model, **tokens, cost_usd=seconds(usage.cost_usd))


def _known(**items: object) -> JsonObject:
    return {name: item for name, item in items.items() if item is not None}


def facts_to_json(facts: SessionFacts) -> JsonObject:
    """Return the facts of a session as JSON."""
    return {
        "session_id": facts.session_id,
        "began": facts.began.isoformat(),
        "sandbox": facts.sandbox,
        "versions": dict(facts.versions),
        "options": dict(facts.options),
        "seeds": dict(facts.seeds),
    }


def tools_to_json(tools: Sequence[ToolSpec]) -> list[JsonObject]:
    """Return the tools of a cell as JSON."""
    return [
        {
            "name": tool.name,
            "doc": tool.doc,
            "parameters": None if tool.parameters is None else [[p.name, p.kind, p.default] for p in tool.parameters],
        }
        for tool in tools
    ]


def lm_call_to_json(call: LMCall) -> JsonObject:
    """Return a call of a language model as JSON."""
    return {
        "call_id": call.call_id,
        "entry": call.entry,
        "began": call.began.isoformat(),
        "elapsed_s": seconds(call.elapsed_s),
        "request": ref_to_json(call.request),
        **_known(
            outputs=call.outputs and ref_to_json(call.outputs),
            usage=call.usage and usage_to_json(call.usage),
            error=call.error or None,
        ),
    }


def call_to_json(call: RecordedCall) -> JsonObject:
    """Return a tool call as JSON."""
    error = call.error and [call.error[0], list(call.error[1]), call.error[2]]
    return {
        "id": call.id,
        "name": call.name,
        "kind": call.kind,
        "began_s": seconds(call.began_s),
        "elapsed_s": seconds(call.elapsed_s),
        "arguments": ref_to_json(call.arguments),
        **_known(
            result=call.result and ref_to_json(call.result),
            error=error,
            usage=call.usage and usage_to_json(call.usage),
        ),
    }


def entry_to_json(entry: Entry, tools: ValueRef | None) -> JsonObject:
    """Return an entry as JSON without code and outputs, which stand in the cell; ``tools`` refers to its tools."""
    outcome = entry.outcome
    return {
        "index": entry.index,
        "id": entry.id,
        "began": entry.began.isoformat(),
        "elapsed_s": seconds(entry.elapsed_s),
        "outcome": {
            "kind": outcome.kind,
            "ending": outcome.ending,
            **_known(
                value=outcome.value and ref_to_json(outcome.value),
                error=outcome.error or None,
                text=outcome.text or None,
            ),
        },
        "variables": {name: ref_to_json(ref) for name, ref in entry.variables.items()},
        "calls": list(map(call_to_json, entry.calls)),
        **_known(
            output_fields=None if entry.output_fields is None else list(map(dict, entry.output_fields)),
            reasoning=entry.reasoning,
            tools=tools and ref_to_json(tools),
            usage=entry.usage and usage_to_json(entry.usage),
            late=entry.late or None,
        ),
    }


# --- from JSON: a function raises ValidationError, a ValueError, if the JSON has another form ----------------


def _in_utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment.astimezone(timezone.utc)


@dataclass(frozen=True)
class _EntryForm:
    """An entry as it is written: without code and outputs, and with a reference to its tools."""

    index: int
    id: str
    began: Annotated[datetime, AfterValidator(_in_utc)]
    elapsed_s: float | None
    outcome: Outcome
    # dict and tuple: pydantic reads these twice as fast as Mapping and Sequence.
    variables: dict[str, ValueRef]
    calls: tuple[RecordedCall, ...]
    output_fields: tuple[dict[str, Any], ...] | None = None
    tools: ValueRef | None = None
    late: str = ""
    reasoning: str | None = None
    usage: Usage | None = None


@dataclass(frozen=True)
class _ToolForm:
    name: str
    doc: str
    parameters: tuple[tuple[str, int, str | None], ...] | None


@functools.cache
def _adapter(form: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(form)


def _read(form: type[T], data: object) -> T:
    read: T = _adapter(form).validate_python(data)  # type: ignore[arg-type]  # a class is hashable
    return read


def facts_from_json(data: object) -> SessionFacts:
    """Return the facts of a session from JSON."""
    facts = _read(SessionFacts, data)
    return replace(facts, began=_in_utc(facts.began))


def tools_from_json(data: Sequence[object]) -> tuple[ToolSpec, ...]:
    """Return the tools of a cell from JSON."""
    return tuple(_tool_from_json(_read(_ToolForm, tool)) for tool in data)


def _tool_from_json(tool: _ToolForm) -> ToolSpec:
    parameters = None if tool.parameters is None else tuple(Parameter(*one) for one in tool.parameters)
    return ToolSpec(tool.name, tool.doc, parameters)


def lm_call_from_json(data: object) -> LMCall:
    """Return a call of a language model from JSON."""
    call = _read(LMCall, data)
    return replace(call, began=_in_utc(call.began))


def entry_from_json(
    data: object, code: str, outputs: Sequence[Output], tools_of: Callable[[ValueRef], tuple[ToolSpec, ...]]
) -> Entry:
    """Return an entry from JSON, with the code and outputs of its cell; ``tools_of`` loads its tools."""
    form = _read(_EntryForm, data)
    return Entry(
        index=form.index,
        id=form.id,
        code=code,
        began=form.began,
        outcome=form.outcome,
        variables=form.variables,
        tools=() if form.tools is None else tools_of(form.tools),
        output_fields=form.output_fields,
        outputs=tuple(outputs),
        calls=form.calls,
        elapsed_s=form.elapsed_s,
        late=form.late,
        reasoning=form.reasoning,
        usage=form.usage,
    )


def reason_of(error: Exception) -> str:
    """Return why JSON could not be read, as a clause that names the field."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            return f"{field} is missing"
        return f"it has another form than was recorded: {field + ': ' if field else ''}{first['msg']}"
    if isinstance(error, AttributeError):  # from a value that should be an object
        return "it has another form than was recorded"
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)
