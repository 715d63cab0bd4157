"""Values that users pass by mistake: one clear sentence, or a true round trip."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from daytona_kernel_interp.request import InvalidRequest, prepare
from daytona_kernel_interp.wire.values import dumps, loads

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
    """The variable, what is wrong with it, and nothing else."""
    value = make()
    try:
        with pytest.raises(InvalidRequest) as caught:
            prepare("", {"v": value}, {}, None, max_output_chars=None, max_value_bytes=1000)
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
    """Python limits decimal digits, and is slow with them; hexadecimal has neither trouble."""
    value = 10**1_000_000
    assert loads(dumps([value, 1 - value])) == [value, 1 - value]


def test_a_frame_with_mixed_columns_comes_back() -> None:
    """Each cell of an object column crosses as what it is."""
    pd = pytest.importorskip("pandas", reason="pandas is not installed in this environment")
    frame = pd.DataFrame({"mixed": [1, "a", None, (1, 2), b"x"], 5: [{1}, [2], {3: 4}, 2.5, True]})
    back = loads(dumps(frame))
    assert back.to_dict("list") == frame.to_dict("list")
    assert list(back.columns) == ["mixed", 5]
    with pytest.raises(TypeError, match="Unsupported value type: function"):
        dumps(pd.DataFrame({"f": [lambda: 1]}))
