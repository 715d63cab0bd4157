"""Reasoning, tokens and cost in recordings, from DSPy's callback, on each supported version of DSPy."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import dspy
import pytest
from dspy.dsp.utils.settings import settings
from dspy.utils.callback import BaseCallback

from daytona_kernel_interp import KernelInterpreter, Recording
from daytona_kernel_interp.demo.script import ScriptedStep, rule_based_lm, scripted_lm
from daytona_kernel_interp.recording.dspy_callback import request_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.dspy

RLM: Any = dspy.RLM
_PARAMETERS = inspect.signature(dspy.RLM.__init__).parameters
HAS_FACTORY = "interpreter_factory" in _PARAMETERS
# DSPy before 3.3 runs a batch in threads without the caller's context, where a callback of dspy.context is not called.
BATCHES_TELL = HAS_FACTORY
LIMIT_ONE: dict[str, Any] = {"max_iters" if "max_iters" in _PARAMETERS else "max_iterations": 1}


class Answered(ScriptedStep):
    """The answer to DSPy's extract step: the output field ``a``."""

    def completion(self) -> str:
        return f"[[ ## a ## ]]\n{self.reasoning}\n\n[[ ## completed ## ]]"


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Attach the callback as a user does on a DSPy where ``interpreter=`` does not attach it."""
    with contextlib.nullcontext() if HAS_FACTORY else dspy.context(callbacks=[Recording.callback()]):
        yield


def run(path: Path, steps: list[ScriptedStep], *, sub: str = "echo", **options: Any) -> Recording:
    """Run an RLM on an interpreter that records, and return the recording."""
    with KernelInterpreter(sandbox="local", record=path) as interpreter:
        sub_lm = rule_based_lm(sub, lambda prompt: f"{sub} {prompt}")
        rlm = RLM("q -> a", interpreter=interpreter, sub_lm=sub_lm, **options)
        with dspy.context(lm=scripted_lm(steps)), listening():
            rlm(q="x")
        assert interpreter.recording is not None
        return Recording.load(interpreter.recording)


def own(recording: Recording) -> list[Any]:
    """Return the steps that the model wrote; DSPy's own setup comes before them on some versions."""
    return [step for step in recording if not any(name.startswith("__dspy") for name in step.variables)]


def test_reasoning_and_calls_of_models(tmp_path: Path) -> None:
    """Each step has the reasoning that led to it; each model call is recorded with its cell, for a replay."""
    before = dict(settings.config)
    recording = run(
        tmp_path / "run.ipynb",
        [
            ScriptedStep("Ask one.", "print(llm_query('hi'))"),
            ScriptedStep("Ask two.", "SUBMIT(str(llm_query_batched(['a', 'b'])))"),
        ],
    )
    assert dict(settings.config) == before, "global settings are as they were"
    steps = own(recording)
    assert recording.transcript.callback
    assert [step.reasoning for step in steps] == ["Ask one.", "Ask two."]
    assert [step.usage.model for step in steps] == ["script", "script"]
    calls = [call for step in steps for call in step.calls]
    assert [call.usage.model for call in calls if call.usage] == ["echo", "echo"][: len(calls) if BATCHES_TELL else 1]
    assert [call.kind for step in steps for call in step.calls] == ["llm", "llm"]
    where = [call.entry for call in recording.lm_calls]
    assert where == [None, steps[0].index, None, *[steps[1].index] * (2 if BATCHES_TELL else 0)]
    said = [recording.value(call.outputs) for call in recording.lm_calls if call.outputs is not None]
    assert said[1] == ["echo hi"]
    assert sorted(text for texts in said[3:] for text in texts) == (["echo a", "echo b"] if BATCHES_TELL else [])
    asked = recording.value(recording.lm_calls[0].request)
    assert any("question" in str(message) or "q" in str(message) for message in asked["messages"])
    assert "[[ ## code ## ]]" in said[0][0]


def test_the_answer_after_the_last_step(tmp_path: Path) -> None:
    """A run without SUBMIT ends with a model call after its last cell, which is recorded as well."""
    steps = [ScriptedStep("Look.", "print(1)"), Answered("taken from the trajectory", "")]
    recording = run(tmp_path / "run.ipynb", steps, **LIMIT_ONE)
    assert [call.entry for call in recording.lm_calls] == [None, None]
    last = recording.lm_calls[-1].outputs
    assert last is not None
    assert "taken from the trajectory" in recording.value(last)[0]


