"""ReplayInterpreter and the recorded language model: DSPy programs without kernel and model."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import datetime
import inspect
import pickle
from typing import TYPE_CHECKING, Any

import dspy
import pytest
from dspy.primitives.code_interpreter import CodeInterpreterError, FinalOutput
from dspy.utils.callback import BaseCallback

from daytona_kernel_interp import KernelInterpreter, ReplayInterpreter
from daytona_kernel_interp.client.outputs import StreamText
from daytona_kernel_interp.demo.script import ScriptedStep, scripted_lm
from daytona_kernel_interp.errors import RecordingError, ReplayMismatch
from daytona_kernel_interp.interpreter.dspy_compat import REOPENS, CodeExecutionError
from daytona_kernel_interp.playback.recorded_lm import RecordedLM
from daytona_kernel_interp.recording.model import LMCall, Outcome, Transcript
from daytona_kernel_interp.tools.binding import describe
from tests.transcripts import BEGAN, Maker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

pytestmark = pytest.mark.dspy

RLM: Any = dspy.RLM  # its types know the keyword on some versions only
PROTOCOL: Any = dspy.primitives.code_interpreter.CodeInterpreter
FIELDS = [{"name": "a", "type": "str"}]
INPUTS = {"q": "x" * 50}
STEPS = [
    ScriptedStep("Look.", "print(len(q))"),
    ScriptedStep("Err.", "undefined"),
    ScriptedStep("Ask.", "print(look('k'))"),
    ScriptedStep("Answer.", "SUBMIT(a='done')"),
]


def look(key: str) -> str:
    """Look a key up."""
    raise AssertionError("no tool is called in a replay")


def program(interpreter: Any) -> Any:
    return RLM("q -> a", interpreter=interpreter, tools=[look])


def recorded() -> Maker:
    """Return the steps of a run as KernelInterpreter answers them; its tools are what DSPy offers."""
    offered: list[Any] = []

    class Probe(ReplayInterpreter):
        def execute(self, code: str, variables: Mapping[str, object] | None = None) -> Any:
            offered[:] = [describe(name, tool) for name, tool in self.tools.items()]
            return FinalOutput({"a": "probe"})

    with dspy.context(lm=scripted_lm(STEPS)):
        program(Probe(Maker().transcript()))(**INPUTS)
    maker = Maker()
    common: Any = {"variables": INPUTS, "tools": offered, "fields": FIELDS}
    maker.add(STEPS[0].code, value="50\n", outputs=[StreamText("stdout", "50\n")], **common)
    maker.raised(STEPS[1].code, "CodeExecutionError", "NameError: name 'undefined' is not defined", **common)
    maker.add(STEPS[2].code, value="found\n", calls=[maker.call("look", "k", result="found")], **common)
    maker.add(STEPS[3].code, Outcome("submitted", "ok", value=maker.store.put({"a": "done"})), **common)
    return maker


class Listener(BaseCallback):
    """A callback that adds the calls of the main model to a recording."""

    def __init__(self, maker: Maker) -> None:
        self._maker = maker
        self._requests: dict[str, Any] = {}

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._requests[call_id] = {name: inputs.get(name) for name in ("prompt", "messages")}

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        if isinstance(instance, dspy.BaseLM):  # DSPy 3.1 takes models of one's own for modules
            self.on_lm_start(call_id, instance, inputs)

    def on_module_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
        if call_id in self._requests:
            self.on_lm_end(call_id, outputs, exception)

    def on_lm_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
        request = self._maker.store.put(self._requests[call_id])
        call = LMCall(call_id, None, BEGAN, 0.1, request, self._maker.store.put(list(outputs)))
        self._maker.lm_calls.append(call)


@pytest.fixture(scope="module")
def transcript() -> Transcript:
    """A whole run: its steps, and what the model was asked and said."""
    maker = recorded()
    with dspy.context(lm=scripted_lm(STEPS), callbacks=[Listener(maker)]):
        program(ReplayInterpreter(maker.transcript()))(**INPUTS)
    return maker.transcript()


def check(result: Any) -> None:
    assert result.a == "done"
    shown = [step["output"] for step in result.trajectory]
    assert shown[0] == "50\n"
    assert shown[1].startswith("[Error] NameError")
    assert shown[2:] == ["found\n", "FINAL: {'a': 'done'}"]


def test_a_whole_rlm_runs_again(transcript: Transcript) -> None:
    """Model and interpreter from the recording: the same trajectory and answer, and nothing is left over."""
    for _ in range(2):
        interpreter, lm = ReplayInterpreter(transcript), RecordedLM(transcript)
        with dspy.context(lm=lm):
            check(program(interpreter)(**INPUTS))
        assert (interpreter.left, lm.left) == (0, 0)
        assert len(lm.history) == len(STEPS)


async def test_a_whole_rlm_runs_again_async(transcript: Transcript) -> None:
    """The same by acall."""
    interpreter, lm = ReplayInterpreter(transcript), RecordedLM(transcript)
    with dspy.context(lm=lm):
        check(await program(interpreter).acall(**INPUTS))
    assert (interpreter.left, lm.left) == (0, 0)


async def test_two_replays_do_not_meet(transcript: Transcript) -> None:
    """Each has its own place in the recording."""

    async def one() -> Any:
        with dspy.context(lm=RecordedLM(transcript)):
            return await program(ReplayInterpreter(transcript)).acall(**INPUTS)

    for result in await asyncio.gather(one(), one()):
        check(result)


def test_another_input_is_a_mismatch(transcript: Transcript) -> None:
    """A model request that was not recorded ends the run; the error shows the different input."""
    with dspy.context(lm=RecordedLM(transcript)), pytest.raises(ReplayMismatch) as caught:
        program(ReplayInterpreter(transcript))(q="y" * 50)
    changed = [line.split()[-1] for line in str(caught.value).splitlines() if line[:1] in "+-" and "y" * 9 in line]
    assert changed == ["y" * 50]
    assert "has no LM call with this request. The most similar recorded request:" in str(caught.value)


def test_other_code_is_a_mismatch(transcript: Transcript) -> None:
    """A model that writes something else ends the run, on every DSPy; on none it is shown to the model as an error."""
    steps = [STEPS[0], ScriptedStep("Other.", "print(look('other'))"), STEPS[3]]
    with dspy.context(lm=scripted_lm(steps)), pytest.raises(ReplayMismatch) as caught:
        program(ReplayInterpreter(transcript))(**INPUTS)
    assert "has other code than requested; the most similar step is" in str(caught.value)
    assert "-print(look('k'))\n+print(look('other'))" in str(caught.value)
    assert isinstance(caught.value, CodeInterpreterError) or REOPENS


def test_other_variables_are_a_mismatch(transcript: Transcript) -> None:
    """The code may be the same; the values it works on are not."""
    with dspy.context(lm=scripted_lm(STEPS)), pytest.raises(ReplayMismatch, match="another value of the variable 'q'"):
        program(ReplayInterpreter(transcript))(q="y" * 50)


def test_the_model_in_recorded_order(transcript: Transcript) -> None:
    """match="order" asks nothing of the prompts, and ends with the recording."""
    lm = RecordedLM(transcript, match="order")
    assert [lm("whatever")[0] for _ in STEPS] == [step.completion() for step in STEPS]
    with pytest.raises(ReplayMismatch, match="no further answer of the main model: all 4 were returned"):
        lm("whatever")
    with pytest.raises(ValueError, match='match must be "request" or "order"'):
        RecordedLM(transcript, match="any")  # type: ignore[arg-type]


def test_a_mismatch_is_final(transcript: Transcript) -> None:
    """An adapter that tries again in another form, and a copy of the model, meet the same mismatch."""
    lm = RecordedLM(transcript)
    with pytest.raises(ReplayMismatch) as first:
        lm("something else")
    copied: Any = lm.copy(temperature=1.0)  # type: ignore[no-untyped-call]
    for again in (lm, copied, copy.deepcopy(lm)):
        with pytest.raises(ReplayMismatch) as second:
            again("a third thing")
        assert str(second.value) == str(first.value)


def test_a_request_of_another_dspy_says_so(transcript: Transcript) -> None:
    """Where versions differ the text says that prompts may, and what to do."""
    facts = dataclasses.replace(transcript.facts, versions={"dspy": "2.0.0"})
    other = Transcript(facts, transcript.entries, transcript.store, transcript.lm_calls)
    with pytest.raises(ReplayMismatch, match=r'recorded with DSPy 2\.0\.0, running on .*match="order"'):
        RecordedLM(other)("something else")


def test_a_recorded_error_of_the_model() -> None:
    """What the model's provider raised is raised again; an answer that never came is a mismatch."""
    maker = Maker()
    for number, error in enumerate(["RateLimitError: slow down", ""]):
        request = maker.store.put({"prompt": f"p{number}", "messages": None})
        maker.lm_calls.append(LMCall(str(number), None, BEGAN, None, request, None, error=error))
    lm = RecordedLM(maker.transcript())
    with pytest.raises(RuntimeError, match="recorded error of the language model: RateLimitError: slow down"):
        lm("p0")
    with pytest.raises(ReplayMismatch, match="no answer to this LM call"):
        lm("p1")


