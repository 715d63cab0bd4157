"""A recorded session as a page, as JSON lines and in a notebook, from Python and from the command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.cli import command_line as cli
from daytona_kernel_interp.client.outputs import StreamText
from daytona_kernel_interp.export.rlm import to_jsonl
from daytona_kernel_interp.page import html as report
from daytona_kernel_interp.page.notebook_view import to_card
from daytona_kernel_interp.page.shown_values import as_text, heading, text_of
from daytona_kernel_interp.recording.model import in_utc
from daytona_kernel_interp.recording.recording import Recording
from tests import examples
from tests.rendered import html_of
from tests.sessions import MemoryStore, long, small
from tests.transcripts import write
from tests.unit.transcripts import transcripts

if TYPE_CHECKING:
    from pathlib import Path

    from daytona_kernel_interp.recording.model import Transcript


@examples.at_most(25)
@given(transcripts())
def test_every_session_can_be_shown(session: Transcript) -> None:
    """Any session renders as a page with every step, as lines and in a notebook."""
    page = report.to_html(session, "any")
    assert page.count('<details class="step') == len(session.entries)
    assert page.count("<script") == 1
    assert len([json.loads(line) for line in to_jsonl(session).split("\n")[:-1]]) == 1 + len(session.entries)
    assert to_card(session, "any").startswith("<div")


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -5.0, 1e300, None])
@pytest.mark.parametrize("began", [datetime.min.replace(tzinfo=timezone(timedelta(hours=5))), datetime.max])
def test_impossible_times_can_be_shown(seconds: Any, began: datetime) -> None:
    """A session with impossible times in its file is rendered without these times."""
    session, began = small(), in_utc(began)  # as the reader does
    calls = [replace(one, began_s=seconds or 0.0, elapsed_s=seconds) for one in session.entries[1].calls]
    entries = [replace(one, began=began, elapsed_s=seconds, calls=calls) for one in session.entries]
    asked = [replace(one, began=began, elapsed_s=seconds) for one in session.lm_calls]
    odd = replace(session, facts=replace(session.facts, began=began), entries=entries, lm_calls=asked)
    for _ in (0, 1):
        assert report.to_html(odd, "x").count('<details class="step') == 5
        assert to_jsonl(odd).count("\n") == 6
        assert to_card(odd, "x").count("<details>") == 5
        odd = replace(odd, facts=session.facts)


def test_page_is_whole_in_itself() -> None:
    """The page refers to no other file; its policy forbids loading and allows one script."""
    page = report.to_html(small(), "run.ipynb")
    assert re.findall(r'(?:src|href)="(?!data:|#)([^"]*)"', page) == ["https://example.org"]  # a link of the reasoning
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src &#39;none&#39;; script-src &#39;sha256-")
    assert "unsafe" not in policy.replace("style-src &#39;unsafe-inline&#39;", "")


def test_what_is_missing_is_said() -> None:
    """The top of the page lists problems of the recording, a host that died and a missing callback."""
    session = replace(small(), problems=["A value is missing."], complete=False, callback=False)
    bare = replace(session, entries=[replace(one, reasoning=None) for one in session.entries])
    page = report.to_html(bare, "x")
    for wanted in ("A value is missing.", "was not shut down", "Recorded without DSPy&#39;s callback"):
        assert wanted in page
    assert "Recorded without" not in report.to_html(session, "x")


def test_values_that_are_lost_have_their_summary() -> None:
    """A session whose values are missing is rendered with the summaries from the notebook."""
    session = small()
    page = report.to_html(replace(session, store=MemoryStore()), "x").replace("&#39;", "'")
    assert session.entries[1].calls[0].arguments.summary in page
    assert "Recorded session" in page


def test_colours_end_where_they_would_be_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a long session only the code of the first steps is highlighted; all code is on the page."""
    monkeypatch.setattr(report, "COLOURED_CHARS", len(small().entries[0].code))
    page = report.to_html(small(), "x")
    assert '<i class="k">import' in page
    assert '<pre class="code">hits = await asyncio' in page


def test_dspys_preparations_are_no_step_of_the_model() -> None:
    """The setup step of DSPy's RLM is labelled, stays closed, and is not exported for the visualizer."""
    session = small()
    setup = replace(session.entries[0], reasoning=None, variables={"__dspy_host_token": session.store.put("x")})  # type: ignore[attr-defined]
    prepared = replace(session, entries=[setup, *session.entries[1:]])
    page = report.to_html(prepared, "x")
    assert "DSPy&#39;s setup" in page
    assert '<details class="step ok" id="s0">' in page
    assert '<details class="step ok calls" id="s1" open>' in page
    assert to_jsonl(prepared).count('"type":"iteration"') == 4
    assert "DSPy&#x27;s setup" in to_card(prepared, "x")


@pytest.mark.parametrize(
    ("markdown", "shown"),
    [
        ("# Plan: **count** by `kind`\n\nThen more.", "Plan: count by kind"),
        ("*Why* is open; see [the docs](https://example.org/a)", "Why is open; see the docs"),
        ("- first\n- second", "first second"),
        ("snake_case_name and 2 * 3 * 4 stay", "snake_case_name and 2 * 3 * 4 stay"),
    ],
)
def test_headings_have_no_marks(markdown: str, shown: str) -> None:
    """The heading of a step is the first paragraph of its reasoning, without markup."""
    assert heading(markdown) == shown


