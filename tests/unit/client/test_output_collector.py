"""Tests of ``client.output_collector``."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.client import output_collector as cell_module
from daytona_kernel_interp.client.output_collector import (
    CellEvent,
    OutputArrived,
    OutputCollector,
    Submitted,
    ToolCalled,
)
from daytona_kernel_interp.client.output_text import plain_text
from daytona_kernel_interp.client.outputs import CellError, DisplayData, ExecuteResult, StreamText, parse_output
from daytona_kernel_interp.wire.comm import PREAMBLE_KEY
from tests.unit import strategies

pytestmark = pytest.mark.python

Message = dict[str, Any]


def message(kind: str, content: Any, *, metadata: Any = None, buffers: list[Any] | None = None) -> Message:
    return {
        "header": {"msg_type": kind},
        "content": content,
        "metadata": metadata or {},
        "buffers": buffers or [],
    }


def stream(text: str, name: str = "stdout") -> Message:
    return message("stream", {"name": name, "text": text})


def display(text: str) -> Message:
    return message("display_data", {"data": {"text/plain": text}, "metadata": {}})


def result(text: str) -> Message:
    return message("execute_result", {"data": {"text/plain": text}, "metadata": {}, "execution_count": 1})


def error(name: str = "ValueError", text: str = "bad") -> Message:
    return message("error", {"ename": name, "evalue": text, "traceback": ["line 1", f"{name}: {text}"]})


def reply(status: str = "ok", **content: Any) -> Message:
    return message("execute_reply", {"status": status, **content})


def failed_reply() -> Message:
    return reply("error", ename="ValueError", evalue="bad", traceback=["line 1", "ValueError: bad"])


def request(data: Any, *buffers: bytes) -> Message:
    return message("comm_msg", {"comm_id": "c", "data": data}, buffers=list(buffers))


IDLE = message("status", {"execution_state": "idle"})
BUSY = message("status", {"execution_state": "busy"})


def feed(cell: OutputCollector, *messages: Message) -> list[CellEvent]:
    """Pass ``messages`` to ``cell`` as their channels do."""
    events: list[CellEvent] = []
    for one in messages:
        if one["header"]["msg_type"] == "execute_reply":
            cell.receive_reply(one)
        else:
            events += cell.receive_iopub(one)
    return events


@pytest.mark.parametrize("order", list(itertools.permutations([reply(), IDLE, stream("x"), BUSY])))
def test_a_cell_is_over_when_reply_and_idle_came(order: tuple[Message, ...]) -> None:
    """Reply and idle end a cell in any order, and nothing else does."""
    cell = OutputCollector("m")
    for count in range(len(order) + 1):
        came = order[:count]
        assert cell.finished == (reply() in came and IDLE in came)
        feed(cell, *order[count : count + 1])
    assert cell.text() == "x"


@given(st.lists(st.sampled_from([stream("x"), display("d"), result("r"), error(), BUSY, request({"op": "submit"})])))
def test_output_alone_never_ends_a_cell(messages: list[Message]) -> None:
    """Without both reply and idle, the cell continues for any other messages."""
    neither, replied, idle = OutputCollector("m"), OutputCollector("m"), OutputCollector("m")
    feed(neither, *messages)
    feed(replied, reply(), *messages)
    feed(idle, IDLE, *messages)
    assert not any(cell.finished for cell in (neither, replied, idle))


def test_busy_after_idle_does_not_open_a_cell_again() -> None:
    """A busy status after idle has no effect."""
    cell = OutputCollector("m")
    feed(cell, IDLE, BUSY, reply())
    assert cell.finished


def test_output_after_the_reply_counts() -> None:
    """iopub may be later than shell, so prints after the reply belong to the cell."""
    cell = OutputCollector("m")
    feed(cell, stream("a"), reply(), stream("b"), IDLE)
    assert cell.text() == "ab"


def test_neighbouring_texts_of_one_stream_are_one_output() -> None:
    """Texts are joined until the stream changes or another output follows."""
    cell = OutputCollector("m")
    feed(cell, stream("a"), stream("b"), stream("e", "stderr"), stream("c"), display("d"), stream("f"))
    assert cell.outputs == [
        StreamText("stdout", "ab"),
        StreamText("stderr", "e"),
        StreamText("stdout", "c"),
        DisplayData({"text/plain": "d"}, {}),
        StreamText("stdout", "f"),
    ]
    assert cell.text() == "abecd\nf"


@given(st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.text(max_size=5)), max_size=20))
def test_no_printed_character_is_lost_or_moved(pieces: list[tuple[str, str]]) -> None:
    """The text equals the printed text for any split into messages; each message is also an event."""
    cell = OutputCollector("m", max_output_chars=10)
    events = feed(cell, *(stream(text, name) for name, text in pieces))
    whole = "".join(text for _, text in pieces)
    assert "".join(output.text for output in cell.outputs if isinstance(output, StreamText)) == whole
    assert "\r" in whole or cell.text() == plain_text(whole)
    assert events == [OutputArrived(StreamText(name, text)) for name, text in pieces]


def test_outputs_can_be_read_while_the_cell_runs() -> None:
    """Reading the outputs does not end the current stream output."""
    cell = OutputCollector("m")
    feed(cell, stream("a"))
    assert cell.outputs == [StreamText("stdout", "a")]
    feed(cell, stream("b"))
    assert cell.outputs == [StreamText("stdout", "ab")]


def test_the_text_leaves_out_value_and_error() -> None:
    """The value's repr and the error are separate from printed text."""
    cell = OutputCollector("m")
    feed(cell, stream("a\n"), result("42"), error(), reply("error"), IDLE)
    assert cell.text() == "a\n"
    assert cell.value_text() == "42"
    assert cell.error == CellError("ValueError", "bad", "line 1\nValueError: bad")
    assert cell.error.summary == "ValueError: bad"


