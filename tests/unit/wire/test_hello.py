"""Tests of ``wire.hello``."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.wire import hello
from daytona_kernel_interp.wire.hello import HostHello, RelayHello, close_reason, parse_host_hello, parse_relay_hello
from daytona_kernel_interp.wire.protocol_errors import RemoteProtocolError
from tests.unit import strategies

STREAM = "0123456789abcdef" * 2

RESUME = "fedcba9876543210" * 4

HOST = {
    "version": 2,
    "stream": STREAM,
    "resume": RESUME,
    "kernel": "1-ab",
    "window": 16777216,
    "generation": 3,
    "received": 70,
    "known": True,
}
RELAY = {"version": 2, "boot": "00ff", "window": 16777216}

GOLDEN_HOST_V2 = (
    f'{{"stream": "{STREAM}", "resume": "{RESUME}", "kernel": "1-ab", "window": 16777216, "generation": 3, '
    '"received": 70, "known": true, "version": 2}',
    HostHello(STREAM, RESUME, "1-ab", 16777216, 3, 70, True),
)
GOLDEN_RELAY_V2 = (b'{"boot": "00ff", "window": 16777216, "version": 2}', RelayHello("00ff", 16777216))


def test_golden_hellos() -> None:
    """Wire version 2 has exactly these hellos, in both directions."""
    header, host = GOLDEN_HOST_V2
    assert host.to_header() == header
    assert parse_host_hello(header) == host
    payload, relay = GOLDEN_RELAY_V2
    assert relay.to_payload() == payload
    assert parse_relay_hello(payload) == relay


def test_golden_names_and_codes() -> None:
    """Headers, paths and close codes are part of wire version 2."""
    assert (hello.SECRET_HEADER, hello.HELLO_HEADER) == ("X-Kernel-Secret", "X-Kernel-Hello")
    assert hello.PATH_PREFIX == "/v2/"
    assert hello.CHANNELS == ("shell", "iopub", "stdin", "control", "hb", "journal", "relay")
    assert {code.name: code.value for code in hello.CloseCode} == {
        "SUPERSEDED": 4001,
        "BAD_HELLO": 4400,
        "BAD_SECRET": 4401,
        "UNKNOWN_STREAM": 4404,
        "STALE_GENERATION": 4409,
        "WINDOW_OVERRUN": 4413,
        "TOO_MANY_STREAMS": 4429,
        "PORT_REFUSED": 4502,
    }


def test_a_hello_keeps_its_secret_to_itself() -> None:
    """The resume secret is in the header and in no repr."""
    said = HostHello(STREAM, RESUME, "1-ab", 1)
    assert RESUME in said.to_header()
    assert RESUME not in repr(said)


@given(text=st.text(max_size=300))
def test_a_close_reason_fits_into_a_close_frame(text: str) -> None:
    """RFC 6455 allows a reason of 123 bytes."""
    assert len(close_reason(text).encode()) <= 123


@given(
    stream=st.text("0123456789abcdef", min_size=32, max_size=32),
    resume=st.text("0123456789abcdef", min_size=64, max_size=64),
    kernel=st.text(max_size=20),
    window=st.integers(1, 2**40),
    generation=st.integers(1, 2**40),
    received=st.integers(0, 2**63),
    known=st.booleans(),
)
def test_hellos_survive_the_wire(
    stream: str, resume: str, kernel: str, window: int, generation: int, received: int, known: bool
) -> None:
    """A hello is equal after encoding and decoding."""
    host = HostHello(stream, resume, kernel, window, generation, received, known)
    assert parse_host_hello(host.to_header()) == host
    relay = RelayHello(kernel, window)
    assert parse_relay_hello(relay.to_payload()) == relay


@given(st.text(max_size=40).map(lambda kernel: HostHello(STREAM, RESUME, kernel, 1)))
def test_the_host_hello_fits_into_a_header(said: HostHello) -> None:
    """The header is printable ASCII, so it has no line break that would start another header."""
    header = said.to_header()
    assert header.isascii()
    assert header.isprintable()


_FIELDS = st.sampled_from([*HOST, *RELAY])
_NEAR_HELLOS = st.builds(
    lambda base, changes, drop: {k: v for k, v in {**base, **changes}.items() if k not in drop},
    st.sampled_from([HOST, RELAY]),
    st.dictionaries(_FIELDS, strategies.JSON),
    st.sets(_FIELDS, max_size=1),
).map(json.dumps)


@strategies.FEW
@given(st.one_of(st.none(), st.text(), strategies.JSON.map(json.dumps), _NEAR_HELLOS))
def test_any_header_is_a_hello_or_refused(header: str | None) -> None:
    """Any header is a hello or raises RemoteProtocolError."""
    try:
        said = parse_host_hello(header)
    except RemoteProtocolError:
        return
    assert said.window >= 1


@strategies.FEW
@given(st.one_of(st.binary(), st.text().map(lambda t: t.encode("utf-8", "replace")), _NEAR_HELLOS.map(str.encode)))
def test_any_payload_is_a_hello_or_refused(payload: bytes) -> None:
    """Any payload of a HELLO frame is a hello or raises RemoteProtocolError."""
    try:
        said = parse_relay_hello(payload)
    except RemoteProtocolError:
        return
    assert said.window >= 1


@pytest.mark.parametrize("version", [0, 1, 3, "2", 2.0, True, None, [2], "x" * 500])
def test_another_version_is_refused_and_named(version: Any) -> None:
    """The errors of both sides name both versions and the remedy."""
    with pytest.raises(RemoteProtocolError, match="install the same") as refused:
        parse_host_hello(json.dumps({**HOST, "version": version}))
    assert f"version {repr(version)[:20]}, this side 2" in str(refused.value)
    with pytest.raises(RemoteProtocolError, match="install the same"):
        parse_relay_hello(json.dumps({**RELAY, "version": version}).encode())


def test_the_version_is_looked_at_first() -> None:
    """The refusal of a hello of a later version names the version, for any other changes in it."""
    with pytest.raises(RemoteProtocolError, match="speaks wire version 3"):
        parse_host_hello('{"version": 3}')
    with pytest.raises(RemoteProtocolError, match="speaks wire version 3"):
        parse_relay_hello(b'{"version": 3}')


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("stream", [STREAM[:-1], STREAM + "0", STREAM.upper(), STREAM[:-1] + "\n", STREAM + "\n", 5, None]),
        ("resume", [RESUME[:-1], RESUME + "0", RESUME.upper(), RESUME + "\n", "\u0661" * 64, "", 5, None]),
        ("kernel", [None, 5, ["1-ab"]]),
        ("window", [0, -1, "9", 1.5, True, None, 2**63 + 1]),
        ("generation", [0, -1, "9", 1.5, True, None, 2**63 + 1]),
        ("received", [-1, "9", 1.5, False, None, 2**63 + 1]),
        ("known", [0, 1, "true", None]),
    ],
)
def test_a_host_hello_with_a_bad_field_is_refused(name: str, values: list[Any]) -> None:
    """Every field is checked, and the refusal names it."""
    for value in values:
        with pytest.raises(RemoteProtocolError, match=rf"hello (without|that|whose) .*\b{name}\b"):
            parse_host_hello(json.dumps({**HOST, name: value}))
    with pytest.raises(RemoteProtocolError, match=rf"\b{name}\b"):
        parse_host_hello(json.dumps({field: value for field, value in HOST.items() if field != name}))


@pytest.mark.parametrize(
    ("changed", "why"),
    [({"boot": value}, "has no boot id") for value in (1, None)]
    + [({"window": value}, "whose window") for value in (0, "9", None, True, 2**63 + 1)],
)
def test_a_relay_hello_with_a_bad_field_is_refused(changed: dict[str, Any], why: str) -> None:
    """Every field is checked."""
    with pytest.raises(RemoteProtocolError, match=why):
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
    """A missing, malformed, deeply nested or huge header is refused before it is parsed."""
    with pytest.raises(RemoteProtocolError, match=why):
        parse_host_hello(header)
