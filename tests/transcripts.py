"""Recordings made by hand, for tests of what reads them."""

from __future__ import annotations

import datetime
import hashlib
from typing import TYPE_CHECKING, Any

from daytona_kernel_interp.codec import values
from daytona_kernel_interp.errors import RecordingError
from daytona_kernel_interp.recording.model import (
    Entry,
    LMCall,
    Outcome,
    RecordedCall,
    SessionFacts,
    Transcript,
    ValueRef,
)
from daytona_kernel_interp.wire.comm import Parameter, ToolSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from daytona_kernel_interp.client.outputs import Output
    from daytona_kernel_interp.codec.values import Buffer

BEGAN = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)


class MemoryStore:
    """Values in memory, by hash."""

    def __init__(self) -> None:
        self._values: dict[str, list[Buffer]] = {}

    def put(self, value: Any) -> ValueRef:
        buffers = values.dumps(value, snapshot=True)
        digest = hashlib.sha256()
        for buffer in buffers:
            digest.update(len(buffer).to_bytes(8, "big"))
            digest.update(buffer)
        key = digest.hexdigest()
        self._values[key] = buffers
        return ValueRef(key, sum(map(len, buffers)), repr(value)[:80])

    def load(self, ref: ValueRef) -> Sequence[Buffer]:
        try:
            return self._values[ref.hash]
        except KeyError:
            raise RecordingError(f"value {ref.hash} is missing") from None


SEARCH = ToolSpec("search", "Search.", (Parameter("query", 1), Parameter("limit", 1, "5")))
LLM_QUERY = ToolSpec("llm_query", "", (Parameter("prompt", 1),))


class Maker:
    """Makes entries over one store."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.entries: list[Entry] = []
        self.lm_calls: list[LMCall] = []
        self._calls = 0

    def call(self, name: str, *args: Any, result: Any = None, error: Any = None, **kwargs: Any) -> RecordedCall:
        """Return a call that was answered with ``result``, or raised ``error``."""
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
        """Add an entry that returned ``value``, unless another outcome is given."""
        entry = Entry(
            len(self.entries),
            f"msg-{len(self.entries)}",
            code,
            BEGAN + datetime.timedelta(seconds=len(self.entries)),
            outcome or Outcome("returned", value=self.store.put(value)),
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
        return self.add(code, Outcome("submitted", value=self.store.put(answer)), fields=fields, **more)

    def raised(self, code: str, error: str, text: str, ending: Any = "error", **more: Any) -> Entry:
        """Add an entry that raised."""
        return self.add(code, Outcome("raised", ending, error=error, text=text), **more)

    def transcript(self, **facts: Any) -> Transcript:
        return Transcript(
            SessionFacts("abcd1234", BEGAN, "local", **facts), list(self.entries), self.store, self.lm_calls
        )
