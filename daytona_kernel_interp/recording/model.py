"""Define the model of a recorded session: a transcript with one entry for each cell. Frozen dataclasses, no I/O.

A transcript is stored in a notebook (``notebook_writer.py``). The cells have what a person reads; their metadata under
:data:`METADATA_KEY` has what a replay needs, in the form of ``schemas/v1.json``. A transcript contains references to
values (:class:`ValueRef`) and not the values, which a :class:`ValueLoader` returns.

All times are UTC; durations are seconds.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence  # noqa: TC003 - pydantic evaluates the annotations, see schema.py
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import AfterValidator

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..client.outputs import Output
    from ..codec.values import Buffer
    from ..wire.comm import ToolSpec

Ending = Literal["ok", "error", "interrupted", "timeout", "died", "not_run", "unknown"]

METADATA_KEY = "daytona_kernel_interp"
DSPY_TOKEN = "__dspy_host_token"  # a variable of DSPy's setup step: a secret of the DSPy process
LLM_TOOLS = ("llm_query", "llm_query_batched")  # DSPy's tools that call a language model
SCHEMA_VERSION = 1  # of the metadata; the reader refuses a recording of another version


def in_utc(moment: datetime) -> datetime:
    """Return a time in UTC. A time without a zone, or too close to the limits of datetime, counts as UTC."""
    with contextlib.suppress(OverflowError):
        return moment.astimezone(timezone.utc) if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    return moment.replace(tzinfo=timezone.utc)


Moment = Annotated[datetime, AfterValidator(in_utc)]


@dataclass(frozen=True)
class ValueRef:
    """A reference to a value, by the hash of its encoding (``codec/values.py``).

    Attributes:
        hash: SHA-256 of the encoding, in hex.
        size: Bytes of the encoding.
        summary: Its type and size, or its repr if that is short.
    """

    hash: str
    size: int
    summary: str


class ValueLoader(Protocol):
    """A store of encoded values."""

    def load(self, ref: ValueRef) -> Sequence[Buffer]:
        """Return a value's encoding.

        Raises:
            RecordingError: If it is missing, or does not have the hash of the reference.
        """


@dataclass(frozen=True)
class Usage:
    """Tokens and cost of calls of a language model; None where DSPy does not know them."""

    model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost_usd: float | None = None


def total_usage(usages: Iterable[Usage | None]) -> Usage | None:
    """Return tokens and cost of several calls of language models together; None if nothing is known."""
    known = [usage for usage in usages if usage is not None]
    if not known:
        return None
    sums: dict[str, Any] = {}
    for name in ("prompt_tokens", "completion_tokens", "cost_usd"):
        numbers = [one for usage in known if (one := getattr(usage, name)) is not None and math.isfinite(one)]
        sums[name] = sum(numbers) if numbers else None
    models = sorted({usage.model for usage in known if usage.model is not None})
    return Usage(", ".join(models) or None, **sums)


@dataclass(frozen=True)
class RecordedCall:
    """A call of a host tool from a cell.

    Attributes:
        id: The number of the call since the kernel started; calls are stored in the order of their ids.
        name: The name of the tool.
        kind: ``"llm"`` for the tools by which DSPy offers a language model, such as ``llm_query``.
        began_s: Seconds from the beginning of the cell.
        elapsed_s: Seconds until the reply; None without one.
        arguments: ``(args, kwargs)`` as the cell passed them.
        result: The return value; None if the tool raised or there was no reply.
        error: The exception: type, names of its builtin base classes, message.
        usage: Tokens and cost of the language models that the tool called.
    """

    id: int
    name: str
    kind: Literal["tool", "llm"]
    began_s: float
    elapsed_s: float | None
    arguments: ValueRef
    result: ValueRef | None = None
    error: tuple[str, tuple[str, ...], str] | None = None
    usage: Usage | None = None


@dataclass(frozen=True)
class Outcome:
    """The result of a call of ``execute`` for its caller.

    Attributes:
        kind: ``submitted``: the cell called SUBMIT, ``value`` is the dict of its fields. ``returned``: ``value`` is
            the return value of ``execute``. ``raised``: ``error`` is the class of the exception (``SyntaxError``,
            ``CodeExecutionError`` or ``CodeInterpreterError``) and ``text`` its message. ``unfinished``: the host
            process ended before the cell did.
        ending: How the cell itself ended: ``ok``, ``error``, ``interrupted``, ``timeout``, ``died`` (with its
            kernel), ``not_run``, ``unknown``.
    """

    kind: Literal["submitted", "returned", "raised", "unfinished"]
    ending: Ending
    value: ValueRef | None = None
    error: str = ""
    text: str = ""


@dataclass(frozen=True)
class Entry:
    """One cell: its inputs, its outputs and its tool calls.

    Attributes:
        index: From 0, in the order in which the calls of ``execute`` began.
        id: The msg_id of its execute_request; ``""`` if none was sent.
        code: The code as it was sent.
        variables: The variables that were bound before it, by name.
        tools: The tools that it could call.
        output_fields: The parameters of SUBMIT as ``{"name": str, "type": str}`` dicts; None for one value.
        outputs: The outputs, as in :attr:`KernelInterpreter.outputs`.
        calls: The tool calls, in the order of their ids.
        outcome: The result for the caller.
        began: When ``execute`` was called.
        elapsed_s: The duration in seconds; None if it did not end.
        late: What threads of earlier cells printed since those cells ended.
        reasoning: The model's reasoning, from DSPy's callback; None without the callback.
        usage: Tokens and cost of the model's calls that wrote the code.
    """

    index: int
    id: str
    code: str
    began: datetime
    outcome: Outcome
    variables: Mapping[str, ValueRef] = field(default_factory=dict)
    tools: Sequence[ToolSpec] = ()
    output_fields: Sequence[Mapping[str, Any]] | None = None
    outputs: Sequence[Output] = ()
    calls: Sequence[RecordedCall] = ()
    elapsed_s: float | None = None
    late: str = ""
    reasoning: str | None = None
    usage: Usage | None = None


@dataclass(frozen=True)
class LMCall:
    """A call of a language model; :meth:`Recording.lm` replays these.

    Attributes:
        call_id: DSPy's id of the call.
        entry: The index of the cell that was running; None for the main model, which is called between cells.
        request: The prompt or messages and the settings as DSPy passed them, without keys.
        outputs: The outputs as DSPy returned them.
    """

    call_id: str
    entry: int | None
    began: Moment
    elapsed_s: float | None
    request: ValueRef
    outputs: ValueRef | None = None
    usage: Usage | None = None
    error: str = ""


@dataclass(frozen=True)
class SessionFacts:
    """The facts of a session.

    Attributes:
        session_id: The id, as in :attr:`KernelInterpreter.session_id`.
        sandbox: The kind of the sandbox, for a reader; nothing secret.
        versions: The versions of ``python`` and packages on the host.
        options: ``execution_timeout``, ``max_output_chars``, ``max_value_bytes``.
        seeds: The seeds of the kernel's random generators, by library.
    """

    session_id: str
    began: Moment
    sandbox: str
    versions: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Transcript:
    """A whole session.

    Attributes:
        complete: Whether the session was shut down; if not, its host process died or it still runs.
        callback: Whether DSPy's callback was attached. Without it there is no reasoning, no tokens and no cost.
        problems: One sentence for each part of the recording that could not be read.
    """

    facts: SessionFacts
    entries: Sequence[Entry]
    store: ValueLoader
    lm_calls: Sequence[LMCall] = ()
    complete: bool = True
    callback: bool = False
    problems: Sequence[str] = ()


def refs_of(calls: Iterable[LMCall]) -> list[ValueRef]:
    """Return the references to values in calls of language models."""
    return [ref for call in calls for ref in (call.request, call.outputs) if ref is not None]


def refs_in(entry: Entry) -> list[ValueRef]:
    """Return the references to values in an entry."""
    refs = [*entry.variables.values(), entry.outcome.value]
    for call in entry.calls:
        refs += [call.arguments, call.result]
    return [ref for ref in refs if ref is not None]
