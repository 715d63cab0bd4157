"""A real dspy.RLM run, recorded, and then run again: offline, in a kernel, and from the command line."""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING, Any

import dspy
import nbformat
import pytest
from dspy.primitives.code_interpreter import CodeInterpreterError

from daytona_kernel_interp import KernelInterpreter, Recording, ReplayInterpreter, diff, replay
from daytona_kernel_interp.cli import command_line as cli
from daytona_kernel_interp.demo.script import ScriptedStep, rule_based_lm, scripted_lm
from daytona_kernel_interp.errors import RecordingError, ReplayMismatch

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.dspy

RLM: Any = dspy.RLM  # its types know the keyword on some versions only
INPUTS = {"text": "pears and apples, " * 5000, "n": 3}
STEPS = [
    ScriptedStep("Look.", "import random\nprint(len(text), random.random(), random.choice(range(1000)))"),
    ScriptedStep("Ask.", "answers = llm_query_batched([f'q{i}' for i in range(n)])\nprint(answers, llm_query('one'))"),
    ScriptedStep(
        "Use the tool.", "print(sorted(look(word) for word in ('pears', 'apples')))\nprint('oh', file=sys.stderr)"
    ),
    ScriptedStep("Mend.", "try:\n    look('stones')\nexcept KeyError as error:\n    print(repr(error))"),
    ScriptedStep("Answer.", "SUBMIT(answer=answers[0], score=0.5)"),
]
SEEN: list[str] = []


def look(word: str) -> int:
    """Look a word up."""
    SEEN.append(word)
    return {"pears": 1, "apples": 2}[word]


