"""Transcripts as notebooks: they are read back, open in other programs, and damage to them is reported."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import nbformat
import pytest
from hypothesis import given

from daytona_kernel_interp import Recording
from daytona_kernel_interp.client.outputs import StreamText
from daytona_kernel_interp.errors import RecordingError
from daytona_kernel_interp.recording import notebook_reader as notebook
from daytona_kernel_interp.recording.model import (
    METADATA_KEY,
    Entry,
    LMCall,
    Outcome,
    RecordedCall,
    SessionFacts,
    Transcript,
    Usage,
    refs_in,
    refs_of,
)
from daytona_kernel_interp.recording.value_store import folder_of, value_of
from daytona_kernel_interp.wire.comm import Parameter, ToolSpec
from tests import examples
from tests.transcripts import write
from tests.unit.transcripts import BEGAN, Memory, transcripts

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEMA = json.loads(resources.files("daytona_kernel_interp.recording").joinpath("schemas/v1.json").read_text())
LARGE = "large " * 20_000


def sample() -> Transcript:
    """Return a session of two steps: one that calls, and one that submits."""
    store = Memory()
    call = RecordedCall(
        7, "llm_query", "llm", 0.5, 0.25, store.keep([["hi"], {}]), store.keep("ho"), usage=Usage("m", 3, 4, 0.01)
    )
    failed = RecordedCall(
        8, "look", "tool", 1, None, store.keep([[], {"key": "a"}]), error=("KeyError", ("LookupError",), "a")
    )
    entries = (
        Entry(
            0,
            "id-0",
            "print(1)",
            BEGAN,
            Outcome("returned", "ok", store.keep("1\n")),
            variables={"text": store.keep(LARGE)},
            tools=(ToolSpec("look", "Look up.", (Parameter("key", 1, None),)),),
            outputs=(StreamText("stdout", "1\n"),),
            calls=(call, failed),
            elapsed_s=1.5,
            reasoning="I print ```one```.",
        ),
        Entry(1, "id-1", "SUBMIT(2)", BEGAN, Outcome("submitted", "ok", store.keep({"output": 2}))),
    )
    lm_calls = (LMCall("c", 0, BEGAN, 0.1, store.keep({"prompt": "hi"}), store.keep(["ho"])),)
    return Transcript(
        SessionFacts("abcd", BEGAN, "local sandbox", {"python": "3.11.1"}, {}, {"random": 7}), entries, store, lm_calls
    )


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return write(sample(), tmp_path / "run.ipynb")


def everything(transcript: Transcript) -> dict[str, Any]:
    """Return the fields of a transcript, with its values in place of its store."""
    refs = [*refs_of(transcript.lm_calls)]
    refs += [ref for entry in transcript.entries for ref in refs_in(entry)]
    loaded = {ref.hash: [bytes(buffer) for buffer in transcript.store.load(ref)] for ref in refs}
    return {**vars(transcript), "store": loaded}


@given(transcript=transcripts())
@examples.at_most(25)
def test_what_is_written_is_read_back(transcript: Transcript) -> None:
    """Any session is read back equal; its notebook is valid for nbformat and its metadata for the schema."""
    folder = Path(tempfile.mkdtemp())
    try:
        path = folder / "run.ipynb"
        write(transcript, path)
        assert everything(notebook.read(path)) == everything(transcript)
        document = json.loads(path.read_text())
        nbformat.validate(nbformat.reads(path.read_text(), as_version=4), relax_add_props=False)
        jsonschema.validate(document, SCHEMA)
    finally:
        shutil.rmtree(folder)


def test_saving_it_elsewhere_changes_nothing(written: Path) -> None:
    """A program that saves the notebook with other whitespace and order of keys does not damage the recording."""
    nbformat.write(nbformat.read(written, as_version=4), written)
    transcript = notebook.read(written)
    assert transcript.problems == ()
    assert everything(transcript) == everything(sample())


def test_a_large_value_lies_beside_by_its_hash(written: Path) -> None:
    """A small value stands in the notebook; a large one in a file with its SHA-256 as the name."""
    files = list(folder_of(written).iterdir())
    assert [file.name for file in files] == [hashlib.sha256(files[0].read_bytes()).hexdigest()]
    assert written.stat().st_size < 20_000


def test_a_reader_sees_the_session(written: Path) -> None:
    """The cells show reasoning, code, outputs, answer, and calls with arguments, result, error, time and cost."""
    cells = nbformat.read(written, as_version=4).cells
    text = "\n".join(cell.source for cell in cells)
    for shown in (
        "Session `abcd`",
        "> I print ```one```.",
        "print(1)",
        "*Model call* `llm_query`: `m`, 3 + 4 tokens, $0.01, 250 ms",
        "arguments: `[['hi'], {}]`",
        "returned: `'ho'`",
        "*Tool call* `look`: not answered",
        "raised: `KeyError: a`",
        "**SUBMIT**",
        "Recorded without DSPy's callback",
    ):
        assert shown in text
    assert cells[2].outputs[0].text == "1\n"


def test_an_answer_that_has_no_text_is_recorded(tmp_path: Path) -> None:
    """A number with too many digits for its repr is described in the cell, and readable as a value."""
    store = Memory()
    entry = Entry(0, "id-0", "", BEGAN, Outcome("submitted", "ok", store.keep({"n": 10**5000})))
    path = tmp_path / "run.ipynb"
    write(Transcript(SessionFacts("abcd", BEGAN, "local sandbox"), (entry,), store), path)
    assert "<int: its repr raised ValueError>" in path.read_text()
    outcome = notebook.read(path).entries[0].outcome
    assert outcome.value is not None
    assert value_of(notebook.read(path).store, outcome.value) == {"n": 10**5000}


def test_a_recording_is_a_sequence_of_steps(written: Path) -> None:
    """A recording has length, order, indices, slices, facts and values."""
    recording = Recording.load(written)
    assert len(recording) == 2
    assert [step.code for step in recording] == ["print(1)", "SUBMIT(2)"]
    assert recording[-1].outcome.kind == "submitted"
    assert recording[:1][0].index == 0
    assert recording.facts.seeds == {"random": 7}
    assert recording.value(recording[0].variables["text"]) == LARGE
    assert "abcd" in repr(recording)


def test_the_steps_as_a_dataframe(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The DataFrame has one row for each step; without pandas the error says what to install."""
    if importlib.util.find_spec("pandas") is not None:  # the oldest environment has no libraries
        frame = Recording.load(written).to_dataframe()
        assert list(frame["kind"]) == ["returned", "submitted"]
        assert list(frame["llm_calls"]) == [1, 0]
        assert frame.loc[0, "printed"] == "1\n"
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(RecordingError, match="pip install pandas"):
        Recording.load(written).to_dataframe()