def test_without_a_value_there_is_no_value_text() -> None:
    """A cell that only prints has no value."""
    cell = OutputCollector("m")
    feed(cell, stream("a"), display("b"))
    assert cell.value_text() is None


def test_the_last_value_counts() -> None:
    """If code has several results, the last one is the value."""
    cell = OutputCollector("m")
    feed(cell, result("1"), stream("x"), result("2"))
    assert cell.value_text() == "2"


def test_an_error_without_a_message_is_its_type() -> None:
    """The summary of ``raise ValueError`` has no colon."""
    assert CellError("ValueError", "", "").summary == "ValueError"


@pytest.mark.parametrize("order", list(itertools.permutations([error(), failed_reply(), IDLE])))
def test_an_error_is_the_same_in_any_order(order: tuple[Message, ...]) -> None:
    """An error that arrives on iopub and shell, in any order, is one error and shown once."""
    cell = OutputCollector("m")
    feed(cell, *order)
    assert cell.error == CellError("ValueError", "bad", "line 1\nValueError: bad")
    assert cell.outputs == [cell.error]


def test_an_error_in_the_reply_alone_counts() -> None:
    """An error in the reply is the cell's error, also without one on iopub."""
    cell = OutputCollector("m")
    feed(cell, failed_reply())
    assert cell.error == CellError("ValueError", "bad", "line 1\nValueError: bad")


def test_an_aborted_cell_did_not_run() -> None:
    """If the kernel reports that it dropped the request, the cell has an error."""
    cell = OutputCollector("m")
    feed(cell, reply("aborted"), IDLE)
    assert cell.error is not None
    assert cell.error.summary == "Aborted: the kernel did not run the cell"


@pytest.mark.parametrize(
    ("metadata", "failed"),
    [
        ({PREAMBLE_KEY: {"compiled": False}}, True),
        ({PREAMBLE_KEY: {"compiled": True}}, False),
        ({PREAMBLE_KEY: None}, False),
        ({}, False),
    ],
)
def test_the_reply_says_whether_the_code_compiled(metadata: Message, failed: bool) -> None:
    """An error is a compile error only if the kernel marks it as such."""
    cell = OutputCollector("m")
    cell.receive_reply(message("execute_reply", {"status": "error"}, metadata=metadata))
    assert cell.failed_to_compile is failed


