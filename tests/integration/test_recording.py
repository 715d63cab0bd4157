"""Sessions recorded on real kernels: each way a cell can end, killed hosts, copies, secrets, seeds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest

from daytona_kernel_interp import KernelInterpreter, LocalSandbox, Recording
from daytona_kernel_interp.client.outputs import DisplayData, StreamText
from daytona_kernel_interp.interpreter.interpreter import CodeExecutionError, CodeInterpreterError
from daytona_kernel_interp.recording.atomic_file import AtomicFile
from daytona_kernel_interp.runtime.event_loop import DaemonThreads
from tests.access import session_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from daytona_kernel_interp.client.outputs import Output
    from daytona_kernel_interp.recording.model import Entry


def look(key: str) -> int:
    """Look a key up."""
    return {"a": 1}[key]


async def double(number: int) -> int:
    return 2 * number


def refuse(question: str) -> str:
    raise KeyboardInterrupt


TOOLS: dict[str, Any] = {"look": look, "double": double, "refuse": refuse}


class Recorded:
    """An interpreter that records, and its recording."""

    def __init__(self, folder: Path, name: str = "run.ipynb", **options: Any) -> None:
        self.path = folder / name
        self.interpreter = KernelInterpreter(dict(TOOLS), sandbox="local", record=self.path, **options)

    def step(self, code: str, variables: dict[str, Any] | None = None) -> Entry:
        """Execute a cell, ignore its error, and return the recorded step."""
        with contextlib.suppress(SyntaxError, CodeInterpreterError, KeyboardInterrupt):
            self.interpreter.execute(code, variables)
        return self.last()

    def last(self) -> Entry:
        recording = Recording.load(self.path)
        assert recording.problems == ()
        nbformat.validate(nbformat.read(self.path, as_version=4))
        return recording[-1]

    def value(self, ref: Any) -> Any:
        return Recording.load(self.path).value(ref)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    made = Recorded(tmp_path_factory.mktemp("recording"))
    yield made
    made.interpreter.shutdown()
    assert Recording.load(made.path).complete


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Callable[..., Recorded]]:
    made: list[Recorded] = []

    def make(**options: Any) -> Recorded:
        made.append(Recorded(tmp_path, **options))
        return made[-1]

    yield make
    for one in made:
        one.interpreter.shutdown()


# --- what a step holds ---------------------------------------------------------------------------------------


def test_a_step_is_there_when_execute_returns(recorded: Recorded) -> None:
    """The step has code, variables, outputs, calls with arguments and results, the return value and durations."""
    recorded.interpreter.output_fields = [{"name": "n", "type": "int"}]
    step = recorded.step("print(look('a'), double(4)); text", {"text": "hi", "n": [1, (2, 3)]})
    recorded.interpreter.output_fields = None
    assert step.code == "print(look('a'), double(4)); text"
    assert {name: recorded.value(ref) for name, ref in step.variables.items()} == {"text": "hi", "n": [1, (2, 3)]}
    assert [tool.name for tool in step.tools] == list(TOOLS)
    assert step.output_fields == ({"name": "n", "type": "int"},)
    assert step.outputs[0] == StreamText("stdout", "1 8\n")
    first, second = step.calls
    assert (first.name, second.name, first.kind) == ("look", "double", "tool")
    assert (recorded.value(first.arguments), recorded.value(second.result)) == ([["a"], {}], 8)
    assert (first.arguments.summary, second.arguments.summary) == ("'a'", "4")
    assert first.elapsed_s is not None
    assert 0 <= first.began_s <= second.began_s
    assert (step.outcome.kind, step.outcome.ending) == ("returned", "ok")
    assert recorded.value(step.outcome.value) == "1 8\n'hi'"
    assert step.id
    assert step.elapsed_s is not None


def test_an_answer_and_a_failed_call(recorded: Recorded) -> None:
    """The arguments of SUBMIT and a tool's error with its type are recorded."""
    step = recorded.step("try:\n    look('b')\nexcept KeyError:\n    SUBMIT({'x': {1}})")
    assert step.calls[0].error == ("KeyError", ("KeyError", "LookupError"), "'b'")
    assert step.outcome.kind == "submitted"
    assert recorded.value(step.outcome.value) == {"output": {"x": [1]}}


