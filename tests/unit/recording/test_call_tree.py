"""The tree of DSPy's calls: calls of models are assigned to the right session for nested and concurrent calls."""

from __future__ import annotations

import contextlib
import contextvars
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from daytona_kernel_interp.recording.call_tree import CallTree, CompletedLMCall, Reasoning

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager


class Owner:
    """A recorder that keeps the reasoning it receives."""

    def __init__(self) -> None:
        self.received: list[Reasoning] = []

    def add_reasoning(self, reasoning: Reasoning) -> None:
        self.received.append(reasoning)


class Program:
    """A program of nested calls, which it reports to the tree as DSPy's callback does."""

    def __init__(self) -> None:
        self.tree = CallTree()
        self.active: contextvars.ContextVar[str | None] = contextvars.ContextVar("active", default=None)
        self.tree.current = self.active.get
        self.count = 0

    def calls(self, name: str, *, is_cell: bool = False, reported: bool = True) -> AbstractContextManager[None]:
        @contextlib.contextmanager
        def call() -> Iterator[None]:
            if reported:
                self.tree.call_started(name, is_cell=is_cell)
            before = self.active.get()
            self.active.set(name)
            yield
            self.active.set(before)
            if reported:
                self.tree.call_ended(name)

        return call()

    def asks(self, what: str, within: tuple[Any, ...] = ()) -> None:
        """Call a model with the request ``what``."""
        self.count += 1
        with self.calls(f"lm-{self.count}"):
            moment = datetime.now(timezone.utc)
            self.tree.add_lm_call(
                CompletedLMCall(
                    f"lm-{self.count}", moment, 0.1, [what.encode()], None, None, "", enclosing_calls=within
                )
            )

    def thinks(self, what: str) -> None:
        """Call a predictor, which calls a model and returns its reasoning."""
        self.count += 1
        name = f"predict-{self.count}"
        with self.calls(name):
            self.asks(what)
            self.tree.add_reasoning(name, what)


@pytest.fixture
def program() -> Program:
    return Program()


def texts(reasoning: Reasoning) -> list[str]:
    """Return the requests of the model's calls."""
    return [bytes(call.request[0]).decode() for call in reasoning.lm_calls]


def test_a_cell_gets_what_led_to_it(program: Program) -> None:
    """A cell gets the model's calls and reasoning since the last cell, once."""
    owner = Owner()
    with program.calls("rlm"):
        for what in ("one", "two"):
            program.thinks(what)
            with program.calls(f"cell-{what}", is_cell=True):
                reasoning = program.tree.begin_cell(owner)
            assert (texts(reasoning), reasoning.reasoning) == ([what], what)
        program.thinks("extract")
    assert [(texts(reasoning), reasoning.reasoning) for reasoning in owner.received] == [(["extract"], "extract")]


def test_modules_side_by_side_do_not_mix(program: Program) -> None:
    """With two interleaved modules in contexts of their own, each cell gets the calls of its module."""
    contexts = {name: contextvars.copy_context() for name in "ab"}
    owners = {name: Owner() for name in "ab"}
    steps = {name: iter(_module(program, name, owners[name])) for name in "ab"}
    received: dict[str, list[Any]] = {"a": [], "b": []}
    for _ in range(4):
        for name in "ab":
            received[name].append(contexts[name].run(next, steps[name], None))
    for name in "ab":
        assert [texts(reasoning) for reasoning in received[name] if reasoning] == [[f"{name}0"], [f"{name}1"]]


def _module(program: Program, name: str, owner: Owner) -> Iterator[Reasoning | None]:
    with program.calls(f"rlm-{name}"):
        for number in range(2):
            program.thinks(f"{name}{number}")
            yield None
            yield program.tree.begin_cell(owner)


def test_a_module_within_a_cell(program: Program) -> None:
    """The calls of a nested module belong to its own cells and not to the enclosing cell."""
    outer, inner = Owner(), Owner()
    around = (SimpleNamespace(owner=outer),)
    with program.calls("rlm"):
        program.thinks("outer one")
        with program.calls("cell", is_cell=True):
            assert texts(program.tree.begin_cell(outer)) == ["outer one"]
            with program.calls("tool"), program.calls("inner rlm"):
                program.asks("inner one", within=around)
                with program.calls("inner cell", is_cell=True):
                    assert texts(program.tree.begin_cell(inner)) == ["inner one"]
                program.asks("inner two", within=around)
            assert [texts(reasoning) for reasoning in inner.received] == [["inner two"]]
            with program.calls("tool again"):
                program.asks("a sub-model", within=around)
        program.thinks("outer two")
        with program.calls("next cell", is_cell=True):
            assert texts(program.tree.begin_cell(outer)) == ["outer two"]


def test_a_module_that_began_unseen(program: Program) -> None:
    """A scope stands for a module that started before the callback was attached."""
    owner = Owner()
    scope = program.tree.enter()
    program.thinks("one")
    assert texts(program.tree.begin_cell(owner)) == ["one"]
    program.thinks("two")
    program.tree.leave(scope)
    assert [texts(reasoning) for reasoning in owner.received] == [["two"]]
    assert program.tree.current_id() is None

    with program.calls("unknown", reported=False):
        scope = program.tree.enter()
        program.thinks("three")
        assert texts(program.tree.begin_cell(owner)) == ["three"]
        program.tree.leave(scope)


def test_nothing_stays_behind(program: Program) -> None:
    """Calls that no session claims are dropped when the enclosing call ends."""
    owner = Owner()
    for number in range(5):
        with program.calls(f"rlm-{number}", reported=number % 2 == 0):
            scope = program.tree.enter()
            program.thinks("unclaimed")
            program.tree.leave(scope)
    with program.calls("rlm"):
        program.thinks("claimed")
        program.tree.begin_cell(owner)
        program.thinks("left")
        assert [bytes(call.request[0]) for call in program.tree.end_session(owner)] == [b"left"]
    assert len(program.tree) == 0
