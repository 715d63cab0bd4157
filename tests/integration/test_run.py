"""``run``: a cell's outputs, value, error, submission and duration as typed values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from daytona_kernel_interp import CellError, CellResult, DisplayData, ExecuteResult, KernelInterpreter, StreamText
from daytona_kernel_interp.interpreter.interpreter import CodeInterpreterError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.dspy


@pytest.fixture(scope="module")
def interp() -> Iterator[KernelInterpreter]:
    with KernelInterpreter(sandbox="local") as interpreter:
        yield interpreter


@pytest.mark.parametrize("value", [0, False, "", [], None, {"a": [1]}, (1, 2)], ids=repr)
def test_a_value_is_itself(interp: KernelInterpreter, value: Any) -> None:
    """Where ``execute`` returns the repr of what RLM would not show, ``run`` returns the value."""
    result = interp.run("v", {"v": value})
    assert isinstance(result, CellResult)
    assert result.value == value
    assert type(result.value) is type(value)
    assert (result.error, result.submission, result.text) == (None, None, "")


def test_outputs_are_typed(interp: KernelInterpreter) -> None:
    """Text, displayed data and the value, in order; the printed text by itself."""
    result = interp.run("print('a'); display('b'); print('c'); 1 + 1")
    kinds = [type(output) for output in result.outputs]
    assert kinds == [StreamText, DisplayData, StreamText, ExecuteResult]
    assert (result.text, result.value) == ("a\nc\n", 2)
    assert 0 < result.duration_s < 60
    assert interp.outputs == list(result.outputs)


@pytest.mark.parametrize(("code", "shown"), [("b'bytes'", "b'bytes'"), ("object", "<class 'object'>")])
def test_a_value_that_json_cannot_carry_is_shown(interp: KernelInterpreter, code: str, shown: str) -> None:
    """Its repr is among the outputs."""
    result = interp.run(code)
    assert result.value is None
    assert [output.data["text/plain"] for output in result.outputs if isinstance(output, ExecuteResult)] == [shown]


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        ("print('before'); 1 / 0", "ZeroDivisionError", "division by zero"),
        ("def f(:", "SyntaxError", "invalid syntax"),
        ("import sys; sys.exit(2)", "SystemExit", "2"),
    ],
)
def test_an_error_is_part_of_the_result(interp: KernelInterpreter, code: str, name: str, message: str) -> None:
    """It is not raised; the session goes on."""
    result = interp.run(code)
    assert isinstance(result.error, CellError)
    assert result.error.name == name
    assert message in result.error.message
    assert result.text == ("before\n" if "before" in code else "")
    assert interp.run("1").value == 1


def test_a_timeout_is_an_error_of_its_own(interp: KernelInterpreter, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the same name as in ``execute``."""
    monkeypatch.setattr(interp, "execution_timeout", 0.5)
    result = interp.run("import time; print('on', flush=True); time.sleep(30)")
    assert result.error is not None
    assert result.error.summary == (
        "TimeoutError: the cell was interrupted after execution_timeout=0.5 s; variables kept"
    )
    assert "time.sleep" in result.error.traceback
    assert result.text == "on\n"


def test_a_submission_has_the_output_fields(interp: KernelInterpreter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dict of names and values; without output fields the one value is called ``output``."""
    assert interp.run("print('a'); SUBMIT(5)").submission == {"output": 5}
    monkeypatch.setattr(interp, "output_fields", [{"name": "a"}, {"name": "b"}])
    result = interp.run("SUBMIT(b=(1, 2), a=0)")
    assert result.submission == {"a": 0, "b": (1, 2)}
    assert (result.error, result.value) == (None, None)


def test_a_wrong_call_raises(interp: KernelInterpreter) -> None:
    """The error is the same as in ``execute``, and nothing is sent."""
    with pytest.raises(CodeInterpreterError, match="code must be a str"):
        interp.run(5)  # type: ignore[arg-type]


def test_a_run_is_recorded_as_execute_would_be(tmp_path: Path) -> None:
    """A replay finds the step, whichever of the two made it."""
    from daytona_kernel_interp import Recording, ReplayInterpreter

    path = tmp_path / "run.ipynb"
    with KernelInterpreter(sandbox="local", record=path) as interpreter:
        interpreter.run("x = 5; print(x)")
        interpreter.run("x / 0")
        interpreter.run("SUBMIT(x)")
    outcomes = [step.outcome for step in Recording.load(path)]
    assert [outcome.kind for outcome in outcomes] == ["returned", "raised", "submitted"]
    replayed = ReplayInterpreter(path)
    assert replayed.execute("x = 5; print(x)") == "5\n"