def test_a_tool_call_is_an_event() -> None:
    """A call has its id, its name and the received buffers."""
    events = feed(OutputCollector("m"), request({"op": "call", "id": 7, "name": "f"}, b"[]"))
    assert events == [ToolCalled(7, "f", [b"[]"])]


def test_the_first_submission_counts() -> None:
    """A second SUBMIT changes nothing."""
    cell = OutputCollector("m")
    events = feed(cell, request({"op": "submit"}, b"1"), request({"op": "submit"}, b"2"))
    assert events == [Submitted([b"1"])]
    assert cell.submission == [b"1"]


def test_what_submit_raises_is_no_error() -> None:
    """The reply of a cell that ended by SUBMIT has status error; the submission is its result."""
    cell = OutputCollector("m")
    feed(cell, request({"op": "submit"}, b"1"), reply("error", ename="SubmitSignal", evalue=""), IDLE)
    assert cell.error is None


def test_an_error_after_submit_leaves_the_answer() -> None:
    """Code that caught SUBMIT's exception and failed later has still submitted."""
    cell = OutputCollector("m")
    feed(cell, request({"op": "submit"}, b"1"), error(), reply("error"), IDLE)
    assert cell.submission == [b"1"]


def test_the_value_is_kept() -> None:
    """The encoded value of the last expression is kept and is not an event."""
    cell = OutputCollector("m")
    assert feed(cell, request({"op": "value"}, b"42")) == []
    assert cell.value == [b"42"]


@pytest.mark.parametrize(
    "data",
    [
        None,
        5,
        [],
        {},
        {"op": "nope"},
        {"op": ["call"]},
        {"op": "call"},
        {"op": "call", "id": "7", "name": "f"},
        {"op": "call", "id": 7},
        {"op": "call", "id": True, "name": "f"},
        {"op": "call", "id": 7, "name": None},
    ],
)
def test_a_malformed_request_is_nothing(data: Any) -> None:
    """Requests of other forms are ignored, because comm messages of widgets arrive here too."""
    cell = OutputCollector("m")
    assert feed(cell, request(data)) == []
    assert (cell.submission, cell.value) == (None, None)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("stream", {"name": "stdout"}),
        ("stream", {"name": "stdout", "text": 5}),
        ("display_data", {"data": []}),
        ("execute_result", {"data": {}, "metadata": None}),
        ("error", {"ename": "E", "evalue": "e"}),
        ("error", {"ename": "E", "evalue": None, "traceback": []}),
        ("execute_input", {"code": "1"}),
        ("clear_output", {"wait": False}),
    ],
)
def test_what_is_no_output_is_none(kind: str, content: Message) -> None:
    """A message without an output or with a malformed one adds no output."""
    assert parse_output(message(kind, content)) is None


def updated(text: str, display_id: Any, kind: str = "update_display_data") -> Message:
    content = {"data": {"text/plain": text}, "metadata": {}, "transient": {"display_id": display_id}}
    return message(kind, content)


def test_a_display_that_is_updated_counts_once() -> None:
    """An updated display keeps its place and counts only in its last state; observers receive each update."""
    cell = OutputCollector("1", max_output_chars=10)
    states = [event for number in range(100_000) for event in cell.receive_iopub(updated(f"{number}", "bar"))]
    assert len(states) == 100_000
    for each in (updated("other", "b", "display_data"), stream("between\n"), updated("99 %", "bar"), display("last")):
        list(cell.receive_iopub(each))
    assert cell.text() == "99 %\nother\nbetween\nlast\n"
    too_large = updated("x" * 100_000, "bar")
    assert list(cell.receive_iopub(too_large)) == []
    assert cell.text().startswith("99 %\nother\n")
    assert "1 further outputs" in cell.text()


def test_an_id_that_is_none_updates_nothing() -> None:
    """An id of another type or message does not refer to a display; each such display is a separate output."""
    cell = OutputCollector("1")
    text = stream("text\n")
    text["content"]["transient"] = {"display_id": "a"}
    for each in (text, updated("1", "a"), updated("2", ["a"]), updated("3", None), display("4")):
        list(cell.receive_iopub(each))
    assert cell.text() == "text\n1\n2\n3\n4\n"