def test_lists_of_texts_are_read_one_by_one() -> None:
    """A list of long texts is shown text by text with their lines; a list of short words stays a list."""
    assert as_text(["one\ntwo", "three"]) == "[0] one\ntwo\n\n[1] three"
    assert as_text(["a", "b"]) == "['a', 'b']"


def test_large_values_take_no_time() -> None:
    """A list of half a million numbers is not laid out by item, and a larger one is not decoded."""
    store = MemoryStore()
    assert text_of(store.put([1] * 400_000), store).startswith("[1, 1, 1,")
    assert text_of(ref := store.put(["x"] * 400_000), store) == ref.summary
    assert "\n" in text_of(store.put([{"name": "x" * 60}] * 4), store)


@given(st.lists(st.integers(0, 50_000), max_size=60), st.integers(40_000, 500_000))
def test_texts_fit_into_what_there_is(lengths: list[int], budget: int) -> None:
    """Texts cut at the computed length fit into the budget, and no text is cut needlessly."""
    at = report.fair_cut(lengths, budget)
    assert sum(min(length, at) for length in lengths) <= max(budget, report.MIN_CUT_CHARS * len(lengths))
    if sum(min(length, report.MAX_CUT_CHARS) for length in lengths) <= budget // 2:
        assert all(length <= at for length in lengths if length <= report.MAX_CUT_CHARS)


def test_a_long_session_is_a_small_page() -> None:
    """Two hundred steps with any amount of output are a page of at most 5 MB."""
    session = long(200)
    loud = [StreamText("stdout", "a loud line\n" * 20_000)]
    shouting = [replace(one, outputs=loud) for one in session.entries]
    page = report.to_html(replace(session, entries=shouting), "x")
    assert 1_000_000 < len(page.encode()) <= 5_000_000
    assert "characters are in the recording" in page


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """Return the path of a recording."""
    return write(small(), tmp_path / "run.ipynb")


def test_export_writes_beside_the_notebook(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``export`` prints the path that it wrote, beside the notebook unless ``-o`` is given."""
    assert cli.main(["export", str(recorded), "--html"]) == 0
    page = recorded.with_suffix(".html")
    assert capsys.readouterr() == (f"{page}\n", "")
    assert "<title>run.ipynb</title>" in page.read_text(encoding="utf-8")
    target = recorded.with_name("lines.txt")
    assert cli.main(["export", "--jsonl", "-o", str(target), str(recorded)]) == 0
    lines = target.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["type"] for line in lines] == ["metadata"] + ["iteration"] * 5


def test_recording_shows_itself(recorded: Path, tmp_path: Path) -> None:
    """A loaded recording renders as page, lines and notebook view, and writes the first two to a path."""
    recording = Recording.load(recorded)
    assert recording.to_html(tmp_path / "a.html") == (tmp_path / "a.html").read_text(encoding="utf-8")
    assert recording.to_jsonl(tmp_path / "a.jsonl") == (tmp_path / "a.jsonl").read_text(encoding="utf-8")
    assert "5 steps" in html_of(recording)
    assert f"<title>session {recording.facts.session_id}</title>" in recording.to_html()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["missing.ipynb", "--html"], "missing.ipynb"),
        (["other.ipynb", "--jsonl"], "other.ipynb"),
        (["run.ipynb", "--html", "-o", "run.ipynb"], "is the recording itself: name another file with -o."),
        (["run.ipynb", "--html", "-o", "nowhere/page.html"], "cannot be written: No such file or directory."),
    ],
)
def test_bad_input_gets_one_sentence(
    recorded: Path,
    arguments: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file that cannot be exported gets one sentence; the recording does not change."""
    monkeypatch.chdir(recorded.parent)
    (recorded.parent / "other.ipynb").write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    before = recorded.read_bytes()
    assert cli.main(["export", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert sentence in err
    assert err.count("\n") == 1
    assert recorded.read_bytes() == before


def test_one_kind_must_be_chosen(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a format the command lists the formats."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["export", str(recorded)])
    assert ended.value.code == 2
    assert "--html --jsonl" in capsys.readouterr().err


def test_missing_extra_is_named(recorded: Path) -> None:
    """Without the extra, only the page fails, with a sentence that names the extra."""
    code = (
        "import sys; sys.modules['mistune'] = None\n"
        "from daytona_kernel_interp import cli\n"
        "from daytona_kernel_interp.recording.recording import Recording\n"
        f"Recording.load({str(recorded)!r})._repr_html_()\n"
        f"assert cli.main(['export', '--jsonl', {str(recorded)!r}]) == 0\n"
        f"sys.exit(cli.main(['export', '--html', {str(recorded)!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 2
    sentence = "daytona-kernel: The page needs the extra `report`: pip install 'daytona-kernel-interp[report]'.\n"
    assert done.stderr == sentence
