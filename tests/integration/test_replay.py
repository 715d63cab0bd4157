"""replay(): recorded sessions run again in a real kernel."""

from __future__ import annotations

from typing import Any

import pytest

from daytona_kernel_interp.client.outputs import CellError, ExecuteResult, StreamText
from daytona_kernel_interp.errors import SandboxFailed
from daytona_kernel_interp.playback.compare import Tolerance
from daytona_kernel_interp.playback.replay import ReplayReport, replay
from daytona_kernel_interp.recording.model import Outcome
from tests.transcripts import LLM_QUERY, SEARCH, Maker

BATCHED = """
import threading
found = {}
def ask(word):
    found[word] = search(word, limit=1)
threads = [threading.Thread(target=ask, args=[word]) for word in words]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(sorted(found.items()))
"""


def printed(maker: Maker, code: str, text: str, **more: Any) -> None:
    maker.add(code, value=text, outputs=[StreamText("stdout", text)], **more)


def again(maker: Maker, **options: Any) -> ReplayReport:
    return replay(maker.transcript(), sandbox="local", **options)


def told(report: ReplayReport) -> list[tuple[int, str, str, str, str]]:
    return [(one.step, one.what, one.expected, one.came, one.cause) for one in report.divergences]


def session() -> Maker:
    """Return a session that comes out the same again."""
    maker = Maker()
    words = {"words": ["a", "b", "c"]}
    calls = [maker.call("search", word, limit=1, result=word.upper()) for word in "cab"]
    printed(maker, BATCHED, "[('a', 'A'), ('b', 'B'), ('c', 'C')]\n", variables=words, tools=[SEARCH], calls=calls)
    code = "try:\n    search('x')\nexcept KeyError as error:\n    print('no', error.message)"
    failed = maker.call("search", "x", error=("KeyError", ("KeyError", "LookupError"), "x is not there"))
    printed(maker, code, "no x is not there\n", variables=words, tools=[SEARCH], calls=[failed])
    calls = [maker.call("llm_query", "hi", result=answer) for answer in ("first", "second")]
    code = "print(llm_query('hi'), llm_query(prompt='hi'))"
    printed(maker, code, "first second\n", variables=words, tools=[LLM_QUERY], calls=calls)
    maker.add("len(found)", value=3, outputs=[ExecuteResult({"text/plain": "3"}, {})])
    answer = Outcome("submitted", "ok", value=maker.store.put({"n": 3, "words": {"a", "b"}}))
    maker.add("SUBMIT(3, words={'b', 'a'})", answer, fields=[{"name": "n", "type": "int"}, {"name": "words"}])
    return maker


def test_a_session_comes_out_the_same() -> None:
    """Concurrent calls, a tool's error, the same call twice, a value and SUBMIT come out as they did."""
    report = again(session())
    assert told(report) == []
    assert report.ok
    assert str(report) == "the recording: 5 steps replayed, no divergences"
    assert report.interpreter is None
    assert len(report.transcript.entries) == 5


def test_everything_that_differs_is_told() -> None:
    """Output, error, SUBMIT and calls that were not made, each with what was expected and what came."""
    maker = session()
    printed(maker, "print(1)", "2\n")
    maker.raised("1/0", "CodeExecutionError", "KeyError: 1", outputs=[CellError("KeyError", "1", "KeyError: 1")])
    maker.submitted("SUBMIT(n=1)", {"n": 2})
    unmade = maker.call("search", "never", result="x")
    printed(maker, "x = 5", "", tools=[SEARCH], calls=[unmade])
    report = again(maker)
    assert [(one.step, one.what) for one in report.divergences] == [
        (5, "output"),
        (6, "output"),
        (7, "outcome"),
        (8, "calls"),
    ]
    assert told(report)[0] == (5, "output", "2\n", "1\n", "")
    assert "ZeroDivisionError: division by zero" in report.divergences[1].came
    assert told(report)[2][2:4] == ("SUBMIT {'n': 2}", "SUBMIT {'n': 1}")
    assert told(report)[3][2:4] == ("search('never')", "(not called)")
    text = str(report)
    assert text.startswith("the recording: 9 steps replayed, 4 divergences\n")
    assert "step 5, output:\n    expected: 2\n    came:     1\n" in text


