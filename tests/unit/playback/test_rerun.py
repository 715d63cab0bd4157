"""Time limits and stub tools of a rerun; the rerun of whole sessions is in tests/integration/test_replay.py."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import pytest

from daytona_kernel_interp.errors import ReplayMismatch
from daytona_kernel_interp.playback.rerun import stub_tool, time_limit
from tests.transcripts import SEARCH, Maker


@pytest.mark.parametrize(
    ("ending", "elapsed_s", "limit", "expected"),
    [
        ("ok", 3.0, 60, 60.0),
        ("ok", 3.0, None, None),
        ("error", 3.0, "60", None),
        ("timeout", 10.2, 10, 10.0),  # the session's limit explains the end
        ("timeout", 10.2, None, 10.2),  # the limit was set later
        ("timeout", 2.1, 10, 2.1),  # the limit was lowered
        ("interrupted", 3.0, 60, 3.0),
        ("interrupted", 0.0, None, 0.1),
        ("interrupted", None, 60, 60.0),
    ],
)
def test_time_limit(ending: Any, elapsed_s: float | None, limit: object, expected: float | None) -> None:
    """A stopped step is stopped again after as long; other steps have the session's limit."""
    entry = Maker().raised("x", "CodeExecutionError", "stopped", ending)
    assert time_limit(replace(entry, elapsed_s=elapsed_s), {"execution_timeout": limit}) == expected


def test_a_stub_tool_has_the_recorded_signature_and_refuses_calls() -> None:
    """Name, docstring and parameters are the recorded ones; the error of a call names live_tools."""
    tool = stub_tool(SEARCH)
    assert (tool.__name__, tool.__doc__) == ("search", "Search.")
    assert str(inspect.signature(tool)) == "(query, limit=5)"
    with pytest.raises(ReplayMismatch, match="pass it in live_tools"):
        tool("a")
