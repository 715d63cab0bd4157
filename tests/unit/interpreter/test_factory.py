"""``KernelInterpreter.factory``: what DSPy asks of an interpreter factory."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest

dspy: Any = pytest.importorskip("dspy")

from daytona_kernel_interp import KernelInterpreter, LocalSandbox  # noqa: E402  (needs dspy)

pytestmark = pytest.mark.dspy

FIELDS = [{"name": "answer"}]


def search(query: str) -> str:
    """Search the articles."""
    return query


def make() -> Any:
    return KernelInterpreter.factory({"search": search}, FIELDS, sandbox=LocalSandbox(), execution_timeout=5)


def test_each_call_returns_a_new_interpreter() -> None:
    """With the options of the factory; what one does to its tools does not reach the next."""
    factory = make()
    first, second = factory(), factory()
    assert first is not second
    first.tools["more"] = search
    assert second.tools == {"search": search}
    assert (second.output_fields, second.execution_timeout) == (FIELDS, 5)
    assert "more" not in factory().tools


def test_the_instructions_list_the_tools() -> None:
    """A lambda or a partial would have none; a nested run reads them from the factory, too."""
    assert "- `search(query: str)` - Search the articles." in make().execution_instructions
    assert KernelInterpreter.factory().execution_instructions == KernelInterpreter.execution_instructions


def test_it_is_not_an_interpreter() -> None:
    """DSPy refuses a factory that has all four attributes of its protocol."""
    assert not isinstance(make(), dspy.CodeInterpreter)
    assert isinstance(make()(), dspy.CodeInterpreter)


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda factory: pickle.loads(pickle.dumps(factory))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_copies_make_the_same(duplicate: Any) -> None:
    """Programs that hold a factory are copied and saved."""
    copied = duplicate(make())
    assert copied.execution_instructions == make().execution_instructions
    assert copied().execution_timeout == 5


def test_a_subclass_makes_its_own_kind() -> None:
    """The factory belongs to the class that it was asked of."""

    class Own(KernelInterpreter):
        """A subclass."""

    assert type(Own.factory()()) is Own


def test_rlm_takes_it() -> None:
    """Where DSPy (3.3 and later) has the keyword; from 3.3.1 on the action prompt has the instructions."""
    if "interpreter_factory" not in inspect.signature(dspy.RLM.__init__).parameters:
        pytest.skip("DSPy before 3.3 takes no factory")
    rlm = dspy.RLM("question -> answer", interpreter_factory=make())
    if hasattr(dspy.utils.callback.BaseCallback, "on_interpreter_execute_start"):
        assert "- `search(query: str)` - Search the articles." in rlm.generate_action.signature.instructions


def test_settings_take_it() -> None:
    """``dspy.context(interpreter_factory=...)``, DSPy 3.4 and later."""
    if "interpreter_factory" not in inspect.signature(dspy.RLM.forward).parameters:
        pytest.skip("DSPy before 3.4 has no such setting")
    with dspy.context(interpreter_factory=make()):
        rlm = dspy.RLM("question -> answer")
    assert "Search the articles." in rlm.generate_action.signature.instructions
