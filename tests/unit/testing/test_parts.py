"""Tests of the emulator's parts without sockets or processes: faults, names, images, paths of operations."""

from __future__ import annotations

import dataclasses
import json
import socket
from typing import TYPE_CHECKING

import hypothesis.strategies as st
import pytest
from hypothesis import given

from daytona_kernel_interp.testing import NAMES_VARIABLE, Fault, resolver, resolving
from daytona_kernel_interp.testing.faults import FaultPlan, fault_from_json, shape_of
from daytona_kernel_interp.testing.images import check_tag, image_from_dockerfile
from daytona_kernel_interp.testing.model import Refused
from daytona_kernel_interp.testing.operations import API, TOOLBOX, match, operations

if TYPE_CHECKING:
    from collections.abc import Callable

DOMAIN = {NAMES_VARIABLE: ".one.localhost=127.0.0.1,.two.test=::1"}


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("3000-x.one.localhost", "127.0.0.1"),
        ("3000-x.ONE.localhost.", "127.0.0.1"),
        ("a.two.test", "::1"),
        ("one.localhost", None),
        ("xone.localhost", None),
        ("a.one.localhost.evil.test", None),
        ("", None),
    ],
)
def test_resolver(host: str, address: str | None) -> None:
    """Only names below the resolver's domains are resolved."""
    assert resolver(DOMAIN)(host) == address


@pytest.mark.parametrize("text", ["one=127.0.0.1", ".one", ".one=nowhere"])
def test_wrong_names(text: str) -> None:
    """A malformed variable is refused."""
    with pytest.raises(ValueError, match=r"."):
        resolver({NAMES_VARIABLE: text})("x")


def test_resolving_is_taken_back() -> None:
    """Within the block all clients of the process resolve the names; afterwards the change is undone."""
    before: Callable[..., object] = socket.getaddrinfo
    with resolving(resolver(DOMAIN)), resolving(lambda host: None):
        (_, _, _, _, address), *_ = socket.getaddrinfo("3000-x.one.localhost", 80, type=socket.SOCK_STREAM)
        assert address[:2] == ("127.0.0.1", 80)
        assert socket.getaddrinfo(b"3000-x.one.localhost", 80)
        assert socket.getaddrinfo(None, 80)
    assert socket.getaddrinfo is before


faults = st.builds(
    Fault,
    on=st.sampled_from(["api", "toolbox", "preview", "start"]),
    operation=st.none() | st.sampled_from(["createSandbox", "getSandbox"]),
    sandbox=st.none() | st.sampled_from(["a", "b"]),
    times=st.none() | st.integers(1, 3),
    status=st.none() | st.integers(400, 599),
    headers=st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
    refuse=st.booleans(),
    delay_s=st.floats(0, 5),
    cut_after_bytes=st.none() | st.integers(0, 100),
    bytes_per_s=st.none() | st.floats(1, 100),
)


@given(fault=faults)
def test_fault_as_json(fault: Fault) -> None:
    """A fault is equal after conversion to JSON and back."""
    assert fault_from_json(json.loads(json.dumps(dataclasses.asdict(fault)))) == fault


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"on": 5},
        {"on": "api", "moon": 1},
        {"on": "api", "times": "2"},
        {"on": "api", "times": True},
        {"on": "api", "headers": {"a": 1}},
        {"on": "api", "refuse": 1},
        {"on": "api", "status": 1.5},
    ],
    ids=repr,
)
def test_wrong_fault_as_json(value: object) -> None:
    """An object that is not a fault is refused."""
    with pytest.raises(ValueError, match="fault"):
        fault_from_json(value)


@given(planned=st.lists(faults, max_size=6), places=st.lists(st.sampled_from(["api", "preview"]), max_size=12))
def test_plan(planned: list[Fault], places: list[str]) -> None:
    """A fault applies to its target, the given number of times, and to no other."""
    plan = FaultPlan()
    for fault in planned:
        plan.add(fault)
    struck = [(place, fault) for place in places for fault in plan.take(place, "getSandbox", ("a",))]
    for place, fault in struck:
        assert fault.on == place
        assert fault.operation in (None, "getSandbox")
        assert fault.sandbox in (None, "a")
    for fault in planned:
        if fault.on in ("toolbox", "start") or fault.operation == "createSandbox" or fault.sandbox == "b":
            continue
        asked = places.count(fault.on)
        same = sum(other == fault for other in planned)
        count = sum(known == fault for _, known in struck)
        assert count == same * (asked if fault.times is None else min(asked, fault.times))


def test_shape_of_several() -> None:
    """Faults that affect one stream are merged."""
    assert shape_of([Fault("preview", status=502)]) is None
    shape = shape_of([Fault("preview", delay_s=1), Fault("preview", cut_after_bytes=0), Fault("preview", refuse=True)])
    assert shape is not None
    assert (shape.delay_s, shape.cut_after_bytes) == (1, 0)


def test_dockerfile() -> None:
    """Variables, folder and entrypoint are read from a Dockerfile; CMD alone is ignored."""
    image = image_from_dockerfile(
        'FROM python:3.12-slim\n# a comment\nENV A=1 B="two words"\nENV C three\nRUN pip \\\n  install x\n'
        'WORKDIR /work\nENTRYPOINT ["python", "-c", "print(1)"]\nCMD ["ignored"]\n'
    )
    assert image.env == {"A": "1", "B": "two words", "C": "three"}
    assert (image.workdir, image.entrypoint) == ("work", "python -c 'print(1)'")
    assert [step.split()[0] for step in image.steps] == ["FROM", "ENV", "ENV", "RUN", "WORKDIR", "ENTRYPOINT", "CMD"]
    with pytest.raises(Refused):
        image_from_dockerfile("RUN true\n")


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("debian:12", True),
        ("registry.example:5000/a/b:1", True),
        ("debian@sha256:0", True),
        ("debian", False),
        ("registry.example:5000/debian", False),
        ("a/b:latest", False),
    ],
)
def test_tags(name: str, good: bool) -> None:
    """A mutable or missing tag is refused."""
    if good:
        check_tag(name)
    else:
        with pytest.raises(Refused):
            check_tag(name)


@pytest.mark.parametrize("side", [API, TOOLBOX])
def test_operations_are_found_by_their_paths(side: str) -> None:
    """Every listed operation is found by its path, and parameters are unquoted."""
    for operation in operations(side):
        found = match(side, operation.method, operation.path.replace("{", "p-").replace("}", "%2Fx"))
        assert found is not None
        assert found[0] == operation
        assert all(value.endswith("/x") for value in found[1].values())
    assert match(side, "GET", "/no/such/path") is None
    assert match(side, "BREW", operations(side)[0].path) is None
