"""When ``RLM.acall`` is wrapped; what the wrappers do is tested with kernels."""

from __future__ import annotations

from typing import Any

import pytest

dspy = pytest.importorskip("dspy")

from daytona_kernel_interp.interpreter import rlm_async  # noqa: E402  (imports dspy)
from daytona_kernel_interp.interpreter.rlm_async import DeferredExecution, DeferringInterpreter, install_async  # noqa: E402

pytestmark = pytest.mark.dspy


class ExpectedRLM:
    """The methods of ``dspy.RLM`` that are wrapped."""

    async def aforward(self, **input_args: Any) -> Any: ...

    async def _aexecute_iteration(self, repl: Any, *rest: Any) -> Any: ...

    def _execute_code(self, repl: Any, code: str, input_args: Any) -> Any: ...

    def _process_execution_result(
        self, pred: Any, code: str, result: Any, history: Any, output_field_names: Any
    ) -> Any: ...


def other(self: Any, *arguments: Any) -> Any: ...


async def aother(self: Any, something: Any) -> Any: ...


def rlm(**changes: Any) -> Any:
    """Return a fresh class with other methods in the place of some."""
    methods = {name: value for name, value in vars(ExpectedRLM).items() if callable(value)}
    return type("RLM", (), {**methods, **changes})


def test_the_expected_methods_are_wrapped_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call changes nothing."""
    monkeypatch.delenv("DAYTONA_KERNEL_RLM_KEYWORD", raising=False)
    monkeypatch.setattr(dspy, "RLM", rlm())
    monkeypatch.setattr(rlm_async, "REOPENS", True)
    assert install_async() is False  # as before DSPy 3.3
    monkeypatch.setattr(rlm_async, "REOPENS", False)
    assert install_async() is True
    wrapped = dspy.RLM._aexecute_iteration
    assert install_async() is False
    assert dspy.RLM._aexecute_iteration is wrapped


@pytest.mark.parametrize(
    "changes",
    [
        {"_aexecute_iteration": other},
        {"_aexecute_iteration": aother},
        {"_execute_code": other},
        {"_execute_code": None},
        {"_process_execution_result": other},
        {"aforward": other},
    ],
    ids=range(6),
)
def test_other_methods_are_left_alone(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    """A version of DSPy with other parameters keeps its own behaviour."""
    monkeypatch.delenv("DAYTONA_KERNEL_RLM_KEYWORD", raising=False)
    fresh = rlm(**changes)
    monkeypatch.setattr(dspy, "RLM", fresh)
    before = dict(vars(fresh))
    assert install_async() is False
    assert dict(vars(fresh)) == before


def test_the_switch_leaves_dspy_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the environment variable off, RLM is not changed."""
    monkeypatch.setenv("DAYTONA_KERNEL_RLM_KEYWORD", "off")
    monkeypatch.setattr(dspy, "RLM", rlm())
    assert install_async() is False


def test_the_installed_version_is_wrapped() -> None:
    """An upgrade of DSPy that changes these methods fails here."""
    install_async()
    if tuple(map(int, dspy.__version__.split(".")[:2])) >= (3, 3):
        assert getattr(dspy.RLM._aexecute_iteration, rlm_async._WRAPPED, False)


def test_a_deferring_interpreter_runs_nothing() -> None:
    """It returns a note, and has the attributes of the interpreter."""

    class Interpreter:
        def __init__(self) -> None:
            self.tools = {"f": len}

        def execute(self, code: str, variables: Any = None) -> Any:
            raise AssertionError("nothing runs yet")

    deferring = DeferringInterpreter(Interpreter())
    assert deferring.execute("1", {"a": 2}) == DeferredExecution("1", {"a": 2})
    assert deferring.tools == {"f": len}
