"""Track the calls of DSPy that are running, and assign the calls of language models to the cells that they lead to.

DSPy's callbacks report each call by an id, together with the id of the call that made it. The calls of a model belong
to the session whose ``execute`` comes next under the same module. The chain of ids does not depend on threads or tasks,
so sessions that run at the same time do not mix. This module knows no DSPy; ``dspy_callback.py`` reports to it.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
import uuid
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from ..codec import values
    from .model import Usage

_MAX_UNCLAIMED = 10_000  # calls of models that no cell has claimed yet


class ReasoningOwner(Protocol):
    """The recorder of a session."""

    def add_reasoning(self, reasoning: Reasoning) -> None:
        """Write reasoning and calls of a model that no cell follows."""


@dataclass
class EnclosingCall:
    """A tool call of a recorded cell, during which other calls are made.

    Attributes:
        owner: The recorder of the cell's session.
        lm_calls: The calls of language models that the tool made; the callback appends to it.
    """

    owner: object
    lm_calls: list[CompletedLMCall] = field(default_factory=list, init=False)


@dataclass
class CompletedLMCall:
    """A call of a language model that has ended."""

    call_id: str
    began: datetime
    elapsed_s: float
    request: Sequence[values.Buffer]
    outputs: Sequence[values.Buffer] | None
    usage: Usage | None
    error: str
    chain: tuple[str, ...] = ()
    enclosing_calls: tuple[EnclosingCall, ...] = ()  # outermost first


@dataclass
class Reasoning:
    """The model's reasoning and calls that led to a cell."""

    lm_calls: Sequence[CompletedLMCall] = ()
    reasoning: str | None = None

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.lm_calls or self.reasoning)


@dataclass
class _OpenCall:
    parent: str | None
    is_cell: bool = False
    reported: bool = True  # by the callback, which will report its end as well
    reasoning: str | None = None
    owners: list[ReasoningOwner] = field(default_factory=list)


# The tool calls that this code runs in, outermost first; StepRecorder.call_started sets it.
enclosing_calls: contextvars.ContextVar[tuple[EnclosingCall, ...]] = contextvars.ContextVar(
    "daytona_kernel_calls", default=()
)
# The id of the innermost scope: it stands for a module that started before the callback was attached.
_scope: contextvars.ContextVar[str | None] = contextvars.ContextVar("daytona_kernel_scope", default=None)


class CallTree:
    """The running calls of this process, each with the call that made it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[str, _OpenCall] = {}
        self._unclaimed: deque[CompletedLMCall] = deque(maxlen=_MAX_UNCLAIMED)
        # Set by DSPy's callback, once it exists: returns DSPy's id of the call that runs in this context.
        self.current: Callable[[], str | None] | None = None

    def __len__(self) -> int:
        """Return the number of calls that are kept: those that run, and those of models that no cell has claimed."""
        return len(self._calls) + len(self._unclaimed)

    # --- reports of the callback --------------------------------------------------------------------------

    def current_id(self) -> str | None:
        """Return the id of the call that runs in this context."""
        return (self.current() if self.current is not None else None) or _scope.get()

    def call_started(self, call_id: str, *, is_cell: bool = False) -> None:
        """Add a call that begins; the call that runs in this context makes it."""
        with self._lock:
            self._calls[call_id] = _OpenCall(self.current_id(), is_cell)

    def add_reasoning(self, call_id: str, reasoning: str) -> None:
        """Add the reasoning of a call that ends; it belongs to the next cell of its caller."""
        with self._lock:
            call = self._calls.get(call_id)
            if call is not None and call.parent is not None:
                self._calls.setdefault(call.parent, _OpenCall(None, reported=False)).reasoning = reasoning

    def add_lm_call(self, call: CompletedLMCall) -> None:
        """Add a call of a language model; its own call id has not ended yet."""
        with self._lock:
            call.chain = tuple(self._chain(call.call_id))
            self._unclaimed.append(call)

    def call_ended(self, call_id: str) -> None:
        """Remove a call that ends. Its sessions get the calls of models since their last cell."""
        with self._lock:
            call = self._calls.pop(call_id, None)
            if call is None:
                return
            leftover = [
                (owner, Reasoning(self._take_lm_calls(call_id, owner), call.reasoning)) for owner in call.owners
            ]
            if call.parent is None:
                self._unclaimed = deque((one for one in self._unclaimed if call_id not in one.chain), _MAX_UNCLAIMED)
        for owner, reasoning in leftover:
            owner.add_reasoning(reasoning)

    # --- queries of recorders ------------------------------------------------------------------------------

    def begin_cell(self, owner: ReasoningOwner) -> Reasoning:
        """Return the reasoning and calls that led to the cell which begins in this context, for its recorder."""
        here = self.current_id()
        if here is None:
            return Reasoning()
        with self._lock:
            chain = [(one, self._calls.get(one)) for one in self._chain(here)]
            module = next((one for one, call in chain if call is None or not call.is_cell), None)
            if module is None:
                return Reasoning()
            call = self._calls.setdefault(module, _OpenCall(None, reported=False))
            if owner not in call.owners:
                call.owners.append(owner)
            reasoning, call.reasoning = call.reasoning, None
            return Reasoning(self._take_lm_calls(module, owner), reasoning)

    def end_session(self, owner: ReasoningOwner) -> list[CompletedLMCall]:
        """Return the unclaimed calls of a session that ends, and remove its recorder."""
        with self._lock:
            lm_calls: list[CompletedLMCall] = []
            for call_id, call in self._calls.items():
                if owner in call.owners:
                    call.owners.remove(owner)
                    lm_calls += self._take_lm_calls(call_id, owner)
            return lm_calls

    def enter(self) -> tuple[str, contextvars.Token[str | None]]:
        """Begin a scope: it is the caller of the calls in this context that have no caller in DSPy."""
        name = uuid.uuid4().hex
        with self._lock:
            self._calls[name] = _OpenCall(self.current_id())
        return name, _scope.set(name)

    def leave(self, scope: tuple[str, contextvars.Token[str | None]]) -> None:
        """End a scope."""
        name, token = scope
        with contextlib.suppress(ValueError):  # called in another context, whose end resets it
            _scope.reset(token)
        call = self._calls.get(name)
        self.call_ended(name)
        if call is not None and call.parent is not None:
            caller = self._calls.get(call.parent)
            if caller is not None and not caller.reported:
                self.call_ended(call.parent)

    # --- within the lock ---------------------------------------------------------------------------------

    def _chain(self, call_id: str | None) -> list[str]:
        chain = []
        while call_id is not None and call_id not in chain:
            chain.append(call_id)
            call = self._calls.get(call_id)
            call_id = None if call is None else call.parent
        return chain

    def _take_lm_calls(self, call_id: str, owner: ReasoningOwner) -> list[CompletedLMCall]:
        """Take the calls of models under a call, except those in tools of the owner's own cells."""
        taken = [
            call
            for call in self._unclaimed
            if call_id in call.chain and not any(cell_call.owner is owner for cell_call in call.enclosing_calls)
        ]
        for call in taken:
            self._unclaimed.remove(call)
        return taken


tree = CallTree()