def test_without_the_callback_it_says_so(tmp_path: Path) -> None:
    """Without the callback all cells are recorded, and the notebook names what is missing."""
    with KernelInterpreter(sandbox="local", record=tmp_path / "run.ipynb") as interpreter:
        interpreter.execute("1")
    recording = Recording.load(tmp_path / "run.ipynb")
    if not recording.transcript.callback:  # it stays in use in this process once it was
        assert "Recorded without DSPy's callback" in (tmp_path / "run.ipynb").read_text()
    assert recording[0].reasoning is None


def test_tokens_and_cost(tmp_path: Path) -> None:
    """Tokens and cost are those of the call itself, also if the model served other calls at the same time."""

    model: Any = scripted_lm([ScriptedStep("First.", "print(1)"), ScriptedStep("Second.", "SUBMIT('y')")])
    update, prices = model.update_history, iter((1, 2))

    def priced(entry: dict[str, Any]) -> None:
        price = next(prices)
        usage = {"prompt_tokens": 100 * price, "completion_tokens": 7, "total_tokens": 0}
        update({**entry, "usage": usage, "cost": price / 2, "response_model": "priced"})

    model.update_history = priced
    with KernelInterpreter(sandbox="local", record=tmp_path / "run.ipynb") as interpreter:
        rlm = RLM("q -> a", interpreter=interpreter)
        with dspy.context(lm=model), listening():
            rlm(q="x")
    recording = Recording.load(tmp_path / "run.ipynb")
    usages = [step.usage for step in own(recording)]
    assert [usage.prompt_tokens for usage in usages if usage] == [100, 200]
    assert [usage.completion_tokens for usage in usages if usage] == [7, 7]
    assert [(usage.model, usage.cost_usd) for usage in usages if usage] == [("priced", 0.5), ("priced", 1.0)]


