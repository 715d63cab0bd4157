"""Programs with an interpreter: copied by optimizers, saved, run in threads, streamed, observed by callbacks."""

from __future__ import annotations

import gc
import importlib
import inspect
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from daytona_kernel_interp import KernelInterpreter
from daytona_kernel_interp.interpreter.interpreter import CodeExecutionError, CodeInterpreterError
from tests.integration.scripts import model

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.dspy,
    # DSPy's own use of what it or its dependencies have deprecated.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:dspy"),
    pytest.mark.filterwarnings("ignore:Passing OpenAI-style message dictionaries:DeprecationWarning"),
]

dspy: Any = importlib.import_module("dspy")  # typed in part only, and differently in each version
TAKES_FACTORY = "interpreter_factory" in inspect.signature(dspy.RLM.__init__).parameters
HAS_CALLBACKS = hasattr(dspy.utils.callback.BaseCallback, "on_interpreter_execute_start")

ANSWER = model(code="SUBMIT(q + '!')", a="x!")


class Program(dspy.Module):  # type: ignore[misc]
    """A program with its own interpreter."""

    def __init__(self, interpreter: KernelInterpreter) -> None:
        super().__init__()
        self.interpreter = interpreter
        self.solve = dspy.RLM("q -> a", interpreter=interpreter)

    def forward(self, q: str) -> Any:
        return self.solve(q=q)


@pytest.fixture
def program() -> Iterator[Any]:
    with KernelInterpreter(sandbox="local") as interpreter:
        yield Program(interpreter)
    gc.collect()  # optimizers drop copies that ran: their kernels end with them, as the end of the session checks


def exact(gold: Any, pred: Any, *_: Any) -> float:
    return float(gold.a == pred.a)


def examples(count: int) -> list[Any]:
    return [dspy.Example(q=str(number), a=f"{number}!").with_inputs("q") for number in range(count)]


def ended(*programs: Any) -> None:
    for program in programs:
        program.interpreter.shutdown()


# --- copies ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["deepcopy", "reset_copy"])
def test_a_copied_program_has_a_kernel_of_its_own(program: Any, how: str) -> None:
    """Copy and original run side by side; ending the copy's kernel does not affect the original."""
    program.interpreter.execute("mark = 'original'")
    other = getattr(program, how)()
    assert other.interpreter is not program.interpreter
    with dspy.context(lm=ANSWER):
        assert (other(q="copy").a, program(q="x").a) == ("copy!", "x!")
    ended(other)
    assert program.interpreter.execute("mark") == "original"


def test_bootstrap_few_shot(program: Any) -> None:
    """The optimizer copies the program and runs the copies; what it returns runs too."""
    optimizer = dspy.BootstrapFewShot(metric=exact, max_bootstrapped_demos=1, max_labeled_demos=1)
    with dspy.context(lm=ANSWER):
        compiled = optimizer.compile(program, trainset=examples(2))
        assert compiled(q="a").a == "a!"
    assert compiled.solve.generate_action.demos
    ended(compiled)


@pytest.mark.slow
def test_gepa(program: Any) -> None:
    """GEPA rewrites instructions on copies of the program and runs them in threads."""
    reflection = model(text="```\nWrite better code.\n```")
    optimizer = dspy.GEPA(
        metric=lambda gold, pred, trace=None, pred_name=None, pred_trace=None: dspy.Prediction(
            score=0.5, feedback="Be better."
        ),
        max_metric_calls=8,
        reflection_lm=reflection,
        reflection_minibatch_size=2,
        num_threads=2 if TAKES_FACTORY else 1,
    )
    with dspy.context(lm=ANSWER):
        compiled = optimizer.compile(program, trainset=examples(2), valset=examples(2))
        assert compiled(q="a").a == "a!"
    ended(compiled)


# --- saving ---------------------------------------------------------------------------------------------


