"""The recorded language model: it returns the recorded answer to a recorded request and refuses other requests."""

from __future__ import annotations

import copy
import datetime
import importlib.metadata
import threading
import uuid
from typing import TYPE_CHECKING, Any, Literal

import dspy
from dspy.utils import callback

from ..codec import values
from ..errors import RecordingError, ReplayMismatch
from ..formatting import most_similar
from ..recording.notebook_reader import open_run
from .canonical import canonical
from .tape import diff_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..recording.model import LMCall, Transcript
    from ..recording.notebook_reader import RecordingSource

Match = Literal["request", "order"]
_UNNAMED_MODEL = "recorded"
_with_callbacks: Any = callback.with_callbacks  # untyped in DSPy
_COMPARED_CHARS = 2000  # of a conversation's end, to find the most similar one
_MAX_COMPARED = 300
_SHOWN_TAIL = 300


class RecordedLM(dspy.BaseLM):
    """A language model that returns the answers of a recording, at no cost and without a network.

    It serves one run: each answer is returned once. After a mismatch every further call raises the same error, so that
    a retry of an adapter does not hide it.

    Args:
        recording: The notebook's path, or a :class:`Recording`.
        match: ``"request"``: the prompt or messages must be those of a recorded call, in any order, of the main model
            or of a sub-call. ``"order"``: the main model's answers in order, whatever the request; for programs whose
            prompts changed, or for another version of DSPy, which phrases them differently.
    """

    def __init__(self, recording: RecordingSource, match: Match = "request") -> None:
        if match not in ("request", "order"):
            raise ValueError(f'match must be "request" or "order", not {match!r}')
        transcript, name = open_run(recording)
        if not transcript.lm_calls:
            raise RecordingError(f"{name} has no LM calls: record it with DSPy's callback, Recording.callback().")
        model = next(
            (call.usage.model for call in transcript.lm_calls if call.usage and call.usage.model), _UNNAMED_MODEL
        )
        super().__init__(model, cache=False)
        self._answers = _Answers(transcript, name, match)

    @property
    def left(self) -> int:
        """The number of answers of the main model that were not returned yet."""
        return self._answers.left

    @_with_callbacks  # type: ignore[untyped-decorator]
    def __call__(self, prompt: object = None, messages: Iterable[object] | None = None, **kwargs: object) -> object:
        """Return the recorded outputs.

        Raises:
            ReplayMismatch: If the recording has no such request.
        """
        return self._answer(prompt, messages, kwargs)

    @_with_callbacks  # type: ignore[untyped-decorator]
    async def acall(self, prompt: object = None, messages: Iterable[object] | None = None, **kwargs: object) -> object:
        """Return the same as a call, without waiting."""
        return self._answer(prompt, messages, kwargs)

    def _answer(self, prompt: object, messages: Iterable[object] | None, kwargs: dict[str, object]) -> object:
        outputs = self._answers.take(prompt, messages)
        entry: dict[str, object] = {
            "prompt": prompt,
            "messages": messages,
            "kwargs": {key: value for key, value in kwargs.items() if not key.startswith("api_")},
            "response": None,
            "outputs": outputs,
            "usage": {},
            "cost": 0.0,
            "timestamp": datetime.datetime.now().isoformat(),
            "uuid": str(uuid.uuid4()),
            "model": self.model,
            "response_model": self.model,
            "model_type": self.model_type,
        }
        self.update_history(entry)  # type: ignore[no-untyped-call]
        return outputs

    def __deepcopy__(self, memo: dict[int, object]) -> RecordedLM:
        """Return a copy that shares the position in the recording: it serves one run, even if its program is copied."""
        return copy.copy(self)