def test_a_recording_without_calls_of_a_model() -> None:
    """It says what to record with."""
    with pytest.raises(RecordingError, match=r"record it with DSPy's callback, Recording\.callback\(\)"):
        RecordedLM(Maker().transcript())


def test_the_contract() -> None:
    """It is a CodeInterpreter to DSPy, with the attributes that its modules look for."""
    interpreter = ReplayInterpreter(Maker().transcript(), {"look": look}, FIELDS)
    assert isinstance(interpreter, PROTOCOL)
    assert (list(interpreter.tools), interpreter.output_fields) == (["look"], FIELDS)
    assert ReplayInterpreter.execution_instructions == KernelInterpreter.execution_instructions
    parameters = inspect.signature(ReplayInterpreter.execute).parameters
    assert list(parameters) == ["self", "code", "variables"]
    with pytest.raises(TypeError, match="a recording is a path or a Recording, not int"):
        ReplayInterpreter(5)  # type: ignore[arg-type]


async def test_every_way_to_call() -> None:
    """start, execute, aexecute, a call and a context manager work; outputs are returned and passed to on_output."""
    maker = Maker()
    for number in range(3):
        maker.add("1", value=number, outputs=[StreamText("stdout", str(number))])
    seen: list[Any] = []
    with ReplayInterpreter(maker.transcript(), on_output=seen.append) as interpreter:
        interpreter.start()
        assert [interpreter.execute("1"), await interpreter.aexecute("1"), interpreter("1")] == [0, 1, 2]
        assert interpreter.outputs == [StreamText("stdout", "2")]
    assert [output.text for output in seen] == ["0", "1", "2"]
    async with ReplayInterpreter(maker.transcript()) as interpreter:
        await interpreter.astart()
        interpreter.interrupt()
        assert interpreter.left == 3