def run(interpreter: Any, lm: Any) -> Any:
    rlm = RLM(
        "text, n: int -> answer: str, score: float",
        interpreter=interpreter,
        tools=[look],
        sub_lm=rule_based_lm("echo", lambda prompt: f"echo {prompt}"),
    )
    with dspy.context(lm=lm, callbacks=[Recording.callback()]):
        return rlm(**INPUTS)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A recording, and what the run returned."""
    path = tmp_path_factory.mktemp("recorded") / "run.ipynb"
    with KernelInterpreter(sandbox="local", record=path) as interpreter:
        result = run(interpreter, scripted_lm(STEPS))
    SEEN.clear()
    return path, result


def test_the_whole_run_again_offline(recorded: tuple[Path, Any]) -> None:
    """Model and kernel from the notebook: the same trajectory and answer, no tool called, nothing left over."""
    path, result = recorded
    interpreter, lm = ReplayInterpreter(path), Recording.load(path).lm()
    again = run(interpreter, lm)
    assert (again.answer, again.score, again.trajectory) == (result.answer, result.score, result.trajectory)
    assert (interpreter.left, lm.left, SEEN) == (0, 0, [])


async def test_the_whole_run_again_offline_async(recorded: tuple[Path, Any]) -> None:
    """The same by acall."""
    path, result = recorded
    rlm = RLM("text, n: int -> answer: str, score: float", interpreter=ReplayInterpreter(path), tools=[look])
    with dspy.context(lm=Recording.load(path).lm()):
        again = await rlm.acall(**INPUTS)
    assert (again.answer, again.trajectory) == (result.answer, result.trajectory)


def test_another_input_is_a_mismatch(recorded: tuple[Path, Any]) -> None:
    """The first request that was not recorded ends the run."""
    path, _ = recorded
    rlm = RLM("text, n: int -> answer: str, score: float", interpreter=ReplayInterpreter(path), tools=[look])
    with dspy.context(lm=Recording.load(path).lm()), pytest.raises(ReplayMismatch, match=r"^run\.ipynb|the recording"):
        rlm(text="other", n=3)


def test_in_a_kernel(recorded: tuple[Path, Any]) -> None:
    """All comes out as it did, random numbers included, since their seeds are set again; no tool is called."""
    path, _ = recorded
    report = replay(path, sandbox="local")
    assert str(report) == f"run.ipynb: {report.steps} steps replayed, no divergences"
    assert report.steps >= len(STEPS)
    assert SEEN == []
    assert diff(path, report.transcript).same


def test_other_seeds_come_out_otherwise(recorded: tuple[Path, Any], tmp_path: Path) -> None:
    """Without them the difference is called by its name: it was they that made it come out the same."""
    path, _ = recorded
    recording = Recording.load(path)
    object.__setattr__(recording.transcript.facts, "seeds", {"random": random.Random(5).randrange(1 << 30)})
    report = replay(recording, sandbox="local")
    assert [one.cause for one in report.divergences] == ["nondeterministic: random"]


def test_the_command_line(recorded: tuple[Path, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Exit code 0 for a run that comes out the same, 1 for one that does not, 2 for what is no recording."""
    path, _ = recorded
    edit = tmp_path / "new.py"
    edit.write_text("print('edited')")
    last = str(len(Recording.load(path)) - 1)
    assert cli.main(["replay", str(path), "--sandbox", "local", "--until", last, "--tolerant"]) == 0
    assert capsys.readouterr().out == f"run.ipynb: {last} steps replayed, no divergences\n"
    command = ["replay", str(path), "--sandbox", "local", "--edit", f"{int(last) - 1}={edit}", "--until", last]
    assert cli.main(command) == 1
    shown = capsys.readouterr().out
    assert f"(edited: step {int(last) - 1})" in shown
    assert "came:     edited" in shown
    assert cli.main(["diff", str(path), str(path)]) == 0
    assert "are the same" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["missing.ipynb"], "missing.ipynb cannot be read: No such file or directory."),
        (["RUN", "--until", "99"], "until must be from 0 to"),
        (["RUN", "--edit", "99=FILE"], "has no step 99 to edit"),
        (["RUN", "--edit", "1=missing.py"], "missing.py cannot be read: No such file or directory."),
        (["RUN", "--floats", "0.1"], "--floats is an option of --tolerant: give both."),
        (["RUN", "--tolerant", "--floats", "-1"], "floats must be a relative difference such as 1e-6"),
        (["FILE"], "FILE is no notebook"),
    ],
)
def test_bad_input(
    recorded: tuple[Path, Any], arguments: list[str], text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """One sentence, exit code 2, and nothing started."""
    file = tmp_path / "file.txt"
    file.write_text("print(1)")
    named = [part.replace("RUN", str(recorded[0])).replace("FILE", str(file)) for part in arguments]
    assert cli.main(["replay", *named, "--sandbox", "local"]) == 2
    shown = capsys.readouterr().err
    assert text.replace("FILE", str(file)) in shown
    assert len(shown.splitlines()) == 1


def test_a_missing_side_file(recorded: tuple[Path, Any], tmp_path: Path) -> None:
    """The replay that needs it says which and where; what does not need it goes on."""
    path, _ = recorded
    copied = tmp_path / "run.ipynb"
    shutil.copy(path, copied)
    with pytest.raises(RecordingError, match=r"is missing: .* cannot be read .*Keep run\.values/ beside the notebook"):
        replay(copied, sandbox="local")
    assert len(Recording.load(copied)) == len(Recording.load(path))


def test_a_tape_edited_by_hand(recorded: tuple[Path, Any], tmp_path: Path) -> None:
    """Changed code is reported as changed, together with its new result."""
    path, _ = recorded
    copied = tmp_path / "run.ipynb"
    copied.write_text(path.read_text(encoding="utf-8").replace("print(repr(error))", "print(str(error))"))
    shutil.copytree(path.with_name("run.values"), tmp_path / "run.values")
    report = replay(copied, sandbox="local")
    assert any("was edited after it was recorded" in problem for problem in report.problems)
    assert [one.what for one in report.divergences] == ["output"]
    assert "note: Step " in str(report)


def test_a_notebook_of_somebody_else(tmp_path: Path) -> None:
    """It is refused with its name and a remedy; on request its cells run and their outputs are compared."""
    path = tmp_path / "other.ipynb"
    stream: Any = nbformat.v4.new_output("stream", name="stdout", text="2\n")
    failed: Any = nbformat.v4.new_output("error", ename="KeyError", evalue="1", traceback=["\x1b[0;31mKeyError\x1b[0m"])
    value: Any = nbformat.v4.new_output("execute_result", data={"text/plain": "3"}, execution_count=3)
    sources = [("x = 1\nprint(x + 1)", [stream]), ("{}[1]", [failed]), ("x + 2", [value]), ("print(x)", [stream])]
    cells = [nbformat.v4.new_code_cell(source, outputs=outputs) for source, outputs in sources]
    cells.insert(1, nbformat.v4.new_markdown_cell("words"))
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    with pytest.raises(RecordingError, match=r"is a notebook, but no recording.*replay\(path, plain=True\)"):
        replay(path, sandbox="local")
    report = replay(path, sandbox="local", plain=True)
    assert (report.name, report.steps) == ("other.ipynb", 4)
    assert [(one.step, one.expected, one.came) for one in report.divergences] == [(3, "2\n", "1\n")]
    assert cli.main(["replay", str(path), "--sandbox", "local", "--plain", "--until", "3"]) == 0


def test_what_is_no_python_notebook(tmp_path: Path) -> None:
    """Another language, and what is no notebook at all."""
    path = tmp_path / "other.ipynb"
    other = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "ir", "display_name": "R", "language": "R"}})
    nbformat.write(other, path)
    with pytest.raises(RecordingError, match="is a notebook in R; only Python notebooks can be run"):
        replay(path, sandbox="local", plain=True)
    path.write_text("no JSON")
    with pytest.raises(RecordingError, match="is no notebook"):
        replay(path, sandbox="local", plain=True)


def test_values_that_were_put(tmp_path: Path) -> None:
    """put() is a step: offline it must be the same, in a kernel it is done again; get() has no answer offline."""
    path = tmp_path / "run.ipynb"
    with KernelInterpreter(sandbox="local", record=path) as interpreter:
        interpreter.put(numbers=[1, 2])
        assert interpreter.execute("sum(numbers)") == 3
    offline = ReplayInterpreter(path)
    offline.put(numbers=[1, 2])
    assert offline.execute("sum(numbers)") == 3
    with pytest.raises(CodeInterpreterError, match=r"get\('numbers'\) is not available offline"):
        offline.get("numbers")
    with pytest.raises(ReplayMismatch, match="another value of the variable 'numbers'"):
        ReplayInterpreter(path).put(numbers=[1, 3])
    assert replay(path, sandbox="local").ok
