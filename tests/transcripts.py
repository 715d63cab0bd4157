"""Build transcripts step by step, for tests of the code that reads them."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from daytona_kernel_interp.codec import values
from daytona_kernel_interp.recording import value_store
from daytona_kernel_interp.recording.model import (
    Entry,
    LMCall,
    Outcome,
    RecordedCall,
    SessionFacts,
    Transcript,
    ValueRef,
    refs_in,
    refs_of,
)
from daytona_kernel_interp.recording.notebook_writer import NotebookWriter
from daytona_kernel_interp.recording.schema import tools_to_json
from daytona_kernel_interp.wire.comm import Parameter, ToolSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from daytona_kernel_interp.client.outputs import Output

BEGAN = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)


class MemoryStore(value_store.MemoryStore):
    """A store in memory that encodes the values; a summary is at most 80 characters of the repr."""

    def put(self, value: Any) -> ValueRef:
        """Encode and keep a value, and return the reference to it."""
        return replace(self.keep(values.dumps(value, snapshot=True)), summary=repr(value)[:80])


SEARCH = ToolSpec("search", "Search.", (Parameter("query", 1), Parameter("limit", 1, "5")))
LLM_QUERY = ToolSpec("llm_query", "", (Parameter("prompt", 1),))


class Maker:
    """The builder of a transcript: it adds entries whose values are in one store."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.entries: list[Entry] = []
        self.lm_calls: list[LMCall] = []
        self._calls = 0

    def call(self, name: str, *args: Any, result: Any = None, error: Any = None, **kwargs: Any) -> RecordedCall:
        """Return a call that returned ``result`` or raised ``error``."""
        self._calls += 1
        return RecordedCall(
            self._calls,
            name,
            "llm" if name.startswith("llm_query") else "tool",
            0.0,
            0.001,
            self.store.put((list(args), kwargs)),
            None if error is not None else self.store.put(result),
            error,
        )

    def add(
        self,
        code: str,
        outcome: Outcome | None = None,
        *,
        value: Any = None,
        variables: Mapping[str, Any] | None = None,
        calls: Sequence[RecordedCall] = (),
        tools: Sequence[ToolSpec] = (),
        outputs: Sequence[Output] = (),
        fields: Sequence[Mapping[str, Any]] | None = None,
        **more: Any,
    ) -> Entry:
        """Add an entry that returned ``value`` or has another outcome."""
        entry = Entry(
            len(self.entries),
            f"msg-{len(self.entries)}",
            code,
            BEGAN + datetime.timedelta(seconds=len(self.entries)),
            outcome or Outcome("returned", "ok", value=self.store.put(value)),
            {name: self.store.put(one) for name, one in (variables or {}).items()},
            tools,
            fields,
            outputs,
            calls,
            0.01,
            **more,
        )
        self.entries.append(entry)
        return entry

    def submitted(self, code: str, answer: dict[str, Any], **more: Any) -> Entry:
        """Add an entry that called SUBMIT."""
        fields = [{"name": name} for name in answer]
        return self.add(code, Outcome("submitted", "ok", value=self.store.put(answer)), fields=fields, **more)

    def raised(self, code: str, error: str, text: str, ending: Any = "error", **more: Any) -> Entry:
        """Add an entry that raised."""
        return self.add(code, Outcome("raised", ending, error=error, text=text), **more)

    def transcript(self, **facts: Any) -> Transcript:
        return Transcript(
            SessionFacts("abcd1234", BEGAN, "local", **facts), list(self.entries), self.store, self.lm_calls
        )


def write(transcript: Transcript, path: Path) -> Path:
    """Write a transcript as the recorder writes a session, and return the notebook's path."""
    writer = NotebookWriter(path, transcript.facts)
    writer.callback = transcript.callback
    waiting = [call for call in transcript.lm_calls if call.entry is None]
    tools: Sequence[ToolSpec] = ()

    def store(refs: Sequence[ValueRef]) -> None:
        for ref in refs:
            writer.store_value(transcript.store.load(ref), ref.hash)

    for entry in transcript.entries:
        before = [call for call in waiting if call.began <= entry.began]
        waiting = waiting[len(before) :]
        if before or entry.reasoning:
            store(refs_of(before))
            writer.add_model(before, entry.reasoning)
        made = [call for call in transcript.lm_calls if call.entry == entry.index]
        if entry.tools != tools:
            tools = entry.tools
            writer.store_value(values.dumps(tools_to_json(tools), max_bytes=None))
        store([*refs_in(entry), *refs_of(made)])
        writer.put(entry, made, over=True)
    if waiting:
        store(refs_of(waiting))
        writer.add_model(waiting, None)
    writer.close(complete=transcript.complete)
    return writer.path
