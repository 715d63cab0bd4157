"""Variables sent by the host and kept by the kernel: ``sent_inputs``, ``request`` and the guest's ``input_cache``."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.codec import values
from daytona_kernel_interp.codec.values import LARGE_BYTES
from daytona_kernel_interp.guest.kernel.input_cache import InputCache, ValueForgotten, resolve
from daytona_kernel_interp.interpreter.dspy_errors import UnsendableValue
from daytona_kernel_interp.interpreter.options import CallSettings
from daytona_kernel_interp.interpreter.request import CellRequest, build_request
from daytona_kernel_interp.interpreter.sent_inputs import SentInputs
from daytona_kernel_interp.playback import canonical
from daytona_kernel_interp.wire.comm import Preamble
from daytona_kernel_interp.wire.protocol_errors import RemoteProtocolError
from tests.unit import strategies

if TYPE_CHECKING:
    from collections.abc import Callable

LARGE = "x" * LARGE_BYTES


class Pair:
    """A host's ``SentInputs`` and a kernel's ``InputCache``; counts the bytes between them."""

    def __init__(self, max_bytes: int = 1 << 30) -> None:
        self.inputs, self.keeping = SentInputs(), InputCache(max_bytes)
        self.sent = 0

    def request(self, **variables: Any) -> CellRequest:
        return build_request("", variables, CallSettings({}, None), self.inputs)

    def send(self, **variables: Any) -> dict[str, Any]:
        """Send variables and return them as they arrive."""
        request = self.request(**variables)
        try:
            return self.take(request)
        except ValueForgotten:
            assert request.complete_request is not None
            return self.take(request.complete_request())

    def take(self, request: CellRequest) -> dict[str, Any]:
        self.sent = sum(map(len, request.buffers))
        buffers = [memoryview(bytes(buffer)) for buffer in request.buffers]
        preamble = Preamble.from_value(values.loads(buffers))
        arrived = {**preamble.variables, **resolve(self.keeping, preamble.kept, buffers)}
        self.inputs.set_cached_keys(self.keeping.keys)
        return arrived


def same(left: Any, right: Any) -> bool:
    """Return whether two values are equal and of equal types: True is not 1."""
    return repr(left) == repr(right) and type(left) is type(right)


SAMPLES: list[Callable[[], Any]] = [
    lambda: LARGE,
    lambda: LARGE.encode(),
    lambda: {"a": [LARGE, {"b": (1, 2.5, None, True)}]},
    lambda: [LARGE, {1: 2}, 10**30, float("inf"), "\udc80"],
    lambda: [LARGE, b"x"],
    lambda: [LARGE, datetime.date(2020, 1, 1)],
    lambda: bytearray(LARGE_BYTES),
    lambda: dict.fromkeys(range(LARGE_BYTES)),
]


@pytest.mark.parametrize("make", SAMPLES)
def test_what_did_not_change_is_not_sent_again(make: Callable[[], Any]) -> None:
    """The same object and an equal one are not sent again; each arrives unchanged."""
    pair, value = Pair(), make()
    expected = values.loads(values.dumps(value))
    for again, given_value in enumerate([value, value, make()]):
        assert same(pair.send(v=given_value)["v"], expected)
        assert (pair.sent < 1000) is bool(again)


def test_each_cell_gets_a_value_of_its_own() -> None:
    """A cell may change its variable in place; the next cell gets it unchanged."""
    pair, value = Pair(), {"a": [LARGE]}
    for _ in range(3):
        arrived = pair.send(v=value)["v"]
        assert arrived == value
        arrived["a"].append("changed")


@pytest.mark.parametrize(
    ("old", "new"),
    [(1, True), (1, 1.0), (0.0, -0.0), ((1,), [1]), ("1", 1), (b"1", "1"), (None, False), ({1: 2}, {1.0: 2})],
)
def test_a_value_changed_in_place_is_sent_again(old: Any, new: Any) -> None:
    """A changed value is sent again, also if Python considers both equal."""
    pair, value = Pair(), [LARGE, old]
    pair.send(v=value)
    value[1] = new
    assert same(pair.send(v=value)["v"], [LARGE, new])
    assert pair.sent > LARGE_BYTES


def test_an_array_in_the_place_of_bytes_is_seen() -> None:
    """marshal writes bytes and arrays alike; they are distinguished all the same."""
    np = pytest.importorskip("numpy", reason="numpy is not installed in this environment")
    pair, value = Pair(), [LARGE, np.zeros(2, np.int8)]
    pair.send(v=value)
    value[1] = np.zeros(1, np.int16)
    assert pair.send(v=value)["v"][1].dtype == np.int16
    value[1] = b"\0\0"
    assert pair.send(v=value)["v"][1] == b"\0\0"


@strategies.FEW
@given(st.lists(strategies.VALUES, min_size=1, max_size=6))
def test_whatever_is_sent_after_whatever_arrives_as_itself(sequence: list[Any]) -> None:
    """Values kept from earlier cells never replace a new one."""
    pair, sequence = Pair(3 * LARGE_BYTES), [*sequence, *sequence]
    for value in sequence:
        expected = values.loads(values.dumps([LARGE, value]))
        arrived = pair.send(v=[LARGE, value])["v"]
        assert canonical.same_value(values.dumps(arrived), values.dumps(expected))  # a set has no order


def test_a_value_under_another_name_is_the_same() -> None:
    """The kernel identifies values by their hash, whatever the variable's name."""
    pair = Pair()
    pair.send(a=[LARGE])
    assert pair.send(b=[LARGE]) == {"b": [LARGE]}
    assert pair.sent < 1000