def test_rich_outputs_are_the_notebooks(recorded: Recorded) -> None:
    """A displayed object is an output of the notebook's cell, in each of its representations."""
    step = recorded.step("from IPython.display import HTML\ndisplay(HTML('<b>x</b>'))\n1/0")
    assert isinstance(step.outputs[0], DisplayData)
    assert step.outputs[0].data["text/html"] == "<b>x</b>"
    cells = nbformat.read(recorded.path, as_version=4).cells
    cell = next(cell for cell in cells[::-1] if cell.cell_type == "code")
    assert cell.outputs[1].ename == "ZeroDivisionError"


def test_a_large_input_is_written_once(recorded: Recorded) -> None:
    """A large variable of several steps is one file; a step that does not send it again refers to it."""
    text = "x" * 100_000
    steps = [recorded.step(f"len(text) + {number}", {"text": text}) for number in range(3)]
    assert len({step.variables["text"] for step in steps}) == 1
    assert recorded.value(steps[2].variables["text"]) == text
    assert steps[2].variables["text"].summary.startswith("str, 100,0")
    large = [file for file in recorded.path.with_name("run.values").iterdir() if file.stat().st_size > 100_000]
    assert len(large) == 1


def test_large_results_lie_beside(recorded: Recorded) -> None:
    """Large results of tools and of execute are stored completely."""
    recorded.interpreter.tools["large"] = lambda: "y" * 30_000
    step = recorded.step("got = large(); print(got)")
    del recorded.interpreter.tools["large"]
    assert recorded.value(step.calls[0].result) == "y" * 30_000
    assert recorded.value(step.outcome.value) == "y" * 30_000 + "\n"


