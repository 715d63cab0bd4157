"""Encoded values of every library in ``golden/values_v1.json``, which must never change.

Later versions must decode stored values, such as those of a recorded session. ``python -m
tests.unit.codec.test_golden_values`` adds missing values to the file and keeps the existing ones.
"""

from __future__ import annotations

import datetime
import json
import re
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from daytona_kernel_interp.codec.records import Record
from daytona_kernel_interp.codec.values import VALUES_VERSION, dumps, loads

if TYPE_CHECKING:
    from collections.abc import Callable

np = pytest.importorskip("numpy", reason="numpy is not installed in this environment")
pd = pytest.importorskip("pandas", reason="pandas is not installed in this environment")
pl = pytest.importorskip("polars", reason="polars is not installed in this environment")
pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed in this environment")
Image = pytest.importorskip("PIL.Image", reason="pillow is not installed in this environment")

FILE = Path(__file__).parent / "golden" / f"values_v{VALUES_VERSION}.json"
_DAYS = ["2020-01-01", "2020-06-01"]


def pandas_frame() -> Any:
    return pd.DataFrame(
        {
            "int": np.array([1, -2], "<i8"),
            "float": [0.5, float("nan")],
            "bool": [True, False],
            "object": pd.Series(["a", "ü"], dtype=object),
            "gaps": pd.Series(["a", None], dtype=object),
            "mixed": pd.Series([1, "x"], dtype=object),
            "text": pd.array(["a", None], dtype="string[pyarrow]"),
            "python": pd.array(["a", None], dtype="string[python]"),
            "day": np.array(_DAYS, "M8[ns]"),
            "zone": pd.DatetimeIndex(np.array(_DAYS, "M8[us]")).tz_localize("Europe/Berlin"),
            "span": np.array([1, "NaT"], "m8[s]"),
            "category": pd.Categorical(["b", "a"], ["a", "b"], ordered=True),
            "Int64": pd.array([1, None], dtype="Int64"),
            "period": pd.PeriodIndex(["2020-01", "2020-02"], freq="M"),
            "interval": pd.interval_range(0, 2),
            "arrow": pd.array([[1], None], dtype=pd.ArrowDtype(pa.list_(pa.int8()))),
        },
    )


def polars_frame() -> Any:
    frame = pl.DataFrame({"i": [1, None], "f": [0.5, float("nan")], "s": ["a", None], "b": [True, None]})
    day = datetime.datetime(2020, 1, 1)
    return frame.with_columns(
        pl.Series("when", [day, None], pl.Datetime("us", "Europe/Berlin")),
        pl.Series("list", [[1], None], pl.List(pl.Int8)),
        pl.Series("struct", [{"a": 1}, None], pl.Struct({"a": pl.Int8})),
        pl.Series("decimal", [Decimal("1.50"), None], pl.Decimal(10, 2)),
        pl.Series("category", ["x", None], pl.Categorical),
    )


# The value, and whether its frames are encoded as Arrow.
VALUES: dict[str, tuple[Callable[[], Any], bool]] = {
    "plain": (lambda: [(1, {2}, b"x"), Decimal("1.5"), datetime.timedelta(1), Record("Page", {"title": "t"})], False),
    "numpy array": (lambda: np.arange(6, dtype="<f4").reshape(2, 3).T, False),
    "numpy structured": (lambda: np.array([("a", [1.5, 2])], dtype=[("n", "<U3"), ("v", "<f4", (2,))]), False),
    "numpy texts": (lambda: np.array(["a", None, "ü", float("nan")], object), False),
    "numpy objects": (lambda: np.array([1, None, (2,)], object), False),
    "numpy scalar": (lambda: np.datetime64("2020-01-01", "D"), False),
    "pandas frame": (pandas_frame, False),
    "pandas frame by Arrow": (pandas_frame, True),
    "pandas index": (lambda: pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["x", None]), False),
    "pandas times": (
        lambda: pd.Series([1, 2], pd.date_range("2020", periods=2, freq="D", name="day"), name="n"),
        False,
    ),
    "pandas scalar": (lambda: pd.Timestamp("2020-01-01 12:00", tz="Europe/Berlin").as_unit("us"), False),
    "polars frame": (polars_frame, False),
    "polars frame by Arrow": (polars_frame, True),
    "polars series": (lambda: pl.Series("n", [1, None], pl.Int16), True),
    "pyarrow table": (lambda: pa.table({"s": ["a", None], "d": pa.array(["x", "y"]).dictionary_encode()}), False),
    "pyarrow batch": (lambda: pa.record_batch({"a": [1, 2]}), False),
    "pyarrow array": (lambda: pa.array([[1], None, []]), False),
    "pyarrow chunked": (lambda: pa.chunked_array([[1, 2], [3]]), False),
    "pyarrow schema": (lambda: pa.schema({"a": pa.int8(), "t": pa.timestamp("us", "Europe/Berlin")}), False),
    "PIL png": (lambda: Image.frombytes("RGB", (2, 1), bytes([1, 2, 3, 250, 251, 252])), False),
    "PIL palette": (lambda: Image.frombytes("RGB", (2, 1), bytes([1, 2, 3, 4, 5, 6])).convert("P", palette=1), False),
    "PIL pixels": (lambda: Image.new("I;16", (2, 1), 258), False),
}
_MADE_BY_A_LIBRARY = re.compile(r'"[A-Za-z0-9+/]{120,}=*"')  # PNG and Arrow: the bytes depend on the library's version


def encoded(name: str) -> str:
    make, arrow = VALUES[name]
    (head,) = dumps(make(), arrow=arrow)
    return bytes(head).decode("ascii")


def same(left: Any, right: Any) -> bool:
    if isinstance(left, pd.DataFrame):
        pd.testing.assert_frame_equal(left, right)
        return True
    if isinstance(left, Image.Image):
        return bool((left.mode, left.size, left.convert("RGB").tobytes()) ==
                    (right.mode, right.size, right.convert("RGB").tobytes()))  # fmt: skip
    if isinstance(left, pl.DataFrame):
        return bool(left.schema == right.schema and left.equals(right))
    if isinstance(left, np.ndarray):
        return bool(left.dtype == right.dtype and repr(left) == repr(right))
    return bool(left.equals(right) if hasattr(left, "equals") else left == right)


@pytest.mark.parametrize("name", VALUES)
def test_what_was_written_once_is_read_for_ever(name: str) -> None:
    """The bytes in the file decode to the value of the installed library."""
    golden = json.loads(FILE.read_text())[name]
    value = loads([golden.encode("ascii")])
    expected = VALUES[name][0]()
    assert type(value) is type(expected)
    assert same(value, expected)


@pytest.mark.parametrize("name", VALUES)
def test_what_is_written_is_what_was_written(name: str) -> None:
    """The encoded bytes are equal to those in the file, except for PNG and Arrow; others need a new format version."""
    golden = json.loads(FILE.read_text())[name]
    assert _MADE_BY_A_LIBRARY.sub('"..."', encoded(name)) == _MADE_BY_A_LIBRARY.sub('"..."', golden)


def test_every_golden_value_is_looked_at() -> None:
    """Every value in the file has a test."""
    assert list(json.loads(FILE.read_text())) == list(VALUES)


if __name__ == "__main__":
    kept = json.loads(FILE.read_text()) if FILE.exists() else {}
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps({name: kept.get(name) or encoded(name) for name in VALUES}, indent=1) + "\n")
