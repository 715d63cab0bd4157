"""README.md holds: its examples run on the real RLM and the real kernel, and its links lead somewhere."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dspy
import pytest
from dspy.dsp.utils.settings import settings

from daytona_kernel_interp import KernelInterpreter, Recording, SessionNotFound
from daytona_kernel_interp.demo.script import ScriptedStep, scripted_lm

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.dspy

PROJECT = Path(__file__).parent.parent
README = (PROJECT / "README.md").read_text(encoding="utf-8")
MODEL = "openrouter/google/gemini-3-flash-preview"

PRIMES = (
    ScriptedStep(
        "I need ten primes.",
        "primes = [n for n in range(2, 40) if all(n % d for d in range(2, n))][:10]\nprint(primes)",
    ),
    ScriptedStep("They are still there to be summed.", "SUBMIT(answer=sum(primes))"),
)
KNOWLEDGE_BASE = (
    ScriptedStep("I search first.", "articles = search_knowledge_base('refund')\nprint(articles)"),
    ScriptedStep("The second sentence has it.", "SUBMIT(articles[0].rstrip('.').partition(' take ')[2])"),
)


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


@pytest.fixture
def _configured_again() -> Iterator[None]:
    """Take back what an example configures."""
    before = settings.lm
    yield
    dspy.configure(lm=before)


@pytest.mark.usefixtures("_configured_again")
@pytest.mark.parametrize(("number", "steps"), [(0, PRIMES), (1, KNOWLEDGE_BASE)], ids=["primes", "knowledge base"])
def test_first_examples(
    number: int, steps: tuple[ScriptedStep, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each first example, run as it stands with only the model replaced, prints what its comment says."""
    code = _blocks("python")[number]
    script, names = scripted_lm(steps), []

    def stand_in(name: str) -> Any:
        names.append(name)
        return script

    monkeypatch.setattr(dspy, "LM", stand_in)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(code, f"README.md, example {number + 1}", "exec"), namespace)
    assert names == [MODEL]
    expected = re.findall(r"^print\(.*\)  # (.+)$", code, re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == expected
    assert len(namespace["result"].trajectory) == len(steps)


def test_daytona_example() -> None:
    """The example of a description makes what it says, and starts nothing."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(_blocks("python")[2], "README.md, example 3", "exec"), namespace)
    assert namespace["sandbox"].network_block_all
    with pytest.raises(SessionNotFound):
        _ = namespace["interpreter"].session_id


def test_emulator_example(capsys: pytest.CaptureFixture[str]) -> None:
    """The example on the emulated Daytona, run as it stands, prints what its comments say."""
    code = next(block for block in _blocks("python") if "DaytonaEmulator" in block)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    try:
        exec(compile(code, "README.md, example 4", "exec"), namespace)
    finally:
        # The sync SDK has no close(): its event thread would dial the emulator's port to the end of the session.
        if "daytona" in namespace:
            namespace["daytona"]._event_dispatcher.disconnect()
    expected = re.findall(r"print\(.*\)  # (.+)$", code, re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == expected
    assert len(expected) == 3


def test_replay_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The example of a replay, run as it stands on a recording of that run, prints what its comment says."""
    monkeypatch.chdir(tmp_path)
    rlm: Any = dspy.RLM  # its types know the keyword on some versions only
    with KernelInterpreter(sandbox="local", record="run.ipynb") as interpreter:
        steps = [ScriptedStep("Count the words.", "SUBMIT(answer=str(len(text.split())))")]
        with dspy.context(lm=scripted_lm(steps), callbacks=[Recording.callback()]):
            rlm("text -> answer", interpreter=interpreter)(text="one two three")
    code = next(block for block in _blocks("python") if "ReplayInterpreter" in block)
    exec(compile(code, "README.md, replay", "exec"), {"__name__": "__main__"})
    expected = re.findall(r"print\(.*\)  # (.+)$", code, re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == expected == ["3"]


def test_every_example_is_run() -> None:
    """No Python block was added that nothing runs."""
    assert len(_blocks("python")) == 5
    assert len(_blocks("pycon")) == 5


def test_the_example_is_ten_lines() -> None:
    """The section called ten lines shows no more than ten."""
    lines = _blocks("python")[0].splitlines()
    assert len(lines) <= 10


def test_sessions_show_what_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interactive sessions, run as one, give what they show."""
    monkeypatch.chdir(tmp_path)
    session = "\n".join(_blocks("pycon"))
    test = doctest.DocTestParser().get_doctest(session, {}, "README.md", "README.md", 0)
    report: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert result.failed == 0, "".join(report)
    assert result.attempted > 10


@pytest.mark.parametrize("path", ["README.md", "docs/architecture.md"])
def test_links_lead_somewhere(path: str) -> None:
    """Every relative link of a document names a file of this project."""
    document = PROJECT / path
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text(encoding="utf-8"))
    assert [target for target in targets if not (document.parent / target).exists()] == []


def test_names_of_modules_are_true() -> None:
    """Every module that the architecture page names exists, and every module of the package is named there."""
    page = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
    package = PROJECT / "daytona_kernel_interp"
    named = set(re.findall(r"`([a-z_/]+(?:\.py|/))`", page))
    assert {name for name in named if not (package / name).exists()} == set()
    existing = {path.name for path in package.glob("*.py")} | {
        f"{path.parent.name}/" for path in package.glob("*/*.py")
    }
    assert existing - named == set()
