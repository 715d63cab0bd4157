"""What a recorded session is: a transcript of entries, one for each cell. Frozen facts, no I/O.

A transcript lies in a notebook (``notebook.py``): what a reader wants in its cells, and what only a replay needs in
their metadata under :data:`METADATA_KEY`, with the JSON Schema of ``schema/``. Values are not in it but named in it,
by a :class:`ValueRef`; a :class:`ValueLoader` has them.

All times are UTC; durations are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence  # noqa: TC003 - pydantic evaluates the annotations, see schema.py
from dataclasses import dataclass, field
from datetime import datetime  # noqa: TC003 - as above
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..client.outputs import Output
    from ..codec.values import Buffer
    from ..wire.comm import ToolSpec

Ending = Literal["ok", "error", "interrupted", "timeout", "died", "not_run", "unknown"]

METADATA_KEY = "daytona_kernel_interp"
SCHEMA_VERSION = 1  # of notebook and cell metadata; a recording of another version is refused by name


@dataclass(frozen=True)
class ValueRef:
    """A value by the hash of its encoding (``wire/values.py``).

    Attributes:
        hash: SHA-256 of the encoding, in hex.
        size: Bytes of the encoding.
        summary: What a reader sees in its place: type and size, or the short value itself.
    """

    hash: str
    size: int
    summary: str


class ValueLoader(Protocol):
    """Where values lie, each once."""

    def load(self, ref: ValueRef) -> Sequence[Buffer]:
        """Return a value's encoding.

        Raises:
            RecordingError: If it is missing, or is not what its hash says.
        """


@dataclass(frozen=True)
class Usage:
    """What calls of a language model took, as far as DSPy knows. ``None``: not told."""

    model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost_usd: float | None = None


@dataclass(frozen=True)
class RecordedCall:
    """A call of a host tool or of a language model out of a cell.

    Attributes:
        id: Its number in the kernel's life; calls are told in the order of their ids.
        name: The tool's.
        kind: ``"llm"`` for DSPy's ``llm_query`` and its like.
        began_s: Seconds after its cell began.
        elapsed_s: Seconds until it was answered; None if it never was.
        arguments: ``(args, kwargs)`` as the cell gave them.
        result: What it returned; None if it raised or was not answered.
        error: What it raised: type, names of builtin base classes, message.
        usage: What it took of a language model.
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
    """How a call of ``execute`` ended for its caller.

    Attributes:
        kind: ``submitted``: SUBMIT was called, ``value`` is the dict of its fields. ``returned``: ``value`` is what
            execute returned. ``raised``: ``error`` is the class that it raised (``SyntaxError``,
            ``CodeExecutionError`` or ``CodeInterpreterError``) and ``text`` its text. ``unfinished``: the host ended
            before the cell did.
        ending: What became of the cell itself: ``ok``, ``error``, ``interrupted``, ``timeout``, ``died`` (with its
            kernel), ``not_run``, ``unknown``.
    """

    kind: Literal["submitted", "returned", "raised", "unfinished"]
    ending: Ending = "ok"
    value: ValueRef | None = None
    error: str = ""
    text: str = ""


@dataclass(frozen=True)
class Entry:
    """One cell: what went in, what it did, what came out.

    Attributes:
        index: From 0, in the order in which the calls of ``execute`` began.
        id: The msg_id of its execute_request; ``""`` if none was sent.
        code: As sent.
        variables: What was bound before it, by name.
        tools: What was offered to it.
        output_fields: What SUBMIT takes: ``{"name": str, "type": str}`` dicts; None: one value.
        outputs: As :attr:`KernelInterpreter.outputs` has them.
        calls: By id.
        outcome: What its caller got.
        began: When execute was called.
        elapsed_s: Seconds it took; None if it did not end.
        late: What threads of earlier cells had printed since.
        reasoning: The model's, from DSPy's callback; None without it.
        usage: What the model took to write it.
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
    """A call of a language model, in the order they began: what :meth:`Recording.lm` answers with.

    Attributes:
        call_id: DSPy's.
        entry: Index of the cell that was running, or None: the main model, between cells.
        request: The prompt or messages and the settings, as DSPy gave them, without keys.
        outputs: What it returned, as DSPy has it.
    """

    call_id: str
    entry: int | None
    began: datetime
    elapsed_s: float | None
    request: ValueRef
    outputs: ValueRef | None = None
    usage: Usage | None = None
    error: str = ""


@dataclass(frozen=True)
class SessionFacts:
    """What holds for the whole session.

    Attributes:
        session_id: As :attr:`KernelInterpreter.session_id`.
        sandbox: The kind of sandbox and what distinguishes it, for a reader; nothing secret.
        versions: Of ``python`` and packages on the host; of the sandbox's under ``guest.`` names.
        options: ``execution_timeout``, ``max_output_chars``, ``max_value_bytes``.
        seeds: What the random generators of the kernel were set to, by library.
    """

    session_id: str
    began: datetime
    sandbox: str
    versions: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Transcript:
    """A whole session.

    Attributes:
        complete: Whether the session was shut down; else its host died, or it still runs.
        callback: Whether DSPy's callback was there: without it there is no reasoning, no tokens and no cost.
        problems: What of the recording could not be read, a sentence each.
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