def test_small_values_are_not_kept() -> None:
    """Small values are sent each time: that is cheaper than a lookup."""
    pair = Pair()
    assert pair.send(a=1, b="x") == {"a": 1, "b": "x"}
    assert pair.keeping.keys == []


def test_what_was_used_longest_ago_is_forgotten_first() -> None:
    """The kernel's cache is bounded; an evicted value is sent again."""
    pair = Pair(2 * LARGE_BYTES + 1000)
    for letter in "aba":
        pair.send(v=letter * LARGE_BYTES)
    pair.send(v="c" * LARGE_BYTES)
    assert len(pair.keeping.keys) == 2
    assert pair.send(v="a" * LARGE_BYTES)["v"][0] == "a"
    assert pair.sent < 1000
    assert pair.send(v="b" * LARGE_BYTES)["v"][0] == "b"
    assert pair.sent > LARGE_BYTES


def test_a_text_counts_as_what_it_takes() -> None:
    """A str with one emoji takes four bytes for each character, unlike in UTF-8; so do numbers."""
    pair = Pair(10 * LARGE_BYTES)
    for letter in "abcdefgh":
        pair.send(v=letter * LARGE_BYTES + "\U0001f600")
    assert len(pair.keeping.keys) == 2
    pair = Pair(10 * LARGE_BYTES)
    for number in range(8):
        pair.send(v=[number] * LARGE_BYTES)
    assert sum(map(len, (kept for _, kept, _ in pair.keeping._entries.values()))) <= 10 * LARGE_BYTES


def test_one_larger_than_all_there_is_room_for_arrives() -> None:
    """It arrives, and is not kept."""
    pair = Pair(10)
    for _ in range(2):
        assert pair.send(v=LARGE) == {"v": LARGE}
        assert pair.keeping.keys == []


def test_a_kernel_that_forgot_gets_everything_again() -> None:
    """A cell can delete values from the cache; a new kernel has none."""
    pair = Pair()
    pair.send(v=[LARGE], w=LARGE)
    pair.keeping = InputCache()
    assert pair.send(v=[LARGE], w=LARGE) == {"v": [LARGE], "w": LARGE}


def test_a_missing_value_changes_nothing() -> None:
    """The cell does not run, and none of its variables is bound."""
    pair = Pair()
    pair.send(v=LARGE)
    request = pair.request(v=LARGE, w=[LARGE])
    pair.keeping = InputCache()
    with pytest.raises(ValueForgotten):
        pair.take(request)
    assert pair.keeping.keys == []


def test_a_variable_that_cannot_be_decoded_is_named() -> None:
    """Such as one of a library that is not installed in the sandbox."""
    with pytest.raises(RemoteProtocolError, match=r"variable 'v': values have no tag 'nowhere\.x'"):
        resolve(InputCache(), [("v", "k", 1)], [b'{"$":"nowhere.x","v":[1,[]]}'])


def test_a_variable_that_cannot_be_sent_is_named() -> None:
    """A value that is too large is refused, alone or together with others."""
    with pytest.raises(UnsendableValue, match="Variable 'v' cannot be sent to the kernel: Unsupported value type"):
        Pair().request(v=lambda: None)
    limited = CallSettings({}, None, max_value_bytes=100)
    with pytest.raises(UnsendableValue, match=r"Variable 'v' .* more than 100 bytes"):
        build_request("", {"v": "x" * 200}, limited, SentInputs())
    with pytest.raises(UnsendableValue, match="more than 100 bytes"):
        build_request("", {"v": "x" * 60, "w": "x" * 60}, limited, SentInputs())
