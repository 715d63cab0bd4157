"""Which calls of DSPy are under way, and what their models said that waits for the cell it leads to.

DSPy's callbacks tell of every call by an id, and of the call that it was made from. A model's answer belongs to the
session whose ``execute`` comes next under the same module: a chain of ids is the same in whatever thread or task, so
sessions that run at the same time do not mix. Knows no DSPy; ``callback.py`` fills it.
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

_MAX_UNCLAIMED = 10_000  # calls of models that no session has asked for yet


class ReasoningOwner(Protocol):
    """The recorder of a session."""

    def add_reasoning(self, reasoning: Reasoning) -> None:
        """Write reasoning and calls of a model that no cell follows."""


class EnclosingCall(Protocol):
    """A tool call of a recorded cell, during which other calls are made."""

    @property
    def owner(self) -> object:
        """The recorder of the cell's session."""

    @property
    def lm_calls(self) -> list[CompletedLMCall]:
        """The calls of language models that the tool made; the callback appends to it."""


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
    enclosing_calls: tuple[EnclosingCall, ...] = ()  # the calls of cells that it was made in, outermost first


@dataclass
class Reasoning:
    """What led to a cell."""

    lm_calls: Sequence[CompletedLMCall] = ()
    reasoning: str | None = None

    def __bool__(self) -> bool:
        """Whether anything did."""
        return bool(self.lm_calls or self.reasoning)


@dataclass
class _OpenCall:
    parent: str | None
    is_cell: bool = False
    reported: bool = True  # by the callback, which will tell of its end too
    reasoning: str | None = None
    owners: list[ReasoningOwner] = field(default_factory=list)


# The calls of cells in whose tools this code runs, outermost first; see recorder.py.
enclosing_calls: contextvars.ContextVar[tuple[EnclosingCall, ...]] = contextvars.ContextVar(
    "daytona_kernel_calls", default=()
)
# Stands for the module of whose start the callback was not told, because it came with the interpreter.
_scope: contextvars.ContextVar[str | None] = contextvars.ContextVar("daytona_kernel_scope", default=None)


class CallTree:
    """One a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[str, _OpenCall] = {}
        self._unclaimed: deque[CompletedLMCall] = deque(maxlen=_MAX_UNCLAIMED)
        self.current: Callable[[], str | None] | None = None  # DSPy's id of the call that runs here

    @property
    def callback_active(self) -> bool:
        """Whether DSPy's callback is in use at all."""
        return self.current is not None

    # --- told by the callback --------------------------------------------------------------------------

    def current_id(self) -> str | None:
        """Return the id of the call that runs here."""
        return (self.current() if self.current is not None else None) or _scope.get()

    def call_started(self, call_id: str, *, is_cell: bool = False) -> None:
        """A call begins; what runs here is the one that it is made from."""
        with self._lock:
            self._calls[call_id] = _OpenCall(self.current_id(), is_cell)

    def add_reasoning(self, call_id: str, reasoning: str) -> None:
        """A call ends that gave ``reasoning``, for whatever its caller does next."""
        with self._lock:
            call = self._calls.get(call_id)
            if call is not None and call.parent is not None:
                self._calls.setdefault(call.parent, _OpenCall(None, reported=False)).reasoning = reasoning

    def add_lm_call(self, call: CompletedLMCall) -> None:
        """A language model has answered; its own call is still under way."""
        with self._lock:
            call.chain = tuple(self._chain(call.call_id))
            self._unclaimed.append(call)

    def call_ended(self, call_id: str) -> None:
        """A call ends. What its models said since the last cell goes to the sessions whose cells it made."""
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

    # --- asked by recorders ------------------------------------------------------------------------------

    def begin_cell(self, owner: ReasoningOwner) -> Reasoning:
        """Return what led to the cell that begins here, in a session that ``owner`` records."""
        here = self.current_id()
        if here is None:
            return Reasoning()
        with self._lock:
            module = next((one for one in self._chain(here) if not self._is_cell(one)), None)
            if module is None:
                return Reasoning()
            call = self._calls.setdefault(module, _OpenCall(None, reported=False))
            if owner not in call.owners:
                call.owners.append(owner)
            reasoning, call.reasoning = call.reasoning, None
            return Reasoning(self._take_lm_calls(module, owner), reasoning)

    def end_session(self, owner: ReasoningOwner) -> list[CompletedLMCall]:
        """Return what waits for a session that ends, and forget it."""
        with self._lock:
            lm_calls: list[CompletedLMCall] = []
            for call_id, call in self._calls.items():
                if owner in call.owners:
                    call.owners.remove(owner)
                    lm_calls += self._take_lm_calls(call_id, owner)
            return lm_calls

    def enter(self) -> tuple[str, contextvars.Token[str | None]]:
        """Begin a scope: what is called here from now on has one caller, although DSPy names none."""
        name = uuid.uuid4().hex
        with self._lock:
            self._calls[name] = _OpenCall(self.current_id())
        return name, _scope.set(name)

    def leave(self, scope: tuple[str, contextvars.Token[str | None]]) -> None:
        """End a scope, in the context that it began in."""
        name, token = scope
        with contextlib.suppress(ValueError):  # another context; that one has ended, or will
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

    def _is_cell(self, call_id: str) -> bool:
        call = self._calls.get(call_id)
        return call is not None and call.is_cell

    def _take_lm_calls(self, call_id: str, owner: ReasoningOwner) -> list[CompletedLMCall]:
        """Return what was said under a call, but in no cell of the owner's; it waits for nobody else of its kind."""
        taken = [
            call
            for call in self._unclaimed
            if call_id in call.chain and not any(cell_call.owner is owner for cell_call in call.enclosing_calls)
        ]
        for call in taken:
            self._unclaimed.remove(call)
        return taken


tree = CallTree()
