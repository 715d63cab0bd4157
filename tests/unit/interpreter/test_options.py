"""Options of the constructor: each wrong one is refused in one sentence, and nothing starts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dspy")

from daytona_kernel_interp import KernelInterpreter, LocalSandbox
from daytona_kernel_interp.interpreter.interpreter import OPTION_NAMES
from daytona_kernel_interp.interpreter.options import InterpreterOptions

pytestmark = pytest.mark.dspy

WRONG: list[tuple[str, Any, type[Exception], str]] = [
    ("execution_timeout", 0, ValueError, "execution_timeout must be a positive number or None, not 0."),
    ("execution_timeout", -1.5, ValueError, "execution_timeout must be a positive number or None, not -1.5."),
    ("execution_timeout", float("nan"), ValueError, "execution_timeout must be a positive number or None, not nan."),
    ("execution_timeout", "5", TypeError, "execution_timeout must be a positive number or None, not '5'."),
    ("execution_timeout", True, TypeError, "execution_timeout must be a positive number or None, not True."),
    ("max_output_chars", 0, ValueError, "max_output_chars must be a positive integer or None, not 0."),
    ("max_output_chars", 1.5, TypeError, "max_output_chars must be a positive integer or None, not 1.5."),
    ("max_value_bytes", -1, ValueError, "max_value_bytes must be a positive integer or None, not -1."),
    ("max_value_bytes", "1 MB", TypeError, "max_value_bytes must be a positive integer or None, not '1 MB'."),
    ("output_fields", {"name": "a"}, TypeError, "output_fields must be a list of fields or None, not dict."),
    ("output_fields", ["a"], TypeError, 'An output field is {"name": str, "type": str}, "type" optional; not \'a\'.'),
    ("output_fields", [{"type": "str"}], TypeError, "An output field is"),
    ("output_fields", [{"name": "a"}, {"name": "a"}], ValueError, "Two output fields are called 'a'."),
    ("tools", [print], TypeError, "tools must be a dict of names and functions, not list."),
    ("tools", {"two words": print}, ValueError, "Invalid tool name 'two words': a tool is called by its name"),
    ("tools", {"class": print}, ValueError, "Invalid tool name 'class'"),
    ("tools", {"five": 5}, TypeError, "Tool 'five' is not callable: pass a function, not int."),
    ("sandbox", "dayton", ValueError, "There is no sandbox 'dayton'; did you mean 'daytona'?"),
    ("sandbox", "Local", ValueError, "There is no sandbox 'Local'; did you mean 'local'?"),
    ("sandbox", "moon", ValueError, "There is no sandbox 'moon'; pass 'daytona' or 'local', or a description."),
    ("sandbox", 5, TypeError, "sandbox must be 'daytona' or 'local', or a description such as DaytonaSandbox() or"),
    ("sandbox", LocalSandbox, TypeError, "sandbox must be 'daytona' or 'local', or a description such as"),
    ("record", 5, TypeError, "record must be the path of a notebook or None, not int."),
    ("record", "", ValueError, "record must be the path of a notebook, not ''."),
    ("record", Path("/"), ValueError, "record must be the path of a notebook, not '/'."),
    ("on_output", "print", TypeError, "on_output must be a function that takes an output, or None, not 'print'."),
    ("callbacks", 5, TypeError, "callbacks must be a list of DSPy callbacks or None, not int."),
]


@pytest.mark.parametrize("build", [KernelInterpreter, KernelInterpreter.factory], ids=["constructor", "factory"])
@pytest.mark.parametrize(
    ("option", "value", "error", "text"), WRONG, ids=[f"{option}={value!r}" for option, value, _, _ in WRONG]
)
def test_a_wrong_option_is_refused(build: Any, option: str, value: Any, error: type[Exception], text: str) -> None:
    """The class says whether type or value is wrong; the text is one sentence."""
    with pytest.raises((TypeError, ValueError)) as caught:
        build(**{option: value})
    assert type(caught.value) is error
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


UNKNOWN = {
    "sandbox_params": "describe the sandbox with sandbox=DaytonaSandbox(...).",
    "max_retries": "a cell is never run twice; sandbox=DaytonaSandbox(resume_lifetime=...) says how long",
    "retry_delay": "a lost link is resumed at once",
    "max_concurrent_tool_calls": "tool calls run side by side without an option.",
    "tool_claim_lease_seconds": "a tool call has no time limit of its own; execution_timeout limits the cell.",
    "timeout": "the limit of one cell is execution_timeout=.",
    "api_key": "set DAYTONA_API_KEY in the environment or in .env.",
    "snapshot": "it belongs to the sandbox, sandbox=DaytonaSandbox(snapshot=...).",
    "executon_timeout": "did you mean 'execution_timeout'?",
    "zzz": "Options: tools, output_fields, sandbox, execution_timeout, max_output_chars, max_value_bytes, record, on_",
}


@pytest.mark.parametrize("option", UNKNOWN)
def test_an_unknown_option_is_refused_with_its_replacement(option: str) -> None:
    """Options of the DaytonaInterpreter in Daytona's guide, of the sandbox, and misspelled ones."""
    with pytest.raises(TypeError) as caught:
        KernelInterpreter(**{option: 5})  # type: ignore[arg-type]
    assert f"KernelInterpreter() has no option {option!r}" in str(caught.value)
    assert UNKNOWN[option] in str(caught.value)


@pytest.mark.parametrize("call", [partial(KernelInterpreter.attach, "id"), KernelInterpreter.factory])
def test_every_way_to_an_interpreter_refuses_it(call: Any) -> None:
    """``attach`` and ``factory`` take the constructor's options."""
    with pytest.raises(TypeError, match="KernelInterpreter\\(\\) has no option 'max_retries'"):
        call(max_retries=3)


def test_the_list_of_options_is_complete() -> None:
    """The types of ``factory`` and ``attach`` name the constructor's keyword options."""
    assert ("tools", "output_fields", *InterpreterOptions.__annotations__) == OPTION_NAMES


def test_right_options_are_taken() -> None:
    """Limits may be None or large, and a tuple of fields is as good as a list."""
    interpreter = KernelInterpreter(
        {"f": print},
        [{"name": "a", "type": "int"}],
        sandbox=LocalSandbox(),
        execution_timeout=0.5,
        max_output_chars=None,
        max_value_bytes=1,
        callbacks=[],
    )
    assert interpreter.tools == {"f": print}
    assert interpreter.execution_timeout == 0.5