# --- bad input ---------------------------------------------------------------------------------------------


def change(path: Path, how: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(path.read_text())
    how(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "cannot be read: No such file"),
        ("hello", "is no notebook: it is not JSON"),
        ('{\n "cells": [\n{"cell_type": "mark', "is cut off in its first cell"),
        ("[1]", "is no notebook: its JSON has no list of cells"),
        ('{"cells": [], "metadata": {}}', "is a notebook, but no recording.*can be run as plain cells"),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, text: str | None, why: str) -> None:
    """The error says in one sentence what the file is instead."""
    path = tmp_path / "run.ipynb"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RecordingError, match=why):
        Recording.load(path)


def test_another_version_is_refused_by_name(written: Path) -> None:
    """A recording of a later schema version is refused with a sentence that names both versions."""
    change(written, lambda document: document["metadata"][METADATA_KEY].update(schema=2))
    with pytest.raises(RecordingError, match=r"recording of schema version 2; this version .* reads version 1"):
        Recording.load(written)


def test_what_comes_before_a_cut_is_readable(written: Path) -> None:
    """Wherever the file is cut off, the complete cells are read, or an error says that there are none."""
    whole = written.read_text()
    lengths = set()
    for at in range(40, len(whole) - 2, 397):
        written.write_text(whole[:at])
        try:
            recording = Recording.load(written)
        except RecordingError:
            lengths.add(-1)
            continue
        assert recording.problems[0].startswith("The file is cut off after")
        assert not recording.complete
        assert recording.facts == sample().facts
        lengths.add(len(recording))
    assert lengths == {-1, 0, 1, 2}


def test_a_cell_that_is_missing_is_named_once(written: Path) -> None:
    """A missing cell is one problem, and not one for each step behind it."""
    transcript = sample()
    entries = [replace(transcript.entries[0], index=index) for index in range(9)]
    written = write(replace(transcript, entries=entries, lm_calls=()), written)
    change(written, lambda document: document["cells"].remove(_of(document, "entry-3")))
    recording = Recording.load(written)
    assert recording.problems == ("Step 3 was recorded as step 4: cells are missing or were moved.",)
    assert [step.index for step in recording] == list(range(8))


def _of(document: dict[str, Any], cell_id: str) -> dict[str, Any]:
    return next(cell for cell in document["cells"] if cell["id"] == cell_id)


