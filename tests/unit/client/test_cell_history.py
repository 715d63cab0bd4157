"""Tests of ``client.cell_history``: the last cells of a session, for observers."""

from __future__ import annotations

from typing import Any

import pytest

from daytona_kernel_interp.client.cell_history import MAX_STEPS, STEP_CODE_CHARS, TAIL_CHARS, CellHistory
from daytona_kernel_interp.client.output_collector import OutputCollector
from daytona_kernel_interp.client.outputs import DisplayData, StreamText
from daytona_kernel_interp.wire.inspect_messages import CODE_CHARS

IDLE: dict[str, Any] = {"header": {"msg_type": "status"}, "content": {"execution_state": "idle"}}


def reply(**content: Any) -> dict[str, Any]:
    return {"content": {"status": "ok", **content}, "metadata": {}}


def over(cell: OutputCollector, **content: Any) -> OutputCollector:
    cell.receive_reply(reply(**content))
    list(cell.receive_iopub(IDLE))
    return cell


def test_a_step_from_begin_to_end() -> None:
    """A running step is reported with its time and output so far, once more after its end, and not again."""
    steps, cell = CellHistory(), OutputCollector("1")
    steps.begin(cell, "print(1)", 10.0)
    cell.add(StreamText("stdout", "1\n"))
    first = steps.changes_since(0, 12.0)
    assert first["steps"] == [
        {"number": 1, "code": "print(1)", "state": "running", "took_s": 2.0, "tail": "1\n", "change": 1}
    ]
    steps.end(over(cell), 13.0)
    second = steps.changes_since(first["change"], 20.0)
    assert [(step["state"], step["took_s"]) for step in second["steps"]] == [("done", 3.0)]
    assert steps.changes_since(second["change"], 20.0)["steps"] == []


@pytest.mark.parametrize(
    ("content", "state"),
    [({}, "done"), ({"status": "error", "ename": "ValueError", "evalue": "no", "traceback": []}, "failed")],
)
def test_how_steps_end(content: dict[str, Any], state: str) -> None:
    """A step has the final state of its cell, and the text of an error."""
    steps, cell = CellHistory(), OutputCollector("1")
    steps.begin(cell, "x", 0.0)
    steps.end(over(cell, **content), 1.0)
    step = steps.changes_since(0, 2.0)["steps"][0]
    assert step["state"] == state
    assert step.get("error") == ("ValueError: no" if state == "failed" else None)


def test_submitted_and_broken_off() -> None:
    """The step of a SUBMIT has the state submitted; one that neither completed nor failed has the state ended."""
    steps, submitted, broken = CellHistory(), OutputCollector("1"), OutputCollector("2")
    submitted.submission = [b"{}"]
    for cell in (submitted, broken):
        steps.begin(cell, "x", 0.0)
        steps.end(cell, 1.0)
    assert [step["state"] for step in steps.changes_since(0, 2.0)["steps"]] == ["submitted", "ended"]


def test_steps_are_bounded() -> None:
    """Only the last steps are kept, each with the beginning of its code and the end of its output."""
    steps = CellHistory()
    for number in range(MAX_STEPS + 20):
        cell = OutputCollector(str(number))
        steps.begin(cell, "x" * 5000, 0.0)
        cell.add(StreamText("stdout", "y" * 5000 + str(number)))
        steps.end(over(cell), 1.0)
    kept = steps.changes_since(0, 2.0)["steps"]
    assert [step["number"] for step in kept] == list(range(21, MAX_STEPS + 21))
    assert all(len(step["code"]) == STEP_CODE_CHARS and len(step["tail"]) == TAIL_CHARS for step in kept)
    assert kept[-1]["tail"].endswith(str(MAX_STEPS + 19))


def test_values_and_files_are_no_steps() -> None:
    """Transfers of values and files are not steps, and the end of another cell has no effect."""
    steps, cell = CellHistory(), OutputCollector("1")
    steps.begin(cell, "", 0.0)
    steps.end(cell, 1.0)
    assert steps.changes_since(0, 2.0) == {"steps": [], "change": 0}


def test_the_tail_of_a_cell() -> None:
    """The last characters of the output, with names for figures and the last state of progress bars."""
    cell = OutputCollector("1")
    cell.add(StreamText("stdout", "a" * 100 + "\n"))
    cell.add(DisplayData({"text/plain": "<Figure size 1x1>", "image/svg+xml": "<svg/>"}, {}))
    cell.add(StreamText("stderr", "1%\r"))
    cell.add(StreamText("stderr", "2%\r"))
    assert cell.tail(25) == "aaaaa\n[figure SVG]\n2%"


def test_the_running_cell() -> None:
    """The running cell has its id, code and time, and the kernel's execution count once the kernel has sent it."""
    history, cell = CellHistory(), OutputCollector("1")
    assert history.running_cell(1.0) is None
    history.begin(cell, "x" * 5000, 1.0)
    assert history.running_cell(3.0) == {"cell": "1", "code": "x" * CODE_CHARS, "number": 1, "elapsed_s": 2.0}
    list(cell.receive_iopub({"header": {"msg_type": "execute_input"}, "content": {"execution_count": 7}}))
    running = history.running_cell(3.0)
    assert running is not None
    assert running["number"] == 7
    history.end(over(cell), 4.0)
    assert history.running_cell(5.0) is None
