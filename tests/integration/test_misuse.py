"""Every wrong use raises its class with one sentence, and neither starts nor ends anything."""

from __future__ import annotations

import importlib
import inspect
import threading
from typing import TYPE_CHECKING, Any

import pytest

from daytona_kernel_interp import KernelInterpreter
from daytona_kernel_interp.interpreter.interpreter import CodeExecutionError, CodeInterpreterError

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.dspy

dspy: Any = importlib.import_module("dspy")
TAKES_FACTORY = "interpreter_factory" in inspect.signature(dspy.RLM.__init__).parameters


@pytest.fixture(scope="module")
def interp() -> Iterator[KernelInterpreter]:
    with KernelInterpreter(sandbox="local") as interpreter:
        interpreter.execute("kept = 'kept'")
        yield interpreter
        assert interpreter.execute("kept") == "kept"


def endless() -> list[Any]:
    """Return a list that contains itself."""
    found: list[Any] = []
    found.append(found)
    return found


BAD_CALLS: dict[str, tuple[dict[str, Any], str]] = {
    "code is bytes": ({"code": b"1"}, "code must be a str, not bytes."),
    "code is None": ({"code": None}, "code must be a str, not NoneType."),
    "variables are a list": ({"variables": [1]}, "variables must be a dict of names and values, not list."),
    "a name is no identifier": ({"variables": {"a b": 1}}, "Invalid variable name: 'a b'. It must be a Python id"),
    "a name is a keyword": ({"variables": {"class": 1}}, "Invalid variable name: 'class'. It must be a Python id"),
    "a name is no text": ({"variables": {5: 1}}, "Invalid variable name: 5. It must be a Python identifier."),
    "a value is of no known type": (
        {"variables": {"v": {"deep": [print]}}},
        "Variable 'v' cannot be sent to the kernel: Unsupported value type: builtin_function_or_method",
    ),
    "a value contains itself": (
        {"variables": {"v": endless()}},
        "Variable 'v' cannot be sent",
    ),
    "a __dspy_ value is no JSON": ({"variables": {"__dspy_v": object()}}, "Variable '__dspy_v' cannot be sent"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
async def test_a_call_that_is_wrong(interp: KernelInterpreter, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It raises the class that ends a run of DSPy; the session goes on, and a fresh interpreter does not start."""
    arguments, says = BAD_CALLS[name]
    arguments = {"code": "1", **arguments}
    monkeypatch.setenv("DAYTONA_KERNEL_SANDBOX", "nowhere")
    unstarted = KernelInterpreter()  # starting it would raise another error
    for call in (interp.execute, unstarted.execute):
        with pytest.raises(CodeInterpreterError) as caught:
            call(**arguments)
        assert str(caught.value).startswith(says)
        assert "\n" not in str(caught.value)
        if CodeExecutionError is not CodeInterpreterError:
            assert not isinstance(caught.value, CodeExecutionError)
    with pytest.raises(CodeInterpreterError) as caught:
        await interp.aexecute(**arguments)
    assert str(caught.value).startswith(says)


BAD_SETTINGS: dict[str, tuple[str, Any, str]] = {
    "tools are a list": ("tools", [print], "tools must be a dict of names and functions, not list."),
    "a tool's name is none": ("tools", {"a b": print}, "Invalid tool name 'a b': a tool is called by its name, so it"),
    "a tool is no function": ("tools", {"t": 5}, "Tool 't' is not callable: pass a function, not int."),
    "fields are a dict": ("output_fields", {"name": "a"}, "output_fields must be a list of fields or None, not dict."),
    "a field is a text": (
        "output_fields",
        ["a"],
        'An output field is {"name": str, "type": str}, "type" optional; not',
    ),
    "a field has no name": (
        "output_fields",
        [{"type": "str"}],
        'An output field is {"name": str, "type": str}, "type"',
    ),
    "two fields are one": ("output_fields", [{"name": "a"}, {"name": "a"}], "Two output fields are called 'a'."),
    "the timeout is nought": ("execution_timeout", 0, "execution_timeout must be a positive number or None, not 0."),
    "the timeout is a text": (
        "execution_timeout",
        "5",
        "execution_timeout must be a positive number or None, not '5'.",
    ),
    "the limit is negative": ("max_output_chars", -1, "max_output_chars must be a positive integer or None, not -1."),
}


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_a_setting_that_is_wrong(interp: KernelInterpreter, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings may change between calls, so each call checks them; with a correct setting the next call works."""
    setting, value, says = BAD_SETTINGS[name]
    with monkeypatch.context() as patch:
        patch.setattr(interp, setting, value)
        with pytest.raises(CodeInterpreterError) as caught:
            interp.execute("1")
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)
    assert interp.execute("1 + 1") == 2


def test_a_value_beyond_the_limit() -> None:
    """The error names the limit, in both directions."""
    with KernelInterpreter({"t": len}, sandbox="local", max_value_bytes=1000) as interpreter:
        with pytest.raises(CodeInterpreterError, match=r"^Variable 'v' cannot be sent to the kernel: .*1,?000"):
            interpreter.execute("1", {"v": "x" * 2000})
        with pytest.raises(
            CodeExecutionError, match=r"TypeError: t\(\) cannot send this argument to the host: .*1,?000"
        ):
            interpreter.execute("t('x' * 2000)")
        with pytest.raises(CodeExecutionError, match=r"TypeError: SUBMIT\(\) cannot send this answer: .*1,?000"):
            interpreter.execute("SUBMIT('x' * 2000)")


def test_the_constructor_names_a_wrong_argument() -> None:
    """It checks its arguments; test_options.py has the complete list."""
    with pytest.raises(TypeError, match="tools must be a dict of names and functions, not list"):
        KernelInterpreter([print])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="timeout"):
        KernelInterpreter(timeout=5)  # type: ignore[arg-type]


def test_nothing_runs_where_something_must() -> None:
    """Properties and calls that need a session say so before one was started."""
    interpreter = KernelInterpreter(sandbox="local")
    for fact, says in (("session_id", "There is no session"), ("connection_file", "There is no kernel")):
        with pytest.raises(CodeInterpreterError, match=rf"^{says}.*: call start\(\) first\.$"):
            getattr(interpreter, fact)
    with pytest.raises(CodeInterpreterError, match=r"resume\(\) is for an interpreter from attach\(\)"):
        interpreter.resume()
    with pytest.raises(CodeInterpreterError, match="nosuch"):
        KernelInterpreter.attach("nosuch")


def test_two_calls_at_once(interp: KernelInterpreter) -> None:
    """A second call, from another thread, is refused; the first one gets its result."""
    inside, release = threading.Event(), threading.Event()

    def hold() -> None:
        inside.set()
        release.wait(20)

    interp.tools["hold"] = hold
    thread = threading.Thread(target=interp.execute, args=("hold()",))
    thread.start()
    inside.wait(20)
    try:
        for call in (lambda: interp.execute("1"), interp.start):
            with pytest.raises(
                CodeInterpreterError, match="while another call runs: one interpreter runs one cell at a"
            ):
                call()
    finally:
        release.set()
        thread.join()
        interp.tools.clear()


TOOL_CALLS = {
    "an argument too many": ("t(1, 2, 3)", r"TypeError: t\(\) too many positional arguments. Signature: t\(a, b=2\)"),
    "an argument missing": ("t()", r"TypeError: t\(\) missing a required argument: 'a'. Signature: t\(a, b=2\)"),
    "an unknown keyword": ("t(1, bb=2)", r"TypeError: t\(\) .*'bb'; did you mean 'b'\?. Signature: t\(a, b=2\)"),
    "an argument twice": ("t(1, a=2)", r"TypeError: t\(\) multiple values for argument 'a'. Signature: t\(a, b=2\)"),
    "an argument of no known type": (
        "t(object())",
        r"TypeError: t\(\) cannot send this argument to the host: .*object",
    ),
    "SUBMIT without a field": (
        "SUBMIT()",
        r"TypeError: SUBMIT\(\) is missing 'answer'. Expected: SUBMIT\(answer: str\)",
    ),
    "SUBMIT with too many": (
        "SUBMIT(1, 2)",
        r"TypeError: SUBMIT\(\) takes 1 values but 2 were given. Expected: SUBMIT",
    ),
    "SUBMIT with another": (
        "SUBMIT(anser=1)",
        r"TypeError: SUBMIT\(\) has no field 'anser' \(did you mean 'answer'\?\)",
    ),
    "SUBMIT twice the same": (
        "SUBMIT(1, answer=2)",
        r"TypeError: SUBMIT\(\) got field 'answer' twice. Expected: SUBMIT",
    ),
    "SUBMIT of what cannot be sent": ("SUBMIT(object())", r"TypeError: SUBMIT\(\) cannot send this answer: .*object"),
}


@pytest.mark.parametrize("name", TOOL_CALLS)
def test_a_wrong_call_in_the_cell(interp: KernelInterpreter, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It raises an error of the model's code, which the model can correct, with the expected signature."""
    code, says = TOOL_CALLS[name]
    monkeypatch.setattr(interp, "output_fields", [{"name": "answer", "type": "str"}])
    monkeypatch.setitem(interp.tools, "t", lambda a, b=2: a)
    with pytest.raises(CodeExecutionError, match=rf"^{says}"):
        interp.execute(code)


@pytest.mark.skipif(not TAKES_FACTORY, reason="DSPy before 3.3 takes no factory")
def test_an_interpreter_is_no_factory(interp: KernelInterpreter) -> None:
    """DSPy refuses an interpreter where a factory is expected."""
    with pytest.raises(TypeError, match="interpreter_factory"):
        dspy.RLM("q -> a", interpreter_factory=interp)
