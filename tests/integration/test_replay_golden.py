"""Recordings that are kept: one of each schema version for ever, and the notebooks' sessions. Each is replayed."""

from __future__ import annotations

from pathlib import Path

import pytest
from dspy.primitives.code_interpreter import CodeInterpreterError, FinalOutput

from daytona_kernel_interp import Recording, ReplayInterpreter, diff, replay
from daytona_kernel_interp.playback.compare import Tolerance
from daytona_kernel_interp.playback.recorded_lm import RecordedLM
from daytona_kernel_interp.playback.rerun import stub_tool

PROJECT = Path(__file__).resolve().parents[2]
KEPT = sorted([*(PROJECT / "tests" / "golden").glob("*.ipynb"), *(PROJECT / "notebooks" / "sessions").glob("*.ipynb")])
EVERY = pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)


def test_there_are_some() -> None:
    """The folders are where they are looked for."""
    assert {"recording-v1", "support"} <= {path.stem for path in KEPT}


@EVERY
def test_in_a_kernel(path: Path) -> None:
    """Run again it comes out as it did, but for this machine's paths and the figures' pixels."""
    report = replay(path, sandbox="local", tolerance=Tolerance(figures="size"))
    assert [str(one) for one in report.divergences] == []
    assert (report.skipped, report.problems, report.steps) == ([], [], len(Recording.load(path)))
    assert diff(path, report.transcript, tolerance=True).same


@EVERY
def test_offline(path: Path) -> None:
    """Step by step it gives what its caller got then."""
    recording = Recording.load(path)
    with ReplayInterpreter(path) as interpreter:
        for step in recording:
            interpreter.tools.clear()
            interpreter.tools.update({spec.name: stub_tool(spec) for spec in step.tools})
            interpreter.output_fields = None if step.output_fields is None else list(map(dict, step.output_fields))
            variables = {name: recording.value(ref) for name, ref in step.variables.items()}
            if step.outcome.kind == "raised":
                with pytest.raises((SyntaxError, CodeInterpreterError)) as caught:
                    interpreter.execute(step.code, variables)
                assert str(caught.value) == step.outcome.text
                continue
            result = interpreter.execute(step.code, variables)
            assert step.outcome.value is not None
            got = result.output if isinstance(result, FinalOutput) else result
            assert got == recording.value(step.outcome.value)
            assert interpreter.outputs == list(step.outputs)
        assert interpreter.left == 0


@EVERY
def test_its_model(path: Path) -> None:
    """The recorded model answers each recorded request with what was answered, cells' own requests included."""
    recording = Recording.load(path)
    lm = RecordedLM(recording)
    assert len(recording.lm_calls) > len(recording) - 2
    for call in recording.lm_calls:
        request = recording.value(call.request)
        assert call.outputs is not None
        assert lm(request["prompt"], request["messages"]) == recording.value(call.outputs)
    assert lm.left == 0