class _Answers:
    """The answers of a recording, each of which is returned once."""

    def __init__(self, transcript: Transcript, name: str, match: Match) -> None:
        self._store, self._name, self._match = transcript.store, name, match
        self._version = transcript.facts.versions.get("dspy", "")
        self._calls = list(transcript.lm_calls)
        self._keys: list[str] | None = None
        self._taken: set[str] = set()
        self._mismatch: ReplayMismatch | None = None
        self._lock = threading.Lock()  # llm_query_batched calls from many threads

    @property
    def left(self) -> int:
        return sum(call.entry is None and call.call_id not in self._taken for call in self._calls)

    def take(self, prompt: object, messages: Iterable[object] | None) -> object:
        with self._lock:
            if self._mismatch is not None:
                raise self._mismatch
            call = self._in_order() if self._match == "order" else self._by_request(prompt, messages)
            if call is None:
                self._mismatch = ReplayMismatch(self._describe_miss(prompt, messages))
                raise self._mismatch
            self._taken.add(call.call_id)
        if call.error:
            raise RuntimeError(f"recorded error of the language model: {call.error}")
        if call.outputs is None:
            raise ReplayMismatch(f"{self._name} has no answer to this LM call: the host ended first")
        return values.loads(self._store.load(call.outputs))

    def _in_order(self) -> LMCall | None:
        return next((call for call in self._calls if call.entry is None and call.call_id not in self._taken), None)

    def _by_request(self, prompt: object, messages: Iterable[object] | None) -> LMCall | None:
        if self._keys is None:
            self._keys = [_key(_recorded(self._store.load(call.request))) for call in self._calls]
        key = _key(conversation_of(prompt, messages))
        found = (call for call, its_key in zip(self._calls, self._keys, strict=True) if its_key == key)
        return next((call for call in found if call.call_id not in self._taken), None)

    def _describe_miss(self, prompt: object, messages: Iterable[object] | None) -> str:
        if self._match == "order":
            return f"{self._name} has no further answer of the main model: all {len(self._taken)} were returned"
        request_text = _shown(conversation_of(prompt, messages))
        text = f"{self._name} has no LM call with this request"
        running = importlib.metadata.version("dspy")
        if self._version and self._version != running:
            text += (
                f" (recorded with DSPy {self._version}, running on {running}, which may phrase prompts "
                'differently: match="order" does not compare them)'
            )
        # Prompts of one program begin alike and differ in their ends, so the ends are compared.
        left = [call for call in self._calls if call.call_id not in self._taken][:_MAX_COMPARED]
        recorded = [_shown(_recorded(self._store.load(call.request))) for call in left]
        near = most_similar(request_text[-_COMPARED_CHARS:], ((one, one[-_COMPARED_CHARS:]) for one in recorded))
        if near is None:
            return f"{text}; all recorded calls are answered"
        end = request_text if len(request_text) <= _SHOWN_TAIL else f"…{request_text[-_SHOWN_TAIL:]}"
        return (
            f"{text}. The most similar recorded request:\n{diff_text(near, request_text, self._name, 'now')}\n"
            f"The request ends in:\n{end}"
        )


def conversation_of(prompt: object, messages: Iterable[object] | None) -> list[tuple[str, object]]:
    """Return the messages of a request as pairs of role and content."""
    if messages is None:
        return [("user", prompt)]
    return [(str(_part(message, "role")), _part(message, "content")) for message in messages]


def _recorded(buffers: Sequence[values.Buffer]) -> list[tuple[str, object]]:
    request = values.loads(buffers)
    if isinstance(request, dict):
        return conversation_of(request.get("prompt"), request.get("messages"))
    return [("user", request)]


def _part(message: object, name: str) -> object:
    return message.get(name) if isinstance(message, dict) else getattr(message, name, None)


def _key(messages: Sequence[tuple[str, object]]) -> str:
    try:
        return canonical(values.dumps([list(message) for message in messages], max_bytes=None))
    except values.UnsupportedValue:
        return repr(messages)


def _shown(messages: Sequence[tuple[str, object]]) -> str:
    """Return messages as text; of a content in parts, the texts and the other parts' repr."""
    lines = []
    for role, content in messages:
        lines.append(f"[{role}]")
        if isinstance(content, list):
            lines += [str(part["text"] if isinstance(part, dict) and "text" in part else part) for part in content]
        else:
            lines.append(content if isinstance(content, str) else repr(content))
    return "\n".join(lines)