def test_a_call_that_is_not_on_the_tape() -> None:
    """The cell gets an error, the report shows the nearest recorded call, and nothing is called."""
    maker = Maker()
    call = maker.call("search", "apples", result="A")
    printed(maker, "print(search('pears'))", "A\n", tools=[SEARCH], calls=[call])
    report = again(maker)
    miss = next(one for one in report.divergences if one.expected == "(not called)")
    assert "step 0 calls search('pears'), which is not on the tape. The most similar recorded call:" in miss.came
    assert "-search('apples')\n+search('pears')" in miss.came
    assert "ReplayMismatch: step 0 calls" in next(one for one in report.divergences if one.what == "outcome").came
    assert any(one.cause == "a call is not on the tape" for one in report.divergences)


def test_chance_is_called_by_its_name() -> None:
    """A difference that the code's own time, random numbers or addresses make says so; what follows from it, too."""
    maker = Maker()
    printed(maker, "import random, time\nprint(random.random())", "0.5\n")
    printed(maker, "x = random.random()", "")
    printed(maker, "print(x)", "0.25\n")
    printed(maker, "print(time.time_ns())", "1\n")
    printed(maker, "print(object())", "<object object at 0x7f0000000000>\n")
    printed(maker, "y = 4\nprint(y)", "5\n")
    printed(maker, "print(y + 1)", "6\n")
    causes = {one.step: one.cause for one in again(maker).divergences}
    assert causes == {
        0: "nondeterministic: random",
        2: "nondeterministic: random (step 1)",
        3: "nondeterministic: time",
        4: "nondeterministic: memory address",
        5: "",
        6: "follows from step 5",
    }


def test_tolerance() -> None:
    """What may differ does not, the rest does."""
    maker = Maker()
    printed(maker, "print(object())", "<object object at 0x7f0000000000>\n")
    printed(maker, "print(1/3)", "0.3333333334\n")
    printed(maker, "import tempfile\nprint(tempfile.mkdtemp(dir='/tmp'))", "/tmp/tmpabc\n")
    printed(maker, "print('a')", "b\n")
    assert [one.step for one in again(maker, tolerance=True).divergences] == [3]
    assert [one.step for one in again(maker, tolerance=Tolerance(paths=False)).divergences] == [2, 3]


def test_impossible_limits_of_a_recording_are_ignored() -> None:
    """A file whose options an interpreter would refuse is replayed with the defaults."""
    maker = Maker()
    printed(maker, "print(1)", "1\n")
    options = {"max_output_chars": "many", "max_value_bytes": -1, "execution_timeout": True}
    assert replay(maker.transcript(options=options), sandbox="local").ok


def test_time_travel() -> None:
    """until= hands over the live session as it was before that step; its tools are live then."""
    maker = session()
    with again(maker, until=3, live_tools=None) as report:
        assert (report.ok, report.steps) == (True, 3)
        interpreter = report.interpreter
        assert interpreter is not None
        assert interpreter.execute("sorted(found)") == ["a", "b", "c"]
        interpreter.tools["search"] = lambda query: f"live {query}"
        assert interpreter.execute("search('q')") == "live q"
        assert interpreter.output_fields is None
    with pytest.raises(Exception, match="shut down"):
        interpreter.start()


def test_what_if() -> None:
    """Other code for a step: what differs from there on says so; live tools answer what the tape does not have."""
    maker = session()
    asked: list[str] = []

    def search(query: str, limit: int = 5) -> str:
        asked.append(query)
        return f"live {query}"

    edits = {1: "print(search('new'))", 3: "found = {}\nlen(found)"}
    report = again(maker, edits=edits, live_tools={"search": search}, keep=True)
    with report:
        assert report.interpreter is not None
        assert report.interpreter.execute("search('z')") == "live z"
    assert sorted(asked) == ["a", "b", "c", "new", "z"]
    assert {one.step: one.cause for one in report.divergences if one.what == "output"} == {
        0: "live tool",
        1: "edited: step 1",
        3: "edited: step 3",
    }
    live = [one for one in report.divergences if one.what == "calls" and one.cause == "live tool"]
    assert {(one.step, one.expected) for one in live} == {
        (0, "search('a', limit=1) → A"),
        (0, "search('b', limit=1) → B"),
        (0, "search('c', limit=1) → C"),
    }
    assert all("→ live" in one.came for one in live)


