"""Messages between cells and host, and lines of the relay's stream: their format and its checks."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.codec import values
from daytona_kernel_interp.wire import comm as calls
from daytona_kernel_interp.wire.comm import (
    MAX_LINE_BYTES,
    LineReader,
    OutputField,
    Parameter,
    Preamble,
    ToolFailure,
    ToolSpec,
    to_line,
)
from daytona_kernel_interp.wire.protocol_errors import RemoteProtocolError
from tests.unit import strategies

_NAMES = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
_PARAMETERS = st.builds(Parameter, _NAMES, st.integers(0, 4), st.none() | st.text(max_size=8))
_TOOLS = st.builds(ToolSpec, _NAMES, st.text(max_size=8), st.none() | st.lists(_PARAMETERS, max_size=3).map(tuple))
_FIELDS = st.lists(st.builds(OutputField, _NAMES, st.text(max_size=8)), max_size=3).map(tuple)
_PREAMBLES = st.builds(
    Preamble,
    variables=st.dictionaries(_NAMES, st.integers() | st.text(), max_size=3),
    tools=st.lists(_TOOLS, max_size=3).map(tuple),
    fields=st.none() | _FIELDS,
    max_output_chars=st.none() | st.integers(0, 2**40),
    max_value_bytes=st.none() | st.integers(0, 2**40),
)


def test_golden_preamble() -> None:
    """Wire version 1 has exactly this preamble."""
    preamble = Preamble(
        variables={"x": 1},
        tools=(ToolSpec("f", "Doc.", (Parameter("a", 1), Parameter("b", 3, "2"))), ToolSpec("g")),
        fields=(OutputField("answer", "str"),),
        max_output_chars=10,
    )
    assert preamble.to_value() == {
        "variables": {"x": 1},
        "tools": [["f", "Doc.", [["a", 1, None], ["b", 3, "2"]]], ["g", "", None]],
        "fields": [["answer", "str"]],
        "max_output_chars": 10,
        "max_value_bytes": None,
    }
    assert (calls.COMM_TARGET, calls.PREAMBLE_KEY) == ("daytona_kernel_interp", "daytona_kernel_preamble")


def test_golden_preamble_of_large_variables() -> None:
    """Wire version 1 has exactly this preamble for cached variables and for a requested one."""
    preamble = Preamble(kept=(("x", "00ff", 2), ("y", "11ee", 0)), wanted="z")
    value = preamble.to_value()
    assert (value["kept"], value["wanted"]) == ([["x", "00ff", 2], ["y", "11ee", 0]], "z")
    assert Preamble.from_value(value) == preamble


def test_golden_preamble_of_a_host_with_pyarrow() -> None:
    """A host with pyarrow adds one field; without it the preamble is that of earlier hosts."""
    value = Preamble(arrow=True).to_value()
    assert value["arrow"] is True
    assert Preamble.from_value(value).arrow
    assert "arrow" not in Preamble().to_value()
    assert not Preamble.from_value(Preamble().to_value()).arrow
    assert calls.HAS_ARROW == "pyarrow"


def test_parameter_kinds_are_those_of_inspect() -> None:
    """The numbers on the wire are those of ``inspect.Parameter``'s kinds."""
    assert [kind.name for kind in sorted(inspect._ParameterKind)] == [
        "POSITIONAL_ONLY",
        "POSITIONAL_OR_KEYWORD",
        "VAR_POSITIONAL",
        "KEYWORD_ONLY",
        "VAR_KEYWORD",
    ]


@strategies.FEW
@given(_PREAMBLES)
def test_a_preamble_survives_the_wire(preamble: Preamble) -> None:
    """A preamble is equal after encoding and decoding."""
    assert Preamble.from_value(values.loads(values.dumps(preamble.to_value()))) == preamble


@given(st.builds(ToolFailure, st.text(), st.lists(st.text(), max_size=3).map(tuple), st.text()))
def test_a_failure_survives_the_wire(failure: ToolFailure) -> None:
    """A failure is equal after encoding and decoding."""
    assert ToolFailure.from_value(values.loads(values.dumps(failure.to_value()))) == failure


def test_golden_line() -> None:
    """A message of the relay's stream is one line of ASCII JSON."""
    line = to_line({"id": 1, "op": "signal", "args": {"kernel": "é\n"}})
    assert line == b'{"id": 1, "op": "signal", "args": {"kernel": "\\u00e9\\n"}}\n'


@strategies.FEW
@given(st.lists(strategies.JSON_OBJECTS, max_size=3), st.lists(st.integers(0, 10**6), max_size=10))
def test_lines_arrive_whole_however_they_are_cut(messages: list[dict[str, Any]], places: list[int]) -> None:
    """However the stream is cut, the same objects come in the same order."""
    reader = LineReader()
    pieces = strategies.cut(b"".join(map(to_line, messages)), places)
    assert [message for piece in pieces for message in reader.feed(piece)] == messages


@given(st.lists(st.binary(max_size=20) | st.sampled_from([b"\n", b"{", b"}", b'"', b"[" * 5000]), max_size=10))
def test_any_bytes_give_objects_or_are_refused(pieces: list[bytes]) -> None:
    """Any bytes give objects or a RemoteProtocolError."""
    reader = LineReader()
    try:
        for piece in pieces:
            assert all(isinstance(message, dict) for message in reader.feed(piece))
    except RemoteProtocolError:
        pass


def test_an_unfinished_line_waits() -> None:
    """A line gives its object when it is complete."""
    reader = LineReader()
    assert list(reader.feed(b'{"a"')) == []
    assert list(reader.feed(b": 1}")) == []
    assert list(reader.feed(b'\n{"b"')) == [{"a": 1}]


def test_the_longest_line_passes() -> None:
    """A line of exactly the limit is read."""
    line = json.dumps({"x": "a" * (MAX_LINE_BYTES - len('{"x": ""}'))}).encode()
    assert len(line) == MAX_LINE_BYTES
    assert len(list(LineReader().feed(line + b"\n"))) == 1


@pytest.mark.parametrize("end", [b"", b"\n", b"\n{}\n"])
def test_a_longer_line_is_refused(end: bytes) -> None:
    """A line beyond the limit is refused, even before its end."""
    with pytest.raises(RemoteProtocolError, match="at most"):
        list(LineReader().feed(b" " * (MAX_LINE_BYTES + 1) + end))


def test_a_line_that_grows_too_long_is_refused() -> None:
    """The limit applies to a line that arrives in pieces."""
    reader = LineReader()
    assert list(reader.feed(b" " * MAX_LINE_BYTES)) == []
    with pytest.raises(RemoteProtocolError, match="at most"):
        list(reader.feed(b" "))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b"1", "not a JSON object"),
        (b"null", "not a JSON object"),
    ],
)
def test_a_line_that_is_no_object_is_refused(line: bytes, why: str) -> None:
    """Only JSON objects are messages."""
    with pytest.raises(RemoteProtocolError, match=why):
        list(LineReader().feed(line + b"\n"))


def test_messages_before_a_bad_line_still_count() -> None:
    """Complete lines before an invalid one give their objects."""
    feed = LineReader().feed(b'{"a": 1}\n[]\n')
    assert next(feed) == {"a": 1}
    with pytest.raises(RemoteProtocolError, match="not a JSON object"):
        next(feed)