def test_after_shutdown() -> None:
    """From DSPy 3.3 on a session that was shut down stays so; before, the recording goes on, as its modules need."""
    maker = Maker()
    maker.add("1", value="a")
    interpreter = ReplayInterpreter(maker.transcript())
    interpreter.shutdown()
    interpreter.shutdown()
    if REOPENS:
        assert interpreter.execute("1") == "a"
        return
    for call in (interpreter.start, lambda: interpreter.execute("1")):
        with pytest.raises(CodeInterpreterError, match="it was shut down"):
            call()


def test_how_steps_ended() -> None:
    """Each recorded end comes back as what the caller saw then."""
    maker = Maker()
    maker.raised("bad", "SyntaxError", "Invalid Python syntax. x")
    maker.raised("err", "CodeExecutionError", "KeyError: 1")
    maker.raised("slow", "CodeExecutionError", "TimeoutError: x; variables kept", "timeout")
    maker.submitted("sub", {"output": {1, 2}})
    maker.raised("die", "CodeInterpreterError", "KernelDied: y", "died")
    maker.add("cut", Outcome("unfinished", "unknown"))
    interpreter = ReplayInterpreter(maker.transcript())
    with pytest.raises(SyntaxError, match="Invalid Python syntax"):
        interpreter.execute("bad")
    for code, text in (("err", "KeyError: 1"), ("slow", "variables kept")):
        with pytest.raises(CodeExecutionError, match=text):
            interpreter.execute(code)
    interpreter.output_fields = [{"name": "output"}]
    assert interpreter.execute("sub").output == {"output": {1, 2}}
    interpreter.output_fields = None
    with pytest.raises(CodeInterpreterError, match="KernelDied: y") as died:
        interpreter.execute("die")
    assert REOPENS or not isinstance(died.value, CodeExecutionError)
    with pytest.raises(ReplayMismatch, match="the recording ends within this step"):
        interpreter.execute("cut")


def test_a_wrong_call_moves_nothing() -> None:
    """Bad names and values are refused in KernelInterpreter's words, and the recording stays where it is."""
    maker = Maker()
    maker.add("1", value="a")
    interpreter = ReplayInterpreter(maker.transcript())
    with pytest.raises(CodeInterpreterError, match="Invalid variable name: 'a b'"):
        interpreter.execute("1", {"a b": 1})
    with pytest.raises(CodeInterpreterError, match="code must be a str"):
        interpreter.execute(5)  # type: ignore[arg-type]
    assert interpreter.execute("1") == "a"


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, lambda one: one.spawn()])
def test_copies_start_at_the_beginning(make: Callable[[Any], Any]) -> None:
    """A copy has its configuration, and a place of its own."""
    maker = Maker()
    maker.add("1", value="a")
    interpreter = ReplayInterpreter(maker.transcript(), {"look": look})
    interpreter.tools.clear()
    interpreter.execute("1")
    other = make(interpreter)
    assert (other.left, interpreter.left) == (1, 0)
    assert other.execute("1") == "a"


def test_it_can_be_pickled() -> None:
    """With all that it was made from."""
    maker = Maker()
    maker.add("1", value=datetime.date(2026, 1, 2))
    copied = pickle.loads(pickle.dumps(ReplayInterpreter(maker.transcript(), output_fields=FIELDS)))
    assert copied.output_fields == FIELDS
    copied.output_fields = None
    assert copied.execute("1") == datetime.date(2026, 1, 2)


def test_the_options_of_kernel_interpreter_are_accepted() -> None:
    """A program passes both interpreters the same options; an unknown one is refused by its name."""
    live = inspect.signature(KernelInterpreter).parameters
    offline = inspect.signature(ReplayInterpreter).parameters
    assert [name for name in live if name not in offline] == []
    source = Maker().transcript()
    ReplayInterpreter(source, sandbox="local", execution_timeout=5, max_output_chars=10, max_value_bytes=9, record="x")
    options: dict[str, Any] = {"sandbx": "local"}
    with pytest.raises(TypeError, match=r"ReplayInterpreter\(\) has no option 'sandbx'; did you mean 'sandbox'\?"):
        ReplayInterpreter(source, **options)