def test_changed_code_may_call_what_nobody_had_then() -> None:
    """A live tool that the recording does not have is there from the first edit on, and not before."""
    maker = Maker()
    printed(maker, "print('fresh' in dir())", "False\n")
    printed(maker, "print(1)", "1\n")
    printed(maker, "print('fresh' in dir())", "True\n")
    assert told(again(maker, edits={1: "print(fresh(0))"}, live_tools={"fresh": lambda number: number + 1})) == []


def test_not_all_that_differs_after_an_edit_comes_of_it() -> None:
    """What follows from the edit says so; what would have differed anyway says why."""
    maker = Maker()
    printed(maker, "import os; x = 1; print(x)", "1\n")
    printed(maker, "print(os.getpid())", "1\n")
    printed(maker, "print(x)", "1\n")
    report = again(maker, edits={0: "import os; x = 2; print(x)"})
    causes = {one.step: one.cause for one in report.divergences if one.what == "output"}
    assert causes == {0: "edited: step 0", 1: "nondeterministic: process id", 2: "edited: step 0"}


def test_how_steps_that_were_stopped_are_replayed() -> None:
    """One that timed out does so again; one that cost its kernel is left out, and a fresh kernel goes on."""
    maker = Maker()
    printed(maker, "x = 1\nprint(x)", "1\n")
    text = "TimeoutError: the cell was interrupted after execution_timeout=0.2 s; variables kept"
    maker.raised("print('on')\nwhile True: pass", "CodeExecutionError", text, "timeout")
    maker.raised("while True: pass", "CodeExecutionError", "KeyboardInterrupt: x", "interrupted")
    maker.raised("import os; os._exit(3)", "CodeInterpreterError", "KernelDied: x", "died")
    printed(maker, "print('x' in dir())", "False\n")
    maker.add("cut", Outcome("unfinished", "unknown"))
    report = again(maker)
    assert told(report) == []
    assert [(one.step, one.why) for one in report.skipped] == [
        (3, "its kernel died; run_died=True runs it"),
        (5, "the host ended first"),
    ]
    died = again(maker, run_died=True)
    assert [one.step for one in died.skipped] == [5]
    assert [(one.step, one.what) for one in died.divergences] == [(3, "outcome")]
    assert died.divergences[0].came.startswith("CodeInterpreterError (died): KernelDied")


def test_a_kernel_that_dies_in_the_replay_only() -> None:
    """The step is a divergence, and what comes after it is said not to have run."""
    maker = Maker()
    printed(maker, "import os; os._exit(3)", "fine\n")
    printed(maker, "print(1)", "1\n")
    report = again(maker, keep=True)
    assert [one.step for one in report.divergences][:1] == [0]
    assert [(one.step, one.why) for one in report.skipped] == [(1, "the replay's kernel was lost in step 0")]
    assert report.interpreter is None


def test_a_call_that_was_never_answered() -> None:
    """It waits as it did then, until its cell is stopped."""
    maker = Maker()
    call = maker.call("search", "x")
    object.__setattr__(call, "result", None)
    text = "TimeoutError: the cell was interrupted after execution_timeout=0.3 s; variables kept"
    maker.raised("search('x')", "CodeExecutionError", text, "timeout", tools=[SEARCH], calls=[call])
    printed(maker, "print(1)", "1\n")
    assert told(again(maker)) == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"until": 9}, "the recording has 5 steps: until must be from 0 to 5, not 9"),
        ({"edits": {7: "x"}}, "the recording has no step 7 to edit: its steps are 0 to 4"),
        ({"edits": {1: None}}, "the new code of step 1 must be a str, not NoneType"),
        (
            {"live_tools": {"serach": len}},
            "the recording has no tool 'serach' to call live: its tools are llm_query, search",
        ),
    ],
)
def test_wrong_options(options: dict[str, Any], text: str) -> None:
    """A step or a tool that there is not is refused before anything starts."""
    with pytest.raises(ValueError, match=text):
        again(session(), **options)


def test_the_sandbox_is_never_chosen_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a choice nothing is run."""
    monkeypatch.delenv("DAYTONA_KERNEL_SANDBOX", raising=False)
    monkeypatch.delenv("DAYTONA_API_KEY", raising=False)
    with pytest.raises(SandboxFailed, match="No sandbox was chosen"):
        replay(session().transcript())
