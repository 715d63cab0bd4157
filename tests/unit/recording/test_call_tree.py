"""The tree of DSPy's calls: whose model said what, however calls nest and run side by side."""

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
    """A recorder's part: what it was told."""

    def __init__(self) -> None:
        self.told: list[Reasoning] = []

    def add_reasoning(self, thought: Reasoning) -> None:
        self.told.append(thought)


class Program:
    """What DSPy does: calls within calls, each told to the tree as the callback would."""

    def __init__(self) -> None:
        self.tree = CallTree()
        self.active: contextvars.ContextVar[str | None] = contextvars.ContextVar("active", default=None)
        self.tree.current = self.active.get
        self.count = 0

    def calls(self, name: str, *, is_cell: bool = False, told: bool = True) -> AbstractContextManager[None]:
        @contextlib.contextmanager
        def call() -> Iterator[None]:
            if told:
                self.tree.call_started(name, is_cell=is_cell)
            before = self.active.get()
            self.active.set(name)
            yield
            self.active.set(before)
            if told:
                self.tree.call_ended(name)

        return call()

    def asks(self, what: str, within: tuple[Any, ...] = ()) -> None:
        """Ask a model, which answers ``what``."""
        self.count += 1
        with self.calls(f"lm-{self.count}"):
            moment = datetime.now(timezone.utc)
            self.tree.add_lm_call(
                CompletedLMCall(
                    f"lm-{self.count}", moment, 0.1, [what.encode()], None, None, "", enclosing_calls=within
                )
            )

    def thinks(self, what: str) -> None:
        """Have a predictor ask a model, and give its reasoning."""
        self.count += 1
        name = f"predict-{self.count}"
        with self.calls(name):
            self.asks(what)
            self.tree.add_reasoning(name, what)


@pytest.fixture
def program() -> Program:
    return Program()


def texts(thought: Reasoning) -> list[str]:
    return [bytes(said.request[0]).decode() for said in thought.lm_calls]


def test_a_cell_gets_what_led_to_it(program: Program) -> None:
    """The answer and reasoning since the last cell, once."""
    owner = Owner()
    with program.calls("rlm"):
        for what in ("one", "two"):
            program.thinks(what)
            with program.calls(f"cell-{what}", is_cell=True):
                thought = program.tree.begin_cell(owner)
            assert (texts(thought), thought.reasoning) == ([what], what)
        program.thinks("extract")
    assert [(texts(thought), thought.reasoning) for thought in owner.told] == [(["extract"], "extract")]


def test_modules_side_by_side_do_not_mix(program: Program) -> None:
    """Two modules under one program, interleaved in contexts of their own: each cell gets its own module's."""
    contexts = {name: contextvars.copy_context() for name in "ab"}
    owners = {name: Owner() for name in "ab"}
    steps = {name: iter(_module(program, name, owners[name])) for name in "ab"}
    thoughts: dict[str, list[Any]] = {"a": [], "b": []}
    for _ in range(4):
        for name in "ab":
            thoughts[name].append(contexts[name].run(next, steps[name], None))
    for name in "ab":
        assert [texts(thought) for thought in thoughts[name] if thought] == [[f"{name}0"], [f"{name}1"]]


def _module(program: Program, name: str, owner: Owner) -> Iterator[Reasoning | None]:
    with program.calls(f"rlm-{name}"):
        for number in range(2):
            program.thinks(f"{name}{number}")
            yield None
            yield program.tree.begin_cell(owner)


def test_a_module_within_a_cell(program: Program) -> None:
    """What a nested module's model says is its own cell's, not that of the cell around it."""
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
            assert [texts(thought) for thought in inner.told] == [["inner two"]]
            with program.calls("tool again"):
                program.asks("a sub-model", within=around)
        program.thinks("outer two")
        with program.calls("next cell", is_cell=True):
            assert texts(program.tree.begin_cell(outer)) == ["outer two"]


def test_a_module_that_began_unseen(program: Program) -> None:
    """The callback came with the interpreter, after the module's start: a scope stands for the module."""
    owner = Owner()
    scope = program.tree.enter()
    program.thinks("one")
    assert texts(program.tree.begin_cell(owner)) == ["one"]
    program.thinks("two")
    program.tree.leave(scope)
    assert [texts(thought) for thought in owner.told] == [["two"]]
    assert program.tree.current_id() is None

    with program.calls("unknown", told=False):
        scope = program.tree.enter()
        program.thinks("three")
        assert texts(program.tree.begin_cell(owner)) == ["three"]
        program.tree.leave(scope)


def test_nothing_stays_behind(program: Program) -> None:
    """What no session asks for is forgotten with the call that it was said in."""
    owner = Owner()
    for number in range(5):
        with program.calls(f"rlm-{number}", told=number % 2 == 0):
            scope = program.tree.enter()
            program.thinks("unheard")
            program.tree.leave(scope)
    with program.calls("rlm"):
        program.thinks("heard")
        program.tree.begin_cell(owner)
        program.thinks("left")
        assert [bytes(said.request[0]) for said in program.tree.end_session(owner)] == [b"left"]
    assert len(program.tree) == 0