def test_two_at_once_do_not_mix(tmp_path: Path) -> None:
    """With RLMs in two threads, each recording has the reasoning and the calls of its own model only."""
    meet = threading.Barrier(2)

    def go(name: str) -> None:
        def wait() -> str:
            meet.wait(30)
            return name

        steps = [
            ScriptedStep(f"{name} one.", "print(wait(), llm_query('p'))"),
            ScriptedStep(f"{name} two.", "SUBMIT(wait())"),
        ]
        recordings[name] = run(tmp_path / f"{name}.ipynb", steps, sub=name, tools=[wait])

    recordings: dict[str, Recording] = {}
    threads = [threading.Thread(target=go, args=(name,)) for name in ("left", "right")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, recording in recordings.items():
        assert [step.reasoning for step in own(recording)] == [f"{name} one.", f"{name} two."]
        assert len(recording.lm_calls) == 3
        assert recording.value(recording.lm_calls[1].outputs) == [f"{name} p"]  # type: ignore[arg-type]


async def test_two_tasks_at_once_do_not_mix(tmp_path: Path) -> None:
    """With RLMs in two tasks of one event loop, each recording has the calls of its own model only."""

    async def go(name: str) -> Recording:
        path = tmp_path / f"{name}.ipynb"
        async with KernelInterpreter(sandbox="local", record=path) as interpreter:
            rlm = RLM("q -> a", interpreter=interpreter)
            steps = [ScriptedStep(f"{name} one.", "print(1)"), ScriptedStep(f"{name} two.", "SUBMIT('x')")]
            with dspy.context(lm=scripted_lm(steps)), listening():
                await rlm.acall(q="x")
        return Recording.load(path)

    for name, recording in zip(("a", "b"), await asyncio.gather(go("a"), go("b")), strict=True):
        assert [step.reasoning for step in own(recording)] == [f"{name} one.", f"{name} two."]
        assert len(recording.lm_calls) == 2


@pytest.mark.skipif(not HAS_FACTORY, reason="DSPy before 3.3 takes no factory")
def test_a_factory_and_a_callback_of_the_users(tmp_path: Path) -> None:
    """With interpreter_factory= the user adds the callback; one object serves all sessions."""
    path = tmp_path / "run.ipynb"
    rlm = RLM("q -> a", interpreter_factory=lambda: KernelInterpreter(sandbox="local", record=path))
    for _ in range(2):
        steps = [ScriptedStep("Go.", "SUBMIT('x')")]
        with dspy.context(lm=scripted_lm(steps), callbacks=[Recording.callback()]):
            rlm(q="x")
    for name in ("run.ipynb", "run-2.ipynb"):
        recording = Recording.load(tmp_path / name)
        assert recording.complete
        assert [step.reasoning for step in own(recording)] == ["Go."]
        assert len(recording.lm_calls) == 1


@pytest.mark.skipif(not HAS_FACTORY, reason="DSPy before 3.3 has the keyword itself")
def test_beside_callbacks_of_the_users(tmp_path: Path) -> None:
    """Other callbacks are still called; the attached one is detached after the run."""

    class Counting(BaseCallback):
        count = 0

        def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
            self.count += 1

    counting = Counting()
    with dspy.context(callbacks=[counting]):
        recording = run(tmp_path / "run.ipynb", [ScriptedStep("Go.", "print(1)"), ScriptedStep("Stop.", "SUBMIT('x')")])
        assert settings.get("callbacks") == [counting]
    assert counting.count == 2
    assert [step.reasoning for step in own(recording)] == ["Go.", "Stop."]


def test_a_failing_model(tmp_path: Path) -> None:
    """A sub-model's error is recorded in the call that the cell made."""

    def fail(prompt: str) -> str:
        raise ValueError("no answer")

    with KernelInterpreter(sandbox="local", record=tmp_path / "run.ipynb") as interpreter:
        rlm = RLM("q -> a", interpreter=interpreter, sub_lm=rule_based_lm("broken", fail))
        steps = [ScriptedStep("Ask.", "llm_query('hi')"), ScriptedStep("Stop.", "SUBMIT('x')")]
        with dspy.context(lm=scripted_lm(steps)), listening():
            rlm(q="x")
    recording = Recording.load(tmp_path / "run.ipynb")
    failed = [call for call in recording.lm_calls if call.error]
    assert [(call.error, call.outputs) for call in failed] == [(failed[0].error, None)]
    assert "no answer" in failed[0].error
    assert own(recording)[0].calls[0].error[2].endswith("no answer")


def test_keys_of_models_are_not_recorded() -> None:
    """Only settings that cannot be secret are recorded."""
    secret = {
        "api_key": "sk-1",
        "api_base": "https://user:sk-2@host",
        "headers": {"Authorization": "sk-3"},
        "extra_headers": {"x-key": "sk-4"},
        "aws_secret_access_key": "sk-5",
        "azure_ad_token": "sk-6",
        "vertex_credentials": "sk-7",
    }
    instance = SimpleNamespace(model="m", kwargs={"temperature": 1.0, **secret})
    asked = request_of(instance, {"prompt": "hi", "messages": None, "kwargs": {"max_tokens": 5, **secret}})
    assert asked == {
        "model": "m",
        "prompt": "hi",
        "messages": None,
        "settings": {"temperature": 1.0, "max_tokens": 5},
    }


def test_a_key_given_to_a_model_is_in_no_recording(tmp_path: Path) -> None:
    """A model's key is not in the recording, also if its provider quotes it in an error."""
    with KernelInterpreter(sandbox="local", record=tmp_path / "run.ipynb") as interpreter:

        def refuse(prompt: str) -> str:
            raise ValueError("Incorrect API key provided: sk-model-secret-1234")

        sub_lm: Any = rule_based_lm("keyed", refuse)
        sub_lm.kwargs.update(api_key="sk-model-secret-1234", headers={"X-Key": "sk-header-secret-1234"})
        rlm = RLM("q -> a", interpreter=interpreter, sub_lm=sub_lm)
        steps = [ScriptedStep("Ask.", "llm_query('hi')"), ScriptedStep("Stop.", "SUBMIT('x')")]
        with dspy.context(lm=scripted_lm(steps)), listening():
            rlm(q="x")
    assert len(Recording.load(tmp_path / "run.ipynb").lm_calls) == 3
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert b"-secret-1234" not in file.read_bytes()
