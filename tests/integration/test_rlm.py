"""dspy.RLM on KernelInterpreter: the user's own line, on every DSPy that this environment may hold."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dspy
import pytest
from dspy.primitives.code_interpreter import CodeInterpreterError

from daytona_kernel_interp import KernelInterpreter
from daytona_kernel_interp.demo.script import ScriptedStep, rule_based_lm, scripted_lm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.dspy

PROJECT = Path(__file__).resolve().parents[2]
RLM: Any = dspy.RLM  # its types know the keyword on some versions only
_PARAMETERS = inspect.signature(dspy.RLM.__init__).parameters
LIMIT = "max_iters" if "max_iters" in _PARAMETERS else "max_iterations"
TAKES_FACTORY = "interpreter_factory" in _PARAMETERS


@pytest.fixture(scope="module")
def interp() -> Iterator[KernelInterpreter]:
    with KernelInterpreter(sandbox="local") as interpreter:
        yield interpreter


class Extracted(ScriptedStep):
    """What DSPy's extract step asks for: the output field ``a``, here kept as the reasoning."""

    def completion(self) -> str:
        return f"[[ ## a ## ]]\n{self.reasoning}\n\n[[ ## completed ## ]]"


def run(signature: str, steps: list[ScriptedStep], interpreter: Any, inputs: dict[str, Any], **options: Any) -> Any:
    """Run an RLM whose model says ``steps`` and return its prediction."""
    options.setdefault("sub_lm", rule_based_lm("echo", lambda prompt: f"echo {prompt}"))
    rlm = RLM(signature, interpreter=interpreter, **options)
    with dspy.context(lm=scripted_lm(steps)):
        return rlm(**inputs)


def outputs(result: Any) -> list[str]:
    return [step["output"] for step in result.trajectory]


def test_the_users_line_runs_to_its_answer(interp: KernelInterpreter) -> None:
    """Inputs, sub-model, batched sub-model under a wrong keyword, host tool, an error survived, a typed answer."""

    def look(key: str, default: str = "none") -> str:
        """Look a key up."""
        return {"a": "1"}.get(key, default)

    result = run(
        "text -> answer: str, n: int",
        [
            ScriptedStep("Look.", "print(len(text)); first = llm_query('hi')"),
            ScriptedStep(
                "Ask.", "print(first, llm_query_batched(queries=['a', 'b']), look('a'), look('b', default='d'))"
            ),
            ScriptedStep("Err.", "print('kept'); undefined"),
            ScriptedStep("Answer.", "SUBMIT(first, n='3')"),
        ],
        interp,
        {"text": "x" * 50_000},
        tools=[look],
    )
    assert (result.answer, result.n) == ("echo hi", 3)
    shown = outputs(result)
    assert shown[0] == "50000\n"
    assert shown[1] == "echo hi ['echo a', 'echo b'] 1 d\n"
    assert shown[2].startswith("[Error] NameError: name 'undefined' is not defined")
    assert "kept" in shown[2]


def test_the_interpreter_stays_the_callers(interp: KernelInterpreter) -> None:
    """After a run it is not shut down, its variables are there, and a second run finds them."""
    run("q -> a", [ScriptedStep("Keep.", "kept = q.upper(); SUBMIT(kept)")], interp, {"q": "x"})
    assert interp.execute("kept") == "X"
    result = run("q -> b: int", [ScriptedStep("Use.", "SUBMIT(b=len(kept))")], interp, {"q": "y"})
    assert result.b == 1


def test_a_wrong_type_gets_another_try(interp: KernelInterpreter) -> None:
    """What DSPy cannot convert comes back to the model as a type error, and the next SUBMIT counts."""
    steps = [ScriptedStep("Wrong.", "SUBMIT(n='not a number')"), ScriptedStep("Right.", "SUBMIT(n=5)")]
    result = run("q -> n: int", steps, interp, {"q": "x"})
    assert result.n == 5
    assert "[Type Error]" in outputs(result)[0]


def test_without_submit_the_extract_step_answers(interp: KernelInterpreter) -> None:
    """An RLM that never submits ends in DSPy's own extraction."""
    steps = [ScriptedStep("Look.", "print(1)"), ScriptedStep("Look.", "print(2)"), Extracted("from the trajectory", "")]
    result = run("q -> a", steps, interp, {"q": "x"}, **{LIMIT: 2})
    assert result.a == "from the trajectory"


def test_inputs_are_fresh_at_each_step(interp: KernelInterpreter) -> None:
    """What code did to an input is gone at the next step, as DSPy means it."""
    steps = [ScriptedStep("Change.", "items.append(9); print(items)"), ScriptedStep("Answer.", "SUBMIT(n=len(items))")]
    assert run("items: list[int] -> n: int", steps, interp, {"items": [1, 2]}).n == 2


