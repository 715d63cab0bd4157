"""Report DSPy's calls to the call tree, with the requests, outputs, tokens and cost of language models.

One callback serves all sessions of the process; :data:`~.call_tree.tree` assigns each call to its session. It is
attached with ``dspy.context`` for the duration of that context, or by the user. Nothing here changes DSPy's settings.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import dspy
from dspy.dsp.utils.settings import settings
from dspy.utils.callback import ACTIVE_CALL_ID, BaseCallback

from ..codec import values
from .call_tree import CompletedLMCall, enclosing_calls, tree
from .model import Usage
from .redaction import known_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# The settings of a request that are recorded. Keys, headers and addresses are not among them.
_SETTINGS = (
    "temperature",
    "max_tokens",
    "max_completion_tokens",
    "top_p",
    "n",
    "stop",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "logprobs",
    "top_logprobs",
    "response_format",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "reasoning_effort",
    "rollout_id",
)
_HISTORY = 50  # the newest entries of a model's history that are searched for its answer


class SessionCallback(BaseCallback):
    """The callback that fills the call tree. DSPy logs what its methods raise, and goes on."""

    def __init__(self) -> None:
        self._requests: dict[str, tuple[object, Mapping[str, Any], datetime, float]] = {}
        tree.current = ACTIVE_CALL_ID.get

    # --- modules -----------------------------------------------------------------------------------------

    def on_module_start(self, call_id: str, instance: object, inputs: dict[str, object]) -> None:
        """Report the start of a module. DSPy 3.1.3 also reports a model here that is no ``dspy.LM``."""
        if isinstance(instance, dspy.BaseLM):
            self.on_lm_start(call_id, instance, inputs)
        else:
            tree.call_started(call_id)

    def on_module_end(self, call_id: str, outputs: object, exception: BaseException | None = None) -> None:
        """Report the end of a module, and its reasoning, which leads to the next cell of its caller."""
        if call_id in self._requests:
            self.on_lm_end(call_id, outputs, exception)
            return
        reasoning = getattr(outputs, "reasoning", None)
        if reasoning is not None:
            tree.add_reasoning(call_id, str(reasoning))
        tree.call_ended(call_id)

    # --- cells and tools -------------------------------------------------------------------------------------

    def on_interpreter_execute_start(self, call_id: str, instance: object, inputs: dict[str, object]) -> None:
        """Report the start of a cell."""
        tree.call_started(call_id, is_cell=True)

    def on_interpreter_tool_call_start(self, call_id: str, instance: object, inputs: dict[str, object]) -> None:
        """Report the start of a tool call."""
        tree.call_started(call_id)

    def on_interpreter_tool_call_end(
        self, call_id: str, outputs: object, exception: BaseException | None = None
    ) -> None:
        """Report the end of a cell or a tool call."""
        tree.call_ended(call_id)

    on_interpreter_execute_end = on_interpreter_tool_call_end
    on_tool_start = on_evaluate_start = on_compile_start = on_interpreter_tool_call_start
    on_tool_end = on_evaluate_end = on_compile_end = on_interpreter_tool_call_end

    # --- models --------------------------------------------------------------------------------------------

    def on_lm_start(self, call_id: str, instance: object, inputs: dict[str, object]) -> None:
        """Note the request to a language model."""
        tree.call_started(call_id)
        for given in (getattr(instance, "kwargs", None), inputs.get("kwargs")):
            if isinstance(given, Mapping):
                known_secrets.add_named(given)
        self._requests[call_id] = (instance, dict(inputs), datetime.now(timezone.utc), time.perf_counter())

    def on_lm_end(self, call_id: str, outputs: object, exception: BaseException | None = None) -> None:
        """Report a call of a language model with its outputs."""
        request = self._requests.pop(call_id, None)
        if request is not None:
            instance, inputs, began, clock = request
            around = enclosing_calls.get()
            call = CompletedLMCall(
                call_id,
                began,
                time.perf_counter() - clock,
                request=_encoded(request_of(instance, inputs)),
                outputs=None if exception is not None else _encoded(outputs),
                usage=_usage(instance, outputs),
                error="" if exception is None else f"{type(exception).__name__}: {exception}",
                enclosing_calls=around,
            )
            for note in around:
                note.lm_calls.append(call)
            tree.add_lm_call(call)
        tree.call_ended(call_id)


def request_of(instance: object, inputs: Mapping[str, Any]) -> dict[str, object]:
    """Return the request to a model: its name, the prompt or messages, and the settings without keys."""
    given = {**(getattr(instance, "kwargs", None) or {}), **(inputs.get("kwargs") or {})}
    return {
        "model": str(getattr(instance, "model", "")),
        "prompt": inputs.get("prompt"),
        "messages": inputs.get("messages"),
        "settings": {name: given[name] for name in _SETTINGS if given.get(name) is not None},
    }


def _encoded(value: object) -> Sequence[values.Buffer]:
    try:
        return values.dumps(value, max_bytes=None, snapshot=True)
    except values.UnsupportedValue:
        return values.dumps(values.json_form(value), max_bytes=None, snapshot=True)


def _usage(instance: object, outputs: object) -> Usage:
    """Return tokens and cost of an answer, from the entry of the model's history that holds the same object."""
    model = str(getattr(instance, "model", "")) or None
    history = getattr(instance, "history", None) or ()
    with contextlib.suppress(Exception):  # another thread may change the history, and its form is DSPy's
        for entry in list(history[-_HISTORY:])[::-1]:
            if entry.get("outputs") is outputs:
                usage = entry.get("usage") or {}
                cost = entry.get("cost")
                return Usage(
                    entry.get("response_model") or model,
                    _count(usage, "prompt_tokens", "input_tokens"),
                    _count(usage, "completion_tokens", "output_tokens"),
                    float(cost) if isinstance(cost, (int, float)) else None,
                )
    return Usage(model)


def _count(usage: Mapping[str, object], *names: str) -> int | None:
    return next((count for name in names if isinstance(count := usage.get(name), int)), None)


_the_callback: SessionCallback | None = None
_lock = threading.Lock()


def session_callback() -> SessionCallback:
    """Return the callback of this process; see :meth:`.recording.Recording.callback`."""
    global _the_callback
    with _lock:
        if _the_callback is None:
            _the_callback = SessionCallback()
        return _the_callback


@contextlib.contextmanager
def attached() -> Iterator[None]:
    """Attach the callback for the duration of a ``with`` block; DSPy's settings are the same afterwards."""
    callback = session_callback()
    present = list(settings.get("callbacks") or [])
    context = dspy.context(callbacks=[*present, callback]) if callback not in present else contextlib.nullcontext()
    scope = tree.enter()
    try:
        with context:
            yield
    finally:
        tree.leave(scope)