def test_save_and_load_the_whole_program(program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loaded program runs on a fresh kernel, and no secret of the running one or of the host was written."""
    monkeypatch.setenv("DAYTONA_API_KEY", "dtn_secret_of_the_host")
    program.interpreter.start()
    kernel_key = json.loads(Path(program.interpreter.connection_file).read_text())["key"]
    program.save(tmp_path / "saved", save_program=True)
    written = b"".join(path.read_bytes() for path in (tmp_path / "saved").iterdir())
    for secret in ("dtn_secret_of_the_host", kernel_key):
        assert secret.encode() not in written
    options = {"allow_pickle": True} if "allow_pickle" in inspect.signature(dspy.load).parameters else {}
    loaded = dspy.load(tmp_path / "saved", **options)
    with dspy.context(lm=ANSWER):
        assert loaded(q="loaded").a == "loaded!"
    ended(loaded)


def test_save_and_load_the_state(program: Any, tmp_path: Path) -> None:
    """The JSON state has the predictors only; the program that loads it keeps its interpreter."""
    program.save(tmp_path / "state.json")
    program.load(tmp_path / "state.json")
    with dspy.context(lm=ANSWER):
        assert program(q="x").a == "x!"


# --- threads and streams --------------------------------------------------------------------------------


@pytest.mark.skipif(not TAKES_FACTORY, reason="RLM before DSPy 3.3 does not share an interpreter between threads")
def test_parallel_and_evaluate_share_a_program(program: Any) -> None:
    """A thread that finds the interpreter leased gets a fresh one: no thread waits, and no answers are mixed up."""
    wanted = [f"{number}!" for number in range(4)]
    with dspy.context(lm=ANSWER):
        pairs = [(program, example) for example in examples(4)]
        results = dspy.Parallel(num_threads=4, disable_progress_bar=True)(pairs)
        assert [result.a for result in results] == wanted
        score = dspy.Evaluate(devset=examples(4), metric=exact, num_threads=4, display_progress=False)(program)
    assert float(getattr(score, "score", score)) == 100.0


def test_interpreters_in_threads_never_cross() -> None:
    """Four at once: each sees its own variables, tools, answers and context."""
    together = threading.Barrier(4, timeout=30)

    def run(number: int) -> list[Any]:
        def mine() -> int:
            together.wait()
            return number * 10 + int(dspy.settings.get("which"))

        with dspy.context(which=number), KernelInterpreter({"mine": mine}, sandbox="local") as interpreter:
            interpreter.execute("x = n", {"n": number})
            together.wait()
            return [interpreter.execute("(x, mine(), n)"), interpreter.execute("SUBMIT(x)").output]

    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(run, range(4)))
    assert results == [[(number, number * 11, number), {"output": number}] for number in range(4)]


async def test_streamify(program: Any) -> None:
    """A streamed program ends with its prediction, like any other."""
    with dspy.context(lm=ANSWER):
        items = [item async for item in dspy.streamify(program)(q="x")]
    assert isinstance(items[-1], dspy.Prediction)
    assert items[-1].a == "x!"


# --- callbacks ------------------------------------------------------------------------------------------


@pytest.mark.skipif(not HAS_CALLBACKS, reason="DSPy before 3.3.1 has no callbacks for interpreters")
def test_callbacks_see_every_call_and_its_end() -> None:
    """Callbacks get every call in DSPy's order, with the public parameter names, and errors at the end of a call."""
    seen: list[str] = []

    class Watch(dspy.utils.callback.BaseCallback):  # type: ignore[misc]
        def on_interpreter_startup_start(self, call_id: str, instance: Any, inputs: Any) -> None:
            seen.append("start")

        def on_interpreter_startup_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
            seen.append("started")

        def on_interpreter_execute_start(self, call_id: str, instance: Any, inputs: Any) -> None:
            seen.append(f"execute {inputs['code']} {inputs['variables']}")

        def on_interpreter_execute_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
            seen.append(f"executed {type(exception).__name__ if exception else outputs}")

        def on_interpreter_tool_call_start(self, call_id: str, instance: Any, inputs: Any) -> None:
            seen.append(f"tool {inputs['tool_name']} {inputs['kwargs']}")

        def on_interpreter_tool_call_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
            seen.append(f"tool ended {exception!r}" if exception else f"tool gave {outputs}")

        def on_interpreter_shutdown_start(self, call_id: str, instance: Any, inputs: Any) -> None:
            seen.append("shutdown")

        def on_interpreter_shutdown_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
            seen.append("shut down")

    interpreter = KernelInterpreter({"half": lambda a: 4 / a}, sandbox="local", callbacks=[Watch()])
    assert interpreter.execute("half(2)", {"v": 1}) == 2.0
    with pytest.raises(CodeExecutionError):
        interpreter.execute("half(0)")
    interpreter.start()
    interpreter.shutdown()
    interpreter.shutdown()
    assert seen == [
        *("execute half(2) {'v': 1}", "start", "started", "tool half {'a': 2}", "tool gave 2.0", "executed 2.0"),
        *("execute half(0) None", "tool half {'a': 0}", "tool ended ZeroDivisionError('division by zero')"),
        f"executed {CodeExecutionError.__name__}",
        *("start", "started", "shutdown", "shut down", "shutdown", "shut down"),
    ]


@pytest.mark.skipif(not HAS_CALLBACKS, reason="DSPy before 3.3.1 has no callbacks for interpreters")
def test_configured_callbacks_see_a_run() -> None:
    """Callbacks of dspy.context watch an RLM's interpreter, and tool calls are children of their execute."""
    calls: dict[str, str] = {}

    class Watch(dspy.utils.callback.BaseCallback):  # type: ignore[misc]
        def on_interpreter_execute_start(self, call_id: str, instance: Any, inputs: Any) -> None:
            calls[call_id] = "execute"

        def on_interpreter_tool_call_start(self, call_id: str, instance: Any, inputs: Any) -> None:
            calls[call_id] = f"tool in {calls.get(dspy.utils.callback.ACTIVE_CALL_ID.get(), 'nothing')}"

    with KernelInterpreter(sandbox="local") as interpreter:
        rlm = dspy.RLM("q -> a", interpreter=interpreter, sub_lm=model(text="sub"))
        with dspy.context(lm=model(code="SUBMIT(llm_query('?'))"), callbacks=[Watch()]):
            assert rlm(q="x").a == "sub"
    assert "tool in execute" in calls.values()


def test_an_invalid_interpreter_is_no_code_interpreter_error() -> None:
    """The classes that DSPy checks are the ones that are raised."""
    assert issubclass(CodeExecutionError, CodeInterpreterError)
    assert CodeInterpreterError is dspy.primitives.code_interpreter.CodeInterpreterError
