"""Tests of ``probe``: answers of a sandbox are parsed if they are valid, and refused in one sentence if not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("pydantic", reason="pydantic is not installed in this environment")

from daytona_kernel_interp.errors import SandboxFailed
from daytona_kernel_interp.sandboxes.daytona.probe import (
    ProbeResult,
    ServingRelay,
    parse_install,
    parse_probe,
    parse_start,
)

pytestmark = pytest.mark.python

FOUND: dict[str, Any] = {
    "relay": None,
    "python": "/usr/bin/python3",
    "version": [3, 12],
    "missing": ["ipykernel"],
    "installed": False,
    "folder": "/home/a b/.cache",
    "cwd": "/home/a b",
    "port": 4290,
}
RELAY: dict[str, Any] = {
    "python": "python3",
    "path": "",
    "folder": "/f",
    "cwd": "/",
    "port": 4290,
    "secret": "s" * 43,
    "pid": 17,
    "started": "12345",
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def test_what_makes_sense_is_taken() -> None:
    """A probe with and without a relay, a taken port, a system without /proc, and an installation."""
    found = parse_probe(FOUND)
    assert isinstance(found, ProbeResult)
    assert (found.version, found.missing, found.installed, found.port) == ((3, 12), ("ipykernel",), False, 4290)
    taken = parse_probe({**FOUND, "port": None})
    assert isinstance(taken, ProbeResult)
    assert taken.port is None
    serving = parse_probe({"relay": RELAY})
    assert isinstance(serving, ServingRelay)
    assert (serving.port, serving.secret, serving.process) == (4290, "s" * 43, "17 12345")
    without = parse_probe({"relay": {**RELAY, "started": ""}})
    assert isinstance(without, ServingRelay)
    assert without.process == "17"
    assert parse_install({"python": "/p"}) == "/p"
    assert parse_start({"relay": RELAY}) == parse_probe({"relay": RELAY})
    with pytest.raises(SandboxFailed, match="no relay can be started in the Daytona sandbox: no port"):
        parse_start({"error": "no port"})


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": "4290"},
        {"port": 0},
        {"port": True},
        {"port": 65536},
        {"secret": "a\r\nX: y" * 5},
        {"secret": None},
        {"secret": "short"},
        {"pid": "17; rm -rf /"},
        {"pid": -1},
        {"started": "1 || reboot"},
        {"started": "\u0663"},
        {"folder": "a\0b"},
        {"folder": "x" * 5000},
        {"path": "x" * 5000},
        {"python": ""},
    ],
)
def test_what_would_become_a_header_a_port_or_a_command_is_looked_at(wrong: dict[str, Any]) -> None:
    """Any process of the sandbox may have sent the relay's answer."""
    with pytest.raises(SandboxFailed, match="sent an invalid answer"):
        parse_probe({"relay": {**RELAY, **wrong}})


@given(
    st.sampled_from(sorted(FOUND)),
    st.sampled_from(sorted(RELAY)),
    JSON,
    st.booleans(),
)
def test_any_answer_is_taken_or_refused(field: str, of_relay: str, value: Any, gone: bool) -> None:
    """Any value of a field, or a missing field, gives a result or ``SandboxFailed``."""

    def spoiled(good: dict[str, Any], name: str) -> dict[str, Any]:
        return {key: item for key, item in good.items() if key != name} if gone else {**good, name: value}

    for answer in (spoiled(FOUND, field), {"relay": spoiled(RELAY, of_relay)}, {"relay": value}, {}):
        try:
            found = parse_probe(answer)
        except SandboxFailed:
            continue
        assert isinstance(found, (ProbeResult, ServingRelay))
    try:
        assert parse_install({"python": value}) == value
    except SandboxFailed:
        assert not isinstance(value, str) or not value or "\0" in value