@pytest.mark.parametrize("kind", ["display_data", "update_display_data"])
def test_a_display_keeps_every_representation(kind: str) -> None:
    """Data and metadata are unchanged."""
    data, metadata = {"image/png": "aGk=", "text/plain": "x"}, {"image/png": {"width": 1}}
    shown = parse_output(message(kind, {"data": data, "metadata": metadata}))
    assert shown == DisplayData(data, metadata)


def test_a_result_is_told_apart_from_a_display() -> None:
    """The last expression has a separate output type."""
    assert parse_output(result("1")) == ExecuteResult({"text/plain": "1"}, {})


_KINDS = st.sampled_from(["status", "stream", "display_data", "execute_result", "error", "comm_msg", "nope"])
_KEYS = st.sampled_from(["name", "text", "data", "metadata", "ename", "evalue", "traceback", "execution_state"])
_CONTENTS = st.dictionaries(_KEYS, strategies.JSON | st.fixed_dictionaries({"op": st.text(max_size=4)}), max_size=3)


@strategies.FEW
@given(st.lists(st.builds(message, _KINDS, _CONTENTS), max_size=3))
def test_any_content_is_taken(messages: list[Message]) -> None:
    """Any objects in the kernel's messages are accepted without an exception."""
    cell = OutputCollector("m", max_output_chars=10)
    feed(cell, *messages)
    assert isinstance(cell.text(), str)
    assert not cell.finished


# --- a hostile kernel ignores its output limit ----------------------------------------------------------


def kept_chars(cell: OutputCollector) -> int:
    """Return how many characters of output the cell holds."""
    return len(str(cell.outputs))


@pytest.mark.parametrize("size", [1000, 10_000, 1_000_000])
def test_a_flood_of_text_is_bounded(size: int) -> None:
    """Prints beyond twice the limit and some slack are discarded, and the text has their number."""
    cell = OutputCollector("m", max_output_chars=1000)
    flood = 3_000_000 // size
    events = feed(cell, *itertools.repeat(stream("x" * size), flood))
    assert kept_chars(cell) < 100_000
    assert len(events) < flood
    assert f"[... {flood - len(events)} further outputs" in cell.text()


def test_a_flood_of_outputs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of outputs has a separate limit, also for empty ones."""
    monkeypatch.setattr(cell_module, "MAX_OUTPUTS", 10)
    cell = OutputCollector("m", max_output_chars=1000)
    feed(cell, *[display(""), stream("", "stdout"), stream("", "stderr")] * 100)
    assert len(cell.outputs) <= 11


@pytest.mark.parametrize(
    "big",
    [
        display("x" * 100_000),
        result("x" * 100_000),
        message("display_data", {"data": {"image/png": "x" * 100_000}, "metadata": {}}),
        error("E", "x" * 100_000),
    ],
    ids=["display", "result", "image", "error"],
)
def test_a_flood_of_large_outputs_is_bounded(big: Message) -> None:
    """Displays count as well as prints: the total size is limited."""
    cell = OutputCollector("m", max_output_chars=1000)
    feed(cell, *[big] * 100)
    assert kept_chars(cell) < 1_000_000


def test_what_fits_into_the_limit_is_never_refused() -> None:
    """A kernel within its limit, including note and tail, loses no output."""
    cell = OutputCollector("m", max_output_chars=1000)
    feed(cell, stream("x" * 500), stream("\n[... 1,234,567 characters left out ...]\n"), stream("y" * 500))
    assert "further outputs" not in cell.text()
    assert len(cell.text()) > 1000


def test_without_a_limit_nothing_is_refused() -> None:
    """With ``max_output_chars=None`` all output is kept."""
    cell = OutputCollector("m")
    feed(cell, *[stream("x" * 100_000)] * 20)
    assert len(cell.text()) == 2_000_000


def test_a_small_value_comes_with_the_reply() -> None:
    """The reply's metadata can have the last expression; values that are not str are ignored."""
    for value, taken in (("[1]", [b"[1]"]), (5, None), ("\ud800", [b"?"])):
        cell = OutputCollector("id")
        cell.receive_reply({**reply(), "metadata": {PREAMBLE_KEY: {"compiled": True, "value": value}}})
        assert cell.value == taken