def test_the_callers_context_reaches_llm_query(interp: KernelInterpreter) -> None:
    """Without sub_lm, llm_query asks the LM of dspy.context, in whichever thread it runs."""
    script = scripted_lm([ScriptedStep("Ask.", "SUBMIT(llm_query('which?'))")])

    def answer(prompt: str) -> str:
        return "the context's" if prompt == "which?" else str(script(prompt)[0])

    rlm = RLM("q -> a", interpreter=interp)
    with dspy.context(lm=rule_based_lm("context", answer)):
        assert rlm(q="x").a == "the context's"


async def test_the_async_path_works(interp: KernelInterpreter) -> None:
    """acall runs to its answer, async tools included."""

    async def fetch(key: str) -> str:
        return key * 2

    rlm = RLM("q -> a", interpreter=interp, tools=[fetch])
    with dspy.context(lm=scripted_lm([ScriptedStep("Fetch.", "SUBMIT(await fetch.aio('a') + fetch('b'))")])):
        assert (await rlm.acall(q="x")).a == "aabb"


def test_a_dead_kernel_ends_the_run_with_its_name(interp: KernelInterpreter) -> None:
    """The model is not left to work on in a session that is over."""
    steps = [
        ScriptedStep("Die.", "import os; os._exit(1)"),
        ScriptedStep("Go on.", "SUBMIT('x')"),
        Extracted("made up", ""),
    ]
    if not TAKES_FACTORY:
        pytest.skip("DSPy before 3.3 goes on after every CodeInterpreterError")
    with KernelInterpreter(sandbox="local") as own, pytest.raises(CodeInterpreterError, match="all variables are lost"):
        run("q -> a", steps, own, {"q": "x"}, **{LIMIT: 2})


@pytest.mark.skipif(not TAKES_FACTORY, reason="DSPy before 3.3 takes no factory")
def test_the_class_is_a_factory(monkeypatch: pytest.MonkeyPatch) -> None:
    """DSPy's own spelling works beside ours; each run gets a kernel and ends it."""
    monkeypatch.setenv("DAYTONA_KERNEL_SANDBOX", "local")
    rlm = RLM("q -> a", interpreter_factory=KernelInterpreter)
    with dspy.context(lm=scripted_lm([ScriptedStep("Answer.", "SUBMIT(q + '!')")])):
        assert rlm(q="x").a == "x!"


@pytest.mark.skipif(not TAKES_FACTORY, reason="DSPy before 3.3 has the keyword itself")
def test_a_run_takes_its_tools_out_again(interp: KernelInterpreter) -> None:
    """What RLM put into the lent interpreter is gone when it comes back."""
    interp.tools["mine"] = lambda: 1
    try:
        run("q -> a", [ScriptedStep("Answer.", "SUBMIT(str(mine()))")], interp, {"q": "x"})
        assert list(interp.tools) == ["mine"]
        assert interp.output_fields is None
    finally:
        interp.tools.clear()


def test_an_interpreter_in_use_lends_a_fresh_one(interp: KernelInterpreter) -> None:
    """An RLM run by a tool of an RLM on the same interpreter gets a kernel of its own, not a deadlock."""
    if not TAKES_FACTORY:
        pytest.skip("DSPy before 3.3 has the keyword itself")

    def inner(question: str) -> str:
        nested = RLM("q -> a", interpreter_factory=outer_factory)
        with dspy.context(lm=scripted_lm([ScriptedStep("Inner.", "SUBMIT(q + ' inside')")])):
            return str(nested(q=question).a)

    rlm = RLM("q -> a", interpreter=interp, tools=[inner])
    outer_factory: Callable[[], Any] = rlm._interpreter_factory
    with dspy.context(lm=scripted_lm([ScriptedStep("Outer.", "SUBMIT(inner(q))")])):
        assert rlm(q="x").a == "x inside"


@pytest.mark.skipif(not TAKES_FACTORY, reason="DSPy before 3.3 has the keyword itself")
@pytest.mark.parametrize("wrong", [KernelInterpreter, "local", 5])
def test_the_keyword_takes_an_object(wrong: Any) -> None:
    """A class or a name is refused with what to pass instead."""
    with pytest.raises(TypeError, match=r"interpreter= takes an interpreter object such as KernelInterpreter\(\)"):
        RLM("q -> a", interpreter=wrong)


@pytest.mark.skipif(not TAKES_FACTORY, reason="DSPy before 3.3 has the keyword itself")
@pytest.mark.parametrize(("switch", "works"), [("", True), ("off", False)])
def test_the_keyword_has_an_off_switch(switch: str, works: bool) -> None:
    """With the variable set to off, dspy.RLM is as DSPy ships it."""
    script = """
        import dspy
        from daytona_kernel_interp import KernelInterpreter
        try:
            dspy.RLM("q -> a", interpreter=KernelInterpreter(sandbox="local"))
            print(True)
        except TypeError:
            print(False)
        """
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "DAYTONA_KERNEL_RLM_KEYWORD": switch}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip() == str(works)
