"""The demo: the script's run from heading to answer, a stand-in for a real model, and its refusals."""

from __future__ import annotations

import importlib.util
import re
from typing import TYPE_CHECKING, Any

import dspy
import pytest

from daytona_kernel_interp import Recording, demo
from daytona_kernel_interp.cli import command_line as cli
from daytona_kernel_interp.demo.script import STEPS, ScriptedStep, classify_mistake, rule_based_lm, scripted_lm
from daytona_kernel_interp.demo.session import Screen

if TYPE_CHECKING:
    from pathlib import Path

needs_matplotlib = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs the extra `demo`")
pytestmark = pytest.mark.dspy

PNG = b"\x89PNG\r\n\x1a\n"


@needs_matplotlib
def test_the_script_runs_to_its_answer(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six steps on a real kernel, with host calls, a figure and a typed answer; a key changes nothing of it."""
    monkeypatch.setenv("OPENROUTER_API_KEY", "not a key")
    folder = tmp_path / "new" / "figures"
    notebook = tmp_path / "demo.ipynb"
    assert cli.main(["demo", "--output", str(folder), "--record", str(notebook)]) == 0
    shown, err = capfd.readouterr()
    assert err == ""
    assert "model     none." in shown
    assert "without isolation" in shown
    assert re.findall(r"Step (\d)", shown) == [str(number) for number in range(1, len(STEPS) + 1)]
    assert "exception_family('None') → KeyError" in shown
    assert "left out: 'Python has no exception called None'" in shown
    assert re.search(r"llm_query_batched\(\d+ prompts\) .+ \d+ answers, first '", shown)
    assert "Traceback" not in shown
    assert re.search(r"answer +\d+ sentences warn of: ", shown)
    assert shown.count("  - ") == 5
    assert (folder / "figure-1.png").read_bytes().startswith(PNG)
    assert str(folder / "figure-1.png") in shown
    recording = Recording.load(notebook)
    assert str(notebook) in shown
    assert [step.reasoning for step in recording][-len(STEPS) :] == [step.reasoning for step in STEPS]
    assert any("image/png" in getattr(output, "data", {}) for step in recording for output in step.outputs)
    assert recording[-1].outcome.kind == "submitted"


@needs_matplotlib
def test_a_model_gets_the_users_text_and_question(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --model the LM of that name is asked, about --file and --question; code that fails is shown and survived."""
    steps = [
        ScriptedStep("Look.", "print(question)\nprint(text.splitlines()[1])\nundefined"),
        ScriptedStep("Ask.", "kind = llm_query('A sentence.\\n\\nthe wrong type')"),
        ScriptedStep("Answer.", "SUBMIT(answer=kind, evidence=[text[:5]])"),
    ]
    script = scripted_lm(steps)
    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return classify_mistake(prompt) if prompt.startswith("A sentence.") else str(script(prompt)[0])

    names: list[str] = []
    _replace_lm(monkeypatch, rule_based_lm("stand-in", answer), names)
    text = tmp_path / "text.txt"
    text.write_text("first\nsecond\n")
    monkeypatch.setenv("OPENAI_API_KEY", "not a key")
    arguments = ["--model", "openai/some", "--file", str(text), "--question", "What comes second?"]
    assert cli.main(["demo", "--output", str(tmp_path), *arguments]) == 0
    shown = capfd.readouterr().out
    assert names == ["openai/some"]
    assert len(asked) == 4
    assert "model     openai/some" in shown
    assert "What comes second?\n" in shown
    assert "NameError: name 'undefined' is not defined" in shown
    assert re.search(r"answer +wrong type\n +evidence +- first\n", shown)


@needs_matplotlib
def test_a_model_that_cannot_be_reached_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed request ends the run with one sentence and exit code 1."""

    def fail(prompt: str) -> str:
        raise ConnectionError("no route to host\nand more")

    _replace_lm(monkeypatch, rule_based_lm("stand-in", fail), [])
    monkeypatch.setenv("OPENROUTER_API_KEY", "not a key")
    assert cli.main(["demo", "--output", str(tmp_path), "--model"]) == 1
    err = capfd.readouterr().err
    assert err.startswith(f"daytona-kernel: {demo.DEFAULT_MODEL} did not answer: ")
    assert "no route to host" in err
    assert err.count("\n") == 1


@needs_matplotlib
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model"], f"{demo.DEFAULT_MODEL} needs a key: set OPENROUTER_API_KEY"),
        (["--model", "anthropic/some"], "anthropic/some needs a key: set ANTHROPIC_API_KEY"),
        (["--file", "README.md"], "--file and --question need --model"),
        (["--question", "Why?"], "--file and --question need --model"),
        (["--model", "--file", "no-such-file"], "no-such-file cannot be read: No such file or directory"),
        (["--model", "--file", "{binary}"], "is not text in UTF-8"),
        (["--model", "--file", "{empty}"], "is empty"),
        (["--output", "{empty}"], "cannot be made: File exists"),
    ],
)
def test_refusals(arguments: list[str], sentence: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What cannot be followed is refused with one sentence and exit code 2, before anything starts."""
    files = {"binary": tmp_path / "binary", "empty": tmp_path / "empty"}
    files["binary"].write_bytes(b"\x89PNG")
    files["empty"].touch()
    assert cli.main(["demo", *(argument.format_map(files) for argument in arguments)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert sentence in err
    assert err.count("\n") == 1


def test_without_matplotlib_it_says_what_to_install(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where matplotlib is missing, one sentence says how to get it."""
    _hide(monkeypatch, "matplotlib")
    assert cli.main(["demo"]) == 2
    assert capfd.readouterr().err.endswith('which needs matplotlib: pip install -e ".[demo]"\n')


def test_without_rich_it_is_plain_text(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where rich is missing, the same is shown in plain text."""
    _hide(monkeypatch, "rich")
    screen = Screen()
    screen.title("Step 1")
    screen.code("if x:\n    y")
    screen.output("half a ")
    screen.output("line\nrest")
    screen.call("tool(1)", "2")
    lines = capfd.readouterr().out.splitlines()
    assert [line for line in lines if line and not line.startswith("──")] == [
        "    if x:",
        "        y",
        "  │ half a line",
        "  │ rest",
        "  ▶ tool(1) → 2",
    ]


def test_output_cannot_steer_the_terminal(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Control characters of what the code printed do not reach the terminal, with rich and without it."""
    coloured = Screen()
    _hide(monkeypatch, "rich")
    for screen in (coloured, Screen()):
        screen.output("\x1b]0;title\x07 \x9b31m red [bold]\r\n")
    shown = capfd.readouterr().out
    assert not set("\x1b\x07\x9b\r") & set(shown)
    assert shown.count("[bold]") == 2


@pytest.mark.parametrize(
    ("sentence", "kind"),
    [
        ("If there are too many positional arguments, TypeError is raised.", "wrong arguments"),
        ('If *key* is missing, "KeyError" should be raised.', "nothing there"),
        ("Ordering comparison across these types raises TypeError.", "wrong type"),
        ("Division by zero raises ZeroDivisionError.", "bad value"),
        ("It raises an exception.", "other"),
    ],
)
def test_the_rule_reads_the_sentence(sentence: str, kind: str) -> None:
    """The sub-model's answer follows from the words of the sentence, not from those of the question."""
    prompt = f"Which type of mistake? Answer with one of ['zero', 'missing'].\n\n{sentence}"
    assert rule_based_lm("rule", classify_mistake)(prompt) == [kind]


def test_a_script_that_is_over_says_so() -> None:
    """A further request than there are steps is an error, never a step repeated."""
    lm = scripted_lm([ScriptedStep("Only one.", "1")])
    assert "```python\n1\n```" in lm("first")[0]
    with pytest.raises(Exception, match="the script has no further step"):
        lm("second")


@needs_matplotlib
@pytest.mark.live("OPENROUTER_API_KEY")
@pytest.mark.timeout(600)
def test_a_real_model_answers(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`--model` alone asks the default model about Python's reference, and it submits an answer."""
    assert cli.main(["demo", "--output", str(tmp_path), "--model"]) == 0
    assert re.search(r"answer +\S", capfd.readouterr().out)


def _replace_lm(monkeypatch: pytest.MonkeyPatch, lm: Any, names: list[str]) -> None:
    def stand_in(name: str) -> Any:
        names.append(name)
        return lm

    monkeypatch.setattr(dspy, "LM", stand_in)


def _hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find_spec(name))
