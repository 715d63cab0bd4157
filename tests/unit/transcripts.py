"""Hypothesis strategies for transcripts of any session."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from daytona_kernel_interp.client.outputs import CellError, DisplayData, ExecuteResult, StreamText
from daytona_kernel_interp.codec import values
from daytona_kernel_interp.codec.value_hash import hash_of
from daytona_kernel_interp.recording.model import (
    Entry,
    LMCall,
    Outcome,
    RecordedCall,
    SessionFacts,
    Transcript,
    Usage,
    ValueRef,
)
from daytona_kernel_interp.recording.value_store import ref_to
from daytona_kernel_interp.wire.comm import Parameter, ToolSpec

from .strategies import JSON, TEXTS, VALUES

if TYPE_CHECKING:
    from collections.abc import Sequence

BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


class Memory:
    """A store of values in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, Sequence[values.Buffer]] = {}

    def keep(self, value: Any) -> ValueRef:
        buffers = values.dumps(value, max_bytes=None)
        self.kept[hash_of(buffers)] = buffers
        return ref_to(buffers)

    def load(self, ref: ValueRef) -> Sequence[values.Buffer]:
        return self.kept[ref.hash]


_SECONDS = st.integers(0, 10**9).map(lambda micros: micros / 1e6)
_MAYBE_SECONDS = st.none() | _SECONDS
_USAGE = st.none() | st.builds(
    Usage,
    st.none() | TEXTS,
    st.none() | st.integers(0, 10**6),
    st.none() | st.integers(0, 10**6),
    st.none() | st.sampled_from([0.0, 0.25, 0.000012]),
)
_MIMES = st.fixed_dictionaries(
    {}, optional={"text/plain": TEXTS, "image/png": st.just("aGk="), "text/html": TEXTS, "application/json": JSON}
)
_METADATA = st.dictionaries(TEXTS, JSON, max_size=1)
_OUTPUTS = st.one_of(
    st.builds(StreamText, st.sampled_from(["stdout", "stderr"]), TEXTS),
    st.builds(DisplayData, _MIMES, _METADATA),
    st.builds(ExecuteResult, _MIMES, _METADATA),
    st.builds(CellError, TEXTS, TEXTS, TEXTS),
)
_NAMES = st.sampled_from(["a", "text", "größe", "llm_query"])
_TOOLS = st.builds(
    ToolSpec,
    _NAMES,
    TEXTS,
    st.none() | st.lists(st.builds(Parameter, _NAMES, st.integers(0, 4), st.none() | TEXTS), max_size=2).map(tuple),
)
_FIELDS = st.none() | st.lists(st.fixed_dictionaries({"name": _NAMES}, optional={"type": TEXTS}), max_size=2).map(tuple)
_ENDINGS = st.sampled_from(["ok", "error", "interrupted", "timeout", "died", "not_run", "unknown"])


@st.composite
def transcripts(draw: st.DrawFn) -> Transcript:
    store = Memory()
    refs = VALUES.map(store.keep) | st.just("x" * 70_000).map(store.keep)
    maybe = st.none() | refs
    answers = st.dictionaries(TEXTS, VALUES, max_size=2).map(store.keep)
    outcomes = st.one_of(
        st.builds(Outcome, st.just("submitted"), _ENDINGS, answers),
        st.builds(Outcome, st.just("returned"), _ENDINGS, maybe),
        st.builds(Outcome, st.sampled_from(["raised", "unfinished"]), _ENDINGS, st.none(), TEXTS, TEXTS),
    )
    errors = st.none() | st.tuples(TEXTS, st.lists(TEXTS, max_size=2).map(tuple), TEXTS)
    calls = st.builds(
        RecordedCall,
        st.integers(1, 99),
        _NAMES,
        st.sampled_from(["tool", "llm"]),
        _SECONDS,
        _MAYBE_SECONDS,
        refs,
        maybe,
        errors,
        _USAGE,
    )
    count = draw(st.integers(0, 3))
    entries = tuple(
        Entry(
            index=index,
            id=draw(TEXTS),
            code=draw(TEXTS),
            began=BEGAN + timedelta(seconds=10 * index),
            outcome=draw(outcomes),
            variables=draw(st.dictionaries(_NAMES, refs, max_size=2)),
            tools=tuple(draw(st.lists(_TOOLS, max_size=2))),
            output_fields=draw(_FIELDS),
            outputs=tuple(draw(st.lists(_OUTPUTS, max_size=3))),
            calls=tuple(draw(st.lists(calls, max_size=2))),
            elapsed_s=draw(_MAYBE_SECONDS),
            late=draw(TEXTS),
            reasoning=draw(st.none() | TEXTS),
            usage=draw(_USAGE),
        )
        for index in range(count)
    )
    lm_calls = tuple(
        LMCall(
            call_id=draw(TEXTS),
            entry=draw(st.none() | st.integers(0, count - 1)) if count else None,
            began=BEGAN + timedelta(seconds=3 * number),
            elapsed_s=draw(_MAYBE_SECONDS),
            request=draw(refs),
            outputs=draw(maybe),
            usage=draw(_USAGE),
            error=draw(TEXTS),
        )
        for number in range(draw(st.integers(0, 3)))
    )
    facts = SessionFacts(
        session_id=draw(TEXTS),
        began=BEGAN,
        sandbox=draw(TEXTS),
        versions=draw(st.dictionaries(TEXTS, TEXTS, max_size=2)),
        options={"execution_timeout": draw(st.none() | st.floats(0.1, 100))},
        seeds=draw(st.dictionaries(_NAMES, st.integers(0, 2**32 - 1), max_size=2)),
    )
    return Transcript(facts, entries, store, lm_calls, complete=draw(st.booleans()), callback=draw(st.booleans()))
