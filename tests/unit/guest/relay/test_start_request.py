"""Tests of ``guest.relay.start_request``: one parse function for all ways to start a relay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from daytona_kernel_interp.guest.relay.start_request import StartRequest, parse_start_request

pytestmark = pytest.mark.python

FIELDS: dict[str, Any] = {"secret": "s" * 20, "port": 0, "folder": "/f", "cwd": "/c", "lifetime_s": 60}


def test_optional_fields_have_defaults() -> None:
    """A request without them listens on the loopback address, keeps its folder and sets no variable."""
    request = parse_start_request(json.dumps(FIELDS))
    assert request == StartRequest("s" * 20, 0, Path("/f"), Path("/c"), 60.0, False, "127.0.0.1", {})


def test_every_field_is_read() -> None:
    """Each optional field has an effect."""
    given = {**FIELDS, "remove": True, "host": "0.0.0.0", "environment": {"A": 1}}
    request = parse_start_request(json.dumps(given).encode())
    assert (request.remove, request.host, request.environment) == (True, "0.0.0.0", {"A": "1"})


def test_the_relay_decides_its_own_fields() -> None:
    """What the relay fixes itself replaces what the line says."""
    request = parse_start_request(json.dumps(FIELDS), secret="t" * 20, cwd="/d")
    assert (request.secret, request.cwd) == ("t" * 20, Path("/d"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("[1]", "is a JSON object"),
        ("{", "Expecting"),
        (json.dumps({name: value for name, value in FIELDS.items() if name != "port"}), "without 'port'"),
        (json.dumps({**FIELDS, "port": "x"}), "invalid literal"),
        (json.dumps({**FIELDS, "environment": ["A"]}), "object of names and texts"),
        (json.dumps({**FIELDS, "secret": ""}), "this one is empty"),
        (json.dumps({**FIELDS, "host": "::", "secret": "short"}), "16 characters or more, and this one has 5"),
    ],
)
def test_an_invalid_request_is_a_value_error(line: str, words: str) -> None:
    """The text names the field."""
    with pytest.raises(ValueError, match=words):
        parse_start_request(line)


def test_the_secret_is_not_shown() -> None:
    """Neither it nor the environment is in the text of a request."""
    shown = repr(parse_start_request(json.dumps({**FIELDS, "environment": {"KEY": "hush"}})))
    assert "sss" not in shown
    assert "hush" not in shown
