"""Values that users pass by mistake: an error of one clear sentence, or an exact round trip."""

from __future__ import annotations

import functools
import io
import json
import math
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from daytona_kernel_interp.codec import unpacking
from daytona_kernel_interp.codec.values import ValueTooLarge, dumps, loads
from daytona_kernel_interp.interpreter.dspy_errors import UnsendableValue
from daytona_kernel_interp.interpreter.options import CallSettings
from daytona_kernel_interp.interpreter.request import build_request
from daytona_kernel_interp.interpreter.sent_inputs import SentInputs
from daytona_kernel_interp.wire.protocol_errors import RemoteProtocolError
from tests import examples

if TYPE_CHECKING:
    from collections.abc import Callable


def circle() -> Any:
    value: list[Any] = []
    value.append({"again": value})
    return value


def deep() -> Any:
    value: Any = ()
    for _ in range(10_000):
        value = (value,)
    return value


def _generator() -> Any:
    yield 1


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (circle, "nests deeper than 200 levels, or contains itself"),
        (deep, "nests deeper than 200 levels"),
        (_generator, "Unsupported value type: generator"),
        (lambda: io.StringIO("x"), "Unsupported value type: StringIO"),
        (lambda: Path(__file__).open(), "Unsupported value type: TextIOWrapper"),  # noqa: SIM115 -- closed below
        (lambda: [lambda: 1], "Unsupported value type: function"),
        (lambda: "x" * 2000, "takes more than 1000 bytes"),
    ],
    ids=["circle", "deep", "generator", "text file", "open file", "lambda", "large"],
)
def test_it_is_refused_by_name_in_one_sentence(make: Callable[[], Any], says: str) -> None:
    """The error has the variable and the reason, and nothing else."""
    value = make()
    try:
        with pytest.raises(UnsendableValue) as caught:
            build_request("", {"v": value}, CallSettings({}, None, max_value_bytes=1000), SentInputs())
    finally:
        if hasattr(value, "close"):
            value.close()
    assert str(caught.value).startswith("Variable 'v' cannot be sent to the kernel: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_keys_that_are_not_equal_to_themselves_come_back() -> None:
    """A dict may have two of them."""
    back = loads(dumps({math.nan: 1, float("nan"): 2, 1: 3}))
    assert sorted(back.values()) == [1, 2, 3]
    assert [key for key in back if key == key] == [1]


def test_an_int_of_a_million_digits_comes_back() -> None:
    """Python limits decimal digits and converts them slowly; hexadecimal has no limit and is fast."""
    value = 10**1_000_000
    assert loads(dumps([value, 1 - value])) == [value, 1 - value]


def test_a_frame_with_mixed_columns_comes_back() -> None:
    """Each cell of an object column keeps its type."""
    pd = pytest.importorskip("pandas", reason="pandas is not installed in this environment")
    frame = pd.DataFrame({"mixed": [1, "a", None, (1, 2), b"x"], 5: [{1}, [2], {3: 4}, 2.5, True]})
    back = loads(dumps(frame))
    assert back.to_dict("list") == frame.to_dict("list")
    assert list(back.columns) == ["mixed", 5]
    with pytest.raises(TypeError, match="Unsupported value type: function"):
        dumps(pd.DataFrame({"f": [lambda: 1]}))


# --- memory and time ----------------------------------------------------------------------------------------


def peak_of(work: Callable[[], object]) -> int:
    """Return the peak memory in bytes of a call that must raise an error."""
    tracemalloc.start()
    try:
        with pytest.raises((ValueTooLarge, RemoteProtocolError)):
            work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_what_is_too_large_is_refused_before_it_is_encoded() -> None:
    """A nested value of 32 MiB, large bytes and a str are refused at the limit without a copy."""
    records = [{"id": number, "text": "lorem ipsum " * 20} for number in range(120_000)]
    for value in (records, bytearray(32 << 20), memoryview(bytes(32 << 20)), "é" * (16 << 20), [["x" * 1000] * 40_000]):
        assert peak_of(functools.partial(dumps, value, max_bytes=1 << 20)) < 8 << 20


def test_an_array_that_repeats_its_memory_is_measured_first() -> None:
    """A terabyte of zeros in eight bytes would be expanded by the encoder."""
    np = pytest.importorskip("numpy", reason="numpy is not installed in this environment")
    assert peak_of(lambda: dumps(np.broadcast_to(0.0, (1 << 37,)))) < 1 << 20
    assert loads(dumps(np.broadcast_to(1.5, (3,)))).tolist() == [1.5] * 3


@pytest.mark.parametrize("part", ["[]", '{"a":1}', '{"$":"tuple","v":[]}'])
def test_many_small_parts_are_refused_before_they_are_made(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a few bytes that take a hundred times as much as objects are refused by the sender."""
    monkeypatch.setattr(unpacking, "MAX_UNPACKED_BYTES", 1 << 20)
    head = f"[{','.join([part] * 100_000)}]".encode()
    assert peak_of(lambda: loads([head])) < 2 * len(head) + (1 << 20)
    with pytest.raises(ValueTooLarge, match="send an array or a frame"):
        dumps([[]] * 100_000)
    assert loads(dumps([1] * 10_000)) == [1] * 10_000


def test_the_estimate_of_what_parts_become_is_near() -> None:
    """Accepted values take little more memory than the limit, for all kinds of parts."""
    for part in ("[]", '{"a":1}', '{"$":"tuple","v":[]}', '{"$":"set","v":[1.5]}', "1.5", "12345678", '"ab"', "{}"):
        head = f"[{','.join([part] * 10_000)}]".encode()
        estimate = head.count(b",") * unpacking.PART_BYTES
        estimate += (head.count(b"[") + head.count(b"{")) * (unpacking.PART_BYTES + unpacking.CONTAINER_BYTES)
        tracemalloc.start()
        kept = loads([head])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert kept
        assert peak < 2.5 * estimate + 2 * len(head)


def test_damage_raises_nothing_else_and_costs_no_memory() -> None:
    """Thousands of damaged values of every library are decoded in a process with limited memory."""
    count = examples.scaled(4000)
    for library in ("numpy", "pandas", "polars", "pyarrow", "PIL"):
        pytest.importorskip(library, reason=f"{library} is not installed in this environment")
    command = [sys.executable, "-m", "tests.unit.damage", "7", str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=100)
    found = json.loads(done.stdout)
    assert count / 2 < found["refused"] < count
    assert found["grown_mb"] < 64


def test_a_few_bytes_do_not_become_gigabytes() -> None:
    """Each is refused before it takes the memory or the time."""
    for library in ("numpy", "polars", "pyarrow", "PIL"):
        pytest.importorskip(library, reason=f"{library} is not installed in this environment")
    command = [sys.executable, "-m", "tests.unit.bombs"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False, timeout=100)
    outcomes = dict(map(json.loads, done.stdout.splitlines()))
    assert {name: outcome for name, outcome in outcomes.items() if outcome != "refused"} == {}
    assert (done.returncode, len(outcomes)) == (0, 24)


def test_an_image_of_as_many_pixels_as_may_be_sent_arrives() -> None:
    """Its decoded size is within the limit."""
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed in this environment")
    assert loads(dumps(image.new("L", (8192, 8192), 7))).getpixel((8191, 8191)) == 7


def test_a_range_is_refused_before_it_is_a_list() -> None:
    """A range takes no memory itself; as the last expression of a cell it is shown as its repr."""
    assert loads(dumps(range(3))) == range(3)
    for value in (range(10**7), range(10**30), range(0, -(10**10), -1)):
        assert peak_of(functools.partial(dumps, value)) < 1 << 20


def test_a_fraction_of_huge_numbers_is_refused_at_once() -> None:
    """To reduce it would take minutes."""
    digits = "f" * 4_000_000
    head = f'{{"$":"fraction","v":[{{"$":"int","v":"0x{digits}"}},{{"$":"int","v":"0x{digits[1:]}1"}}]}}'.encode()
    began = time.process_time()
    with pytest.raises(RemoteProtocolError):
        loads([head])
    assert time.process_time() - began < 1


@pytest.mark.parametrize("part", ['{"$":"range","v":[0,1000000,1]}', '{"$":"range","v":[5000000,0,-5]}'])
def test_ranges_are_charged_as_the_lists_that_may_be_made_of_them(part: str) -> None:
    """Two kilobytes of ranges would become gigabytes in the first loop over them."""
    assert len(loads([f"[{part}]".encode()])) == 1
    with pytest.raises(RemoteProtocolError, match="would unpack to more"):
        loads([f"[{','.join([part] * 80)}]".encode()])


def test_ranges_within_frames_come_back() -> None:
    """Only what would take gigabytes is refused."""
    pd = pytest.importorskip("pandas", reason="pandas is not installed in this environment")
    levels = pd.MultiIndex.from_product([range(3), ["a", "b"]])
    for value in (
        pd.DataFrame({"a": pd.Categorical.from_codes([0, 2], pd.RangeIndex(1000))}),
        pd.DataFrame({"a": range(6)}, index=levels),
        pd.DataFrame(index=pd.RangeIndex(100_000)),
        pd.Series([1, 2], pd.RangeIndex(5, 9, 2)),
    ):
        assert loads(dumps(value)).equals(value)
    assert loads(dumps(pd.RangeIndex(10_000_000))).equals(pd.RangeIndex(10_000_000))


def test_many_keys_of_different_hashes_come_back() -> None:
    """A few keys with the same hash are accepted."""
    keys = [*range(100_000), *(number * ((1 << 61) - 1) for number in range(1, 50)), -1, -2, 0.5, "a", (1, 2)]
    assert loads(dumps(dict.fromkeys(keys))) == dict.fromkeys(keys)
    assert loads(dumps(set(keys))) == set(keys)