def test_a_value_of_a_step_waits_for_no_other_writing(
    own: Callable[..., Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step is written while the thread for slow steps is busy: its values have a thread of their own."""
    threads: dict[str, DaemonThreads] = {}

    def noted(limit: int, name: str) -> DaemonThreads:
        threads[name] = DaemonThreads(limit, name)
        return threads[name]

    monkeypatch.setattr("daytona_kernel_interp.recording.recorder.DaemonThreads", noted)
    recorded, release = own(), threading.Event()
    waiting = threads["daytona-kernel-record"].submit(release.wait)
    try:
        assert recorded.step("len(text)", {"text": "a large text" * 1000}).outcome.ending == "ok"
    finally:
        release.set()
    assert waiting.result(10)


def test_the_threads_of_a_recording_end_with_its_session(
    own: Callable[..., Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow step and a large value start a thread each; neither outlives the session."""
    monkeypatch.setattr("daytona_kernel_interp.recording.recorder.SLOW_S", 0.01)
    before, recorded = set(threading.enumerate()), own()
    recorded.step("import time; time.sleep(0.4); len(text)", {"text": "a large text" * 1000})
    started = [
        thread for thread in set(threading.enumerate()) - before if "-record" in thread.name or "-values" in thread.name
    ]
    assert {thread.name.rstrip("-0123456789") for thread in started} == {
        "daytona-kernel-record",
        "daytona-kernel-values",
    }
    recorded.interpreter.shutdown()
    for thread in started:
        thread.join(30)
        assert not thread.is_alive()


@pytest.mark.parametrize("way", ["execute", "aexecute"])
def test_what_a_tool_changes_is_recorded_as_it_was_sent(
    own: Callable[..., Recorded], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recorder stores an array before a tool can change the caller's memory, also in the first cell."""
    numpy = pytest.importorskip("numpy")
    monkeypatch.setattr("daytona_kernel_interp.recording.recorder.SLOW_S", 600.0)  # no early write of a slow step
    array, recorded = numpy.zeros(10_000), own()

    def spoil() -> None:
        folder = recorded.path.with_name("run.values")
        while not any(file.stat().st_size > array.nbytes for file in folder.glob("[0-9a-f]*")):  # it is stored at once
            time.sleep(0.01)
        array[:] = 1

    recorded.interpreter.tools["spoil"] = spoil
    given = getattr(recorded.interpreter, way)("spoil()", {"array": array})
    if way == "aexecute":  # starts the session within the call
        asyncio.run(given)
    step = recorded.last()
    assert array.all()
    assert not recorded.value(step.variables["array"]).any()


def test_put_is_a_step_and_get_is_none(recorded: Recorded) -> None:
    """put changes the session and is a step; get does not and is none."""
    before = len(Recording.load(recorded.path))
    recorded.interpreter.put(bound=5)
    assert recorded.interpreter.get("bound") == 5
    assert len(Recording.load(recorded.path)) == before + 1
    assert recorded.value(recorded.last().variables["bound"]) == 5


# --- each way a cell can end --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "error", "ending"),
    [
        ("for (", "SyntaxError", "error"),
        ("1/0", CodeExecutionError.__name__, "error"),
        ("raise SystemExit(3)", CodeExecutionError.__name__, "error"),
        ("refuse('x')", "KeyboardInterrupt", "interrupted"),
    ],
)
def test_it_raised(recorded: Recorded, code: str, error: str, ending: str) -> None:
    """The class and the text of the caller's exception are recorded."""
    step = recorded.step(code)
    assert (step.outcome.kind, step.outcome.error, step.outcome.ending) == ("raised", error, ending)
    if error == "SyntaxError":
        assert step.outcome.text.startswith("Invalid Python syntax.")


def test_it_was_interrupted(recorded: Recorded) -> None:
    """An interrupt and a timeout have different endings, and earlier output is recorded."""
    interpreter = recorded.interpreter
    interpreter.on_output = lambda output: threading.Thread(target=interpreter.interrupt).start()
    step = recorded.step("print('before', flush=True)\nwhile True: pass")
    assert (step.outcome.ending, step.outputs[0]) == ("interrupted", StreamText("stdout", "before\n"))
    interpreter.on_output = None
    interpreter.execution_timeout = 0.2
    step = recorded.step("while True: pass")
    interpreter.execution_timeout = None
    assert step.outcome.ending == "timeout"


async def test_it_was_cancelled(recorded: Recorded) -> None:
    """A cancelled aexecute is recorded with the cell's earlier output."""
    interpreter, loop = recorded.interpreter, asyncio.get_running_loop()
    printed = asyncio.Event()

    def on_output(output: Output) -> None:
        loop.call_soon_threadsafe(printed.set)

    interpreter.on_output = on_output
    task = asyncio.create_task(interpreter.aexecute("print('begun', flush=True)\nwhile True: pass"))
    await printed.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    interpreter.on_output = None
    step = recorded.last()
    assert (step.outcome.error, step.outcome.ending) == ("CancelledError", "interrupted")
    assert step.outputs[0] == StreamText("stdout", "begun\n")


def test_its_kernel_died(own: Callable[..., Recorded]) -> None:
    """The ending names the kernel's death, with the printed text; the next step did not run."""
    one = own()
    step = one.step("print('last words', flush=True)\nimport os; os._exit(3)")
    assert (step.outcome.error, step.outcome.ending) == ("CodeInterpreterError", "died")
    assert step.outputs[0] == StreamText("stdout", "last words\n")
    step = one.step("1")
    assert (step.outcome.kind, step.outcome.ending, step.id) == ("raised", "not_run", "")


def test_it_was_shut_down_meanwhile(own: Callable[..., Recorded]) -> None:
    """A shutdown from another thread ends the running step, and the session is recorded as shut down."""
    one = own()
    other = threading.Thread(target=one.interpreter.shutdown)
    one.interpreter.on_output = lambda output: other.start()
    step = one.step("print('begun', flush=True)\nwhile True: pass")
    assert (step.outcome.error, step.outcome.ending) == ("CodeInterpreterError", "died")
    other.join()
    assert Recording.load(one.path).complete


def test_a_slow_step_is_there_before_it_ends(recorded: Recorded) -> None:
    """While a slow cell runs, its code and variables are in the notebook as an unfinished step."""
    seen: list[Entry] = []

    def peek(path: str) -> bool:
        for step in list(Recording.load(path))[-1:]:  # there may be no step yet
            if step.outcome.kind == "unfinished" and "peek" in step.code:
                seen.append(step)
        return bool(seen)

    recorded.interpreter.tools["peek"] = peek
    step = recorded.step("while not peek(path):\n    pass", {"path": str(recorded.path)})
    del recorded.interpreter.tools["peek"]
    assert (seen[0].code, seen[0].index, seen[0].outcome.kind) == (step.code, step.index, "unfinished")
    assert step.outcome.kind == "returned"


# --- names of notebooks ------------------------------------------------------------------------------------------


def test_copies_have_notebooks_of_their_own(own: Callable[..., Recorded], tmp_path: Path) -> None:
    """Spawned and unpickled copies get numbered notebooks, and each has its own session and seed."""
    one = own()
    one.step("1")
    assert one.interpreter.recording == one.path
    one.interpreter.tools.clear()
    for number, copy in enumerate((one.interpreter.spawn(), pickle.loads(pickle.dumps(one.interpreter))), 2):
        with copy:
            copy.execute("2")
            assert copy.recording == tmp_path / f"run-{number}.ipynb"
            assert Recording.load(copy.recording)[0].code == "2"
    assert len(Recording.load(one.path)) == 1
    seeds = {Recording.load(path).facts.seeds["random"] for path in tmp_path.glob("*.ipynb")}
    assert len(seeds) == 3


@pytest.mark.parametrize("text", ["my notes", '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'])
def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path, text: str) -> None:
    """A file that is no recording is not overwritten; the error says so, and no kernel is left running."""
    path = tmp_path / "notes.ipynb"
    path.write_text(text)
    interpreter = KernelInterpreter(sandbox="local", record=path)
    with pytest.raises(CodeInterpreterError, match=r"cannot be recorded: .*is no recording, so it is left as it is"):
        interpreter.execute("1")
    assert path.read_text() == text
    interpreter.shutdown()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """The error names the missing folder."""
    interpreter = KernelInterpreter(sandbox="local", record=tmp_path / "there" / "run.ipynb")
    with pytest.raises(CodeInterpreterError, match=r"cannot be recorded: .* there is no folder"):
        interpreter.start()


def test_recording_never_breaks_the_session(
    own: Callable[..., Recorded], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When the disk is full the session goes on, the error is logged once, and the file stays complete."""
    one = own()
    one.step("1")

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    assert one.interpreter.execute("2") == 2
    assert one.interpreter.execute("3") == 3
    monkeypatch.undo()
    assert [record.levelname for record in caplog.records if "recording to" in record.message] == ["ERROR"]
    assert [step.code for step in Recording.load(one.path)] == ["1"]


# --- killed hosts ------------------------------------------------------------------------------------------------

HOST = """
import sys
from daytona_kernel_interp import KernelInterpreter, LocalSandbox

def say(number: int) -> None:
    print(number, flush=True)

interpreter = KernelInterpreter({"say": say}, sandbox=LocalSandbox(resume_lifetime=1), record=sys.argv[1])
for number in range(10_000):
    interpreter.execute(f"say({number}); print('x' * 5000)")
"""


def test_a_killed_host_leaves_all_its_steps(tmp_path: Path) -> None:
    """After SIGKILL in the middle of a session, each step that had ended is in the notebook, which is valid.

    The next recording of that name replaces it and removes the spare copy and the values.
    """
    path = tmp_path / "run.ipynb"
    with subprocess.Popen([sys.executable, "-c", HOST, str(path)], stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        while host.stdout.readline().strip() != "17":
            pass
        host.kill()
    nbformat.validate(nbformat.read(path, as_version=4))
    recording = Recording.load(path)
    assert recording.problems == ()
    assert not recording.complete
    ended = [step for step in recording if step.outcome.kind == "returned"]
    assert len(ended) >= 17
    assert [step.code for step in ended] == [f"say({n}); print('x' * 5000)" for n in range(len(ended))]
    with KernelInterpreter(sandbox="local", record=path) as interpreter:
        interpreter.execute("1")
    assert [step.code for step in Recording.load(path)] == ["1"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run.ipynb"]


def test_a_kill_at_any_instant_leaves_a_whole_file(tmp_path: Path) -> None:
    """A file whose writer is killed at any instant is JSON with a complete prefix of what was written."""
    lengths = set()
    for round_ in range(25):
        path = tmp_path / f"{round_}.ipynb"
        begun, tell = os.pipe()
        child = os.fork()
        if child == 0:
            file = AtomicFile(path)
            file.put('["begin"', "]")
            os.write(tell, b"!")
            for number in range(100_000):
                file.put(f', "{number} {"x" * 300_000}"', "]" + " " * (number % 7))
            os._exit(0)
        os.read(begun, 1)
        while path.stat().st_size < 400_000 * (1 + round_ % 5):
            pass
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(begun)
        os.close(tell)
        values = json.loads(path.read_text())
        assert [value.split()[0] for value in values] == ["begin", *map(str, range(len(values) - 1))]
        lengths.add(len(values))
        for file_ in tmp_path.iterdir():
            file_.unlink()
    assert len(lengths) > 1


# --- secrets, seeds ---------------------------------------------------------------------------------------------


def test_no_secret_is_in_a_recording(own: Callable[..., Recorded], monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys of the kernel, the relay and the host's environment are redacted in code, values, outputs and errors."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-environment-secret")
    monkeypatch.setenv("DAYTONA_API_KEY", "dtn_environment_secret")
    monkeypatch.setenv("QUOTED_PASSWORD", 'a "quoted" secret')

    def ask(text: str, key: str = "sk-environment-secret", more: str = 'a "quoted" secret' * 500) -> str:
        return text

    one = own()
    one.interpreter.tools["ask"] = ask
    one.step("import os; print(dict(os.environ)); print(look('a'))", {"x": "y" * 100_000})
    session: Any = session_of(one.interpreter)
    key = json.loads(Path(one.interpreter.connection_file).read_text())["key"]
    one.interpreter.tools["tell"] = lambda name: os.environ[name] * 500
    one.step("print(key, tell('OPENAI_API_KEY')); tell(name='DAYTONA_API_KEY')[:22]", {"key": key})
    one.step("print(quoted); quoted", {"quoted": 'a "quoted" secret'})
    one.step(f"raise ValueError({key!r})", {"keys": key * 2000})
    address = session.sandbox.address
    secrets = {key, session.kernel.key, "sk-environment-secret", "dtn_environment_secret", address.secret}
    secrets |= {'a "quoted" secret', r"a \"quoted\" secret", r"a \\\"quoted\\\" secret"}
    secrets |= set(getattr(address, "headers", {}).values())
    assert all(len(secret) > 10 for secret in secrets)
    assert Recording.load(one.path)[1].outputs[0] == StreamText("stdout", f"[secret] {'[secret]' * 500}\n")
    assert one.value(one.last().variables["keys"]) == "[secret]" * 2000
    one.interpreter.shutdown()
    assert Recording.load(one.path).problems == ()
    files = [file for file in one.path.parent.rglob("*") if file.is_file()]
    assert len(files) > 1
    for file in files:
        data = file.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in data]


def test_random_generators_are_seeded(own: Callable[..., Recorded]) -> None:
    """Python's and numpy's generators have the recorded seed, also if the drawing cell imports numpy."""
    import random

    import numpy

    one = own()
    code = "import random\ndrawn = [random.random()]\nimport numpy\ndrawn + [float(numpy.random.random())]"
    drawn = one.interpreter.execute(code)
    seeds = Recording.load(one.path).facts.seeds
    expected = random.Random(seeds["random"])
    assert drawn == [expected.random(), numpy.random.RandomState(seeds["numpy"]).random_sample()]
    again = one.interpreter.execute("[random.random(), float(numpy.random.random())]")
    assert again != drawn, "seeded once, not at every step"


def test_without_record_nothing_is_seeded() -> None:
    """Two sessions that are not recorded draw different numbers."""
    with KernelInterpreter(sandbox=LocalSandbox()) as one, KernelInterpreter(sandbox=LocalSandbox()) as other:
        assert one.execute("import random; random.random()") != other.execute("import random; random.random()")
        assert one.recording is None
