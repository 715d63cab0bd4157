"""The answer of a sandbox to an inspection: parsed, bounded, and shown as text and HTML."""

from __future__ import annotations

import html.parser
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.monitor.inspection import (
    Inspection,
    PendingCall,
    RunningCell,
    Variable,
    clean,
    parse_inspection,
    parse_row,
)
from tests import examples
from tests.rendered import html_of

EVIL = "<script>alert(1)</script>\" onclick='x' \x1b]0;t\x07 \u202e \ud800"
LOOK: dict[str, Any] = {
    "by": "kernel",
    "variables": [["x", "int", 28, None, "1", "variable"], ["a", "numpy.ndarray", 96, [3, 4], "…", "variable"]],
    "left_out": 2,
    "tools": ["llm_query"],
    "count": 4,
    "running": {
        **{"cell": "id", "code": "a = 1\nwait()\n", "number": 4, "elapsed_s": 100.0, "line": 2},
        **{"calls": [["llm_query", 2.5]], "tasks": ["fetch"]},
    },
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=30,
)


def test_a_look_becomes_an_inspection() -> None:
    """A kernel's answer becomes typed variables, running cell and tools."""
    found = parse_inspection(LOOK, "1a2b3c4d")
    assert found["a"] == Variable("a", "numpy.ndarray", 96, (3, 4), "…")
    assert found.running == RunningCell("a = 1\nwait()\n", 4, 100.0, 2, (PendingCall("llm_query", 2.5),), ("fetch",))
    assert (found.left_out, found.tools, found.cells, found.session) == (2, ("llm_query",), 4, "1a2b3c4d")
    with pytest.raises(KeyError):
        found["y"]


def test_an_inspection_is_a_mapping() -> None:
    """Names to variables, private ones included, as ``dict`` and its methods expect."""
    found = parse_inspection(LOOK, "")
    assert isinstance(found, Mapping)
    assert list(found) == ["x", "a"]
    assert (len(found), "a" in found, "y" in found, found.get("y")) == (2, True, False, None)
    assert dict(found) == {variable.name: variable for variable in found.variables}
    assert not Inspection()


def test_as_text() -> None:
    """The text has aligned columns, the running cell, and counts of what is left out."""
    assert str(parse_inspection(LOOK, "").noted("Session 1.")).splitlines() == [
        "Session 1.",
        "Cell 4 runs for 1 min 40 s, at line 2: wait()",
        "It waits for llm_query (2.5 s)",
        "Tasks: fetch",
        "NAME  TYPE           SIZE  SHAPE  VALUE",
        "x     int            28 B         1",
        "a     numpy.ndarray  96 B  3 x 4  …",
        "… and 2 older variables.",
        "Tools: llm_query",
    ]
    assert str(Inspection()) == "No cell runs."


def test_private_names_are_counted_and_shown_when_asked_for() -> None:
    """The table hides names with a leading underscore, as ``%who`` does; the mapping has them."""
    rows = [["_k", "str", 50, [1], "'a'", "variable"], *LOOK["variables"], ["_n", "int", 28, None, "2", "variable"]]
    found = parse_inspection({"variables": rows}, "")
    assert [row[0] for row in found.rows()] == ["x", "a"]
    assert found["_k"].preview == "'a'"
    for shown in (str(found), html_of(found)):
        assert "… and 2 private, of names that begin with an underscore." in shown
        assert "_k" not in shown
    whole = parse_inspection({"variables": rows}, "", private=True)
    assert [row[0] for row in whole.rows()] == ["_k", "x", "a", "_n"]
    assert "private" not in str(whole)
    assert [row[0] for row in parse_inspection({"variables": rows[:1]}, "", "_k").rows()] == ["_k"]


def test_of_one_variable_the_relay_tells_that_alone() -> None:
    """A relay's summary of all variables is reduced to the requested one."""
    summary = {"by": "relay", "summary": LOOK, "age_s": 1.0}
    found = parse_inspection(summary, "", "a")
    assert ([variable.name for variable in found.variables], found.left_out, found.tools) == (["a"], 0, ())
    assert parse_inspection(summary, "", "none").variables == ()


def test_what_the_relay_says() -> None:
    """For a blocked kernel the text has its CPU and memory use, and the age of the summary."""
    running = {"code": "sum(range(10**9))", "number": 2, "elapsed_s": 3.0}
    facts = {
        "by": "relay",
        "summary": {**LOOK, "left_out": 0},
        "age_s": 7.0,
        "cpu_percent": 99.6,
        "memory_bytes": 1 << 30,
    }
    found = parse_inspection({**facts, "running": running}, "")
    assert str(found).splitlines()[:3] == [
        "The kernel does not answer for 3.0 s: native code blocks it. 100 % CPU, 1.1 GB of memory",
        "Its variables as of 7.0 s ago:",
        "Cell 2 runs for 3.0 s: sum(range(10**9))",
    ]
    assert (found.answered_by, [variable.name for variable in found.variables]) == ("relay", ["x", "a"])
    assert "has not inspected it before" in str(parse_inspection({"by": "relay", "summary": None}, ""))


@examples.at_most(40)
@given(look=JSON | st.dictionaries(st.sampled_from([*LOOK, "summary", "age_s", "memory_bytes"]), JSON))
def test_whatever_a_sandbox_says_can_be_shown(look: Any) -> None:
    """No JSON value raises; invalid parts are left out."""
    found = parse_inspection(look if isinstance(look, dict) else {"variables": look}, "")
    assert isinstance(str(found), str)
    assert isinstance(html_of(found), str)


@examples.at_most(40)
@given(row=st.lists(JSON, max_size=8))
def test_rows_that_are_none(row: list[Any]) -> None:
    """A row becomes a variable with fields of the right types, or None."""
    variable = parse_row(row)
    assert variable is None or (isinstance(variable.name, str) and (variable.size is None or variable.size >= 0))


class _Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def test_nothing_of_a_sandbox_is_markup() -> None:
    """Tags, attributes, escape sequences and direction marks in any field stay text."""
    row = [EVIL, EVIL, 1, [2], EVIL, EVIL]
    running = {"code": EVIL, "number": 1, "elapsed_s": 1, "calls": [[EVIL, 1]], "tasks": [EVIL]}
    found = parse_inspection({"variables": [row], "running": running, "tools": [EVIL]}, EVIL).noted(EVIL)
    page = _Page()
    page.feed(html_of(found))
    assert page.tags == {"div", "table", "thead", "tbody", "tr", "th", "td", "b", "code"}
    assert page.handlers == ["onclick"]  # ours
    assert not any(c in str(found.noted("")) for c in "\x1b\x07\u202e\ud800")


def test_the_table_is_bounded() -> None:
    """Answers beyond the limits are cut."""
    rows = [["n" * 1000, "t" * 1000, 1, [1] * 100, "p" * 100_000, "variable"]] * 5000
    found = parse_inspection({"variables": rows, "tools": ["t"] * 5000}, "")
    assert (len(found.variables), len(found.tools)) == (1000, 200)
    variable = found.variables[0]
    assert (len(variable.name), len(variable.type), len(variable.preview)) == (200, 140, 10_000)
    assert len(variable.shape or ()) == 32


def test_clean_keeps_text() -> None:
    """Letters of all scripts are kept; line ends are kept where lines are allowed."""
    assert clean("é中 ok\n", 10) == "é中 ok "
    assert clean("a\nb", 10, lines=True) == "a\nb"
    assert clean("a\x1b[31mb", 20) == "a\ufffd[31mb"
    assert json.dumps(clean("\ud800", 5)) == '"\\ufffd"'
