"""Tests of ``wire.hello``."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.wire import hello
from daytona_kernel_interp.wire.errors import RemoteProtocolError
from daytona_kernel_interp.wire.hello import HostHello, RelayHello, parse_host_hello, parse_relay_hello

from . import strategies

STREAM = "0123456789abcdef" * 2

HOST = {"version": 1, "stream": STREAM, "kernel": "1-ab", "window": 16777216}
RELAY = {"version": 1, "boot": "00ff", "window": 16777216}

GOLDEN_HOST_V1 = (
    f'{{"stream": "{STREAM}", "kernel": "1-ab", "window": 16777216, "version": 1}}',
    HostHello(STREAM, "1-ab", 16777216),
)
GOLDEN_RELAY_V1 = (b'{"boot": "00ff", "window": 16777216, "version": 1}', RelayHello("00ff", 16777216))


def test_golden_hellos() -> None:
    """Wire version 1 has exactly these hellos, either way."""
    header, host = GOLDEN_HOST_V1
    assert host.to_header() == header
    assert parse_host_hello(header) == host
    payload, relay = GOLDEN_RELAY_V1
    assert relay.to_payload() == payload
    assert parse_relay_hello(payload) == relay


def test_golden_names_and_codes() -> None:
    """Headers, paths and close codes are part of wire version 1."""
    assert (hello.SECRET_HEADER, hello.HELLO_HEADER) == ("X-Kernel-Secret", "X-Kernel-Hello")
    assert hello.PATH_PREFIX == "/v1/"
    assert (*hello.KERNEL_CHANNELS, hello.RELAY_CHANNEL) == ("shell", "iopub", "stdin", "control", "hb", "relay")
    assert {code.name: code.value for code in hello.Close} == {
        "BAD_HELLO": 4400,
        "BAD_SECRET": 4401,
        "UNKNOWN_STREAM": 4404,
        "TOO_MANY_STREAMS": 4429,
        "PORT_REFUSED": 4502,
    }


@given(
    stream=st.text("0123456789abcdef", min_size=32, max_size=32),
    kernel=st.text(max_size=20),
    window=st.integers(1, 2**40),
)
def test_hellos_survive_the_wire(stream: str, kernel: str, window: int) -> None:
    """What one side says is what the other reads."""
    host = HostHello(stream, kernel, window)
    assert parse_host_hello(host.to_header()) == host
    relay = RelayHello(kernel, window)
    assert parse_relay_hello(relay.to_payload()) == relay


@given(st.text(max_size=40).map(lambda kernel: HostHello(STREAM, kernel, 1)))
def test_the_host_hello_fits_into_a_header(said: HostHello) -> None:
    """The header is printable ASCII, so it holds no line break that would start another header."""
    header = said.to_header()
    assert header.isascii()
    assert header.isprintable()


_NEAR_HELLOS = st.builds(
    lambda base, changes, drop: {k: v for k, v in {**base, **changes}.items() if k not in drop},
    st.sampled_from([HOST, RELAY]),
    st.dictionaries(st.sampled_from(["version", "stream", "kernel", "window", "boot"]), strategies.JSON),
    st.sets(st.sampled_from(["version", "stream", "kernel", "window", "boot"]), max_size=1),
).map(json.dumps)


@strategies.FEW
@given(st.one_of(st.none(), st.text(), strategies.JSON.map(json.dumps), _NEAR_HELLOS))
def test_any_header_is_a_hello_or_refused(header: str | None) -> None:
    """Whatever a header holds, nothing but RemoteProtocolError comes of it."""
    try:
        said = parse_host_hello(header)
    except RemoteProtocolError:
        return
    assert said.window >= 1


@strategies.FEW
@given(st.one_of(st.binary(), st.text().map(lambda t: t.encode("utf-8", "replace")), _NEAR_HELLOS.map(str.encode)))
def test_any_payload_is_a_hello_or_refused(payload: bytes) -> None:
    """Whatever a HELLO frame holds, nothing but RemoteProtocolError comes of it."""
    try:
        said = parse_relay_hello(payload)
    except RemoteProtocolError:
        return
    assert said.window >= 1


@pytest.mark.parametrize("version", [0, 2, "1", None, [1]])
def test_another_version_is_refused_and_named(version: Any) -> None:
    """Both sides name both versions, and say what to do."""
    with pytest.raises(RemoteProtocolError, match="install the same") as refused:
        parse_host_hello(json.dumps({**HOST, "version": version}))
    assert f"version {version!r}, this side 1" in str(refused.value)
    with pytest.raises(RemoteProtocolError, match="install the same"):
        parse_relay_hello(json.dumps({**RELAY, "version": version}).encode())


def test_the_version_is_looked_at_first() -> None:
    """A hello of a later version is told so, whatever else that version changed."""
    with pytest.raises(RemoteProtocolError, match="speaks wire version 2"):
        parse_host_hello('{"version": 2}')
    with pytest.raises(RemoteProtocolError, match="speaks wire version 2"):
        parse_relay_hello(b'{"version": 2}')


@pytest.mark.parametrize(
    "changed",
    [
        {"stream": STREAM[:-1]},
        {"stream": STREAM + "0"},
        {"stream": STREAM.upper()},
        {"stream": STREAM[:-1] + "\n"},
        {"stream": 5},
        {"kernel": None},
        {"window": 0},
        {"window": -1},
        {"window": "9"},
        {"window": 1.5},
    ],
)
def test_a_host_hello_with_a_bad_field_is_refused(changed: dict[str, Any]) -> None:
    """Every field has its form."""
    with pytest.raises(RemoteProtocolError, match="hello without"):
        parse_host_hello(json.dumps({**HOST, **changed}))


@pytest.mark.parametrize("changed", [{"boot": 1}, {"boot": None}, {"window": 0}, {"window": "9"}, {"window": None}])
def test_a_relay_hello_with_a_bad_field_is_refused(changed: dict[str, Any]) -> None:
    """Every field has its form."""
    with pytest.raises(RemoteProtocolError, match="names no boot id"):
        parse_relay_hello(json.dumps({**RELAY, **changed}).encode())


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (None, "not JSON"),
        ("", "not JSON"),
        ("[]", "not a JSON object"),
        ("[" * 4096, "not JSON"),
        (" " * 5000, "at most"),
    ],
)
def test_a_header_that_is_no_hello_is_refused(header: str | None, why: str) -> None:
    """A missing, malformed, deeply nested or huge header is refused before anything is made of it."""
    with pytest.raises(RemoteProtocolError, match=why):
        parse_host_hello(header)