def test_a_missing_side_file_is_named(written: Path) -> None:
    """The steps are read; loading the value raises an error that names the missing file."""
    shutil.rmtree(folder_of(written))
    recording = Recording.load(written)
    assert "A value is missing in run.values/ beside the notebook" in recording.problems[0]
    assert recording[0].code == "print(1)"
    with pytest.raises(RecordingError, match=r"is missing: .*Keep run.values/ beside the notebook"):
        recording.value(recording[0].variables["text"])


def test_a_side_file_that_is_no_file_is_not_read(written: Path) -> None:
    """A pipe in place of the file is an error; reading it would block for ever."""
    (file,) = folder_of(written).iterdir()
    file.unlink()
    os.mkfifo(file)
    recording = Recording.load(written)
    assert "A value is missing" in recording.problems[0]
    with pytest.raises(RecordingError, match="it is no file"):
        recording.value(recording[0].variables["text"])


def test_a_changed_value_is_found(written: Path) -> None:
    """A changed file and a changed small value of the notebook are both detected."""
    (file,) = folder_of(written).iterdir()
    file.write_bytes(file.read_bytes().replace(b"large", b"Large"))
    written.write_text(written.read_text().replace('\\"ho\\"', '\\"no\\"', 1))
    recording = Recording.load(written)
    for ref in (recording[0].variables["text"], recording[0].calls[0].result):
        assert ref is not None
        with pytest.raises(RecordingError, match="was changed since it was recorded"):
            recording.value(ref)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (lambda cells: cells[2].update(source="print(2)"), "Step 0 was edited"),
        (lambda cells: cells[2]["outputs"].clear(), "Step 0 was edited"),
        (lambda cells: cells[2]["metadata"][METADATA_KEY]["entry"]["calls"].pop(), "Step 0 was edited"),
        (lambda cells: cells[2]["metadata"][METADATA_KEY]["entry"].pop("outcome"), "record of step 0 cannot be read"),
        (lambda cells: cells[2]["metadata"][METADATA_KEY]["entry"].update(calls="x"), "it has another form than"),
        (lambda cells: cells[2]["outputs"].append({"output_type": "x"}), "An output of step 0 cannot be read"),
        (lambda cells: cells[2]["metadata"].clear(), "A code cell before step 0 was added"),
        (lambda cells: cells.pop(2), "Step 0 was recorded as step 1"),
    ],
)
def test_an_edit_by_hand_is_named(written: Path, how: Callable[[Any], None], why: str) -> None:
    """Each change of a cell is reported, and the rest is read."""
    change(written, lambda document: how(document["cells"]))
    recording = Recording.load(written)
    assert any(why in problem for problem in recording.problems), recording.problems
    assert recording[-1].code == "SUBMIT(2)"


def test_a_name_is_not_a_path(written: Path) -> None:
    """A reference in a foreign recording cannot make the reader open another file."""
    recording = Recording.load(written)
    with pytest.raises(RecordingError, match="which is no SHA-256"):
        recording.value(replace(recording[0].variables["text"], hash="../../etc/passwd"))


# --- one recording of each version, for ever -------------------------------------------------------------------


def test_the_golden_recording_of_version_1() -> None:
    """The golden recording is read without a problem. Never change it; a new schema version gets another file."""
    path = Path(__file__).parents[2] / "golden" / "recording-v1.ipynb"
    jsonschema.validate(json.loads(path.read_text()), SCHEMA)
    recording = Recording.load(path)
    assert recording.problems == ()
    assert (len(recording), recording.complete, recording.transcript.callback) == (8, True, True)
    kinds = [(step.outcome.kind, step.outcome.error) for step in recording[1:]]
    returned, failed = ("returned", ""), ("raised", "CodeExecutionError")
    assert kinds == [*[returned] * 4, failed, ("raised", "SyntaxError"), ("submitted", "")]
    assert recording[1].reasoning == "The text is long: I look at its size first."
    assert len(recording.value(recording[1].variables["text"])) == 72_971
    calls = [call.name for step in recording for call in step.calls]
    assert calls == ["look", "look", "llm_query_batched", "llm_query"]
    assert recording[2].calls[1].error == ("KeyError", ("KeyError", "LookupError"), "'?'")
    batch, answer = recording[3].calls[0].result, recording[-1].outcome.value
    assert batch is not None
    assert answer is not None
    assert recording.value(batch) == ["echo: a", "echo: b"]
    assert [call.entry for call in recording.lm_calls].count(None) == 7
    assert recording.value(answer) == {"answer": "foxes met dogs", "foxes": 1700}
    assert everything(recording.transcript)["store"], "every value is there, and is what its hash says"
