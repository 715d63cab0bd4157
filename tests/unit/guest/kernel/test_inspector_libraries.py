"""Summaries of arrays, tables and frames, and that no code of a foreign class runs for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from daytona_kernel_interp.guest.kernel.inspector import describe, summarize


class Touched(BaseException):
    """Raised when code of a value runs. Derives from BaseException, so that no ``except Exception`` hides it."""


def _touch(*args: Any, **kwargs: Any) -> Any:
    raise Touched


class Mine(np.ndarray):
    """An array of a class that session code has made."""

    __getattribute__ = __repr__ = __len__ = _touch


KNOWN: list[tuple[Any, str, list[int] | None, str | None]] = [
    (np.arange(6.0).reshape(2, 3), "numpy.ndarray", [2, 3], "float64 [0.0, 1.0, 2.0, …]"),
    (np.array([object(), "a"]), "numpy.ndarray", [2], "object [<object>, 'a']"),
    (np.float32(2), "numpy.float32", None, "2.0"),
    (pd.DataFrame({"a": [1], "b": ["x"]}), "pandas.DataFrame", [1, 2], "columns 'a', 'b'"),
    (pd.Series([1, 2]), "pandas.Series", [2], "int64 [1, 2]"),
    (pd.Series(["a", None, "c"], dtype=object), "pandas.Series", [3], "object ['a', None, 'c']"),
    (pd.Series([1, None], dtype="Int64"), "pandas.Series", [2], "Int64 [1, None]"),
    (pd.Series(list("ab"), dtype="category"), "pandas.Series", [2], "category ['a', 'b']"),
    (pd.Series(pd.date_range("2026", periods=2)), "pandas.Series", [2], None),
    (pd.Series([1, 2], dtype="int32[pyarrow]"), "pandas.Series", [2], "int32[pyarrow] [1, 2]"),
    (pd.Series(range(100)), "pandas.Series", [100], "int64 [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …]"),
    (pd.DataFrame([[1, 2]], columns=pd.CategoricalIndex(["x", "y"])), "pandas.DataFrame", [1, 2], "columns 'x', 'y'"),
    (
        pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_product([["x"], [1, 2]])),
        "pandas.DataFrame",
        [1, 2],
        "columns ('x', 1), ('x', 2)",
    ),
    (pd.DataFrame(), "pandas.DataFrame", [0, 0], ""),
    (pl.DataFrame({"a": [1], "b": ["x"]}), "polars.DataFrame", [1, 2], "columns 'a', 'b'"),
    (pl.Series([1, 2]), "polars.Series", [2], "Int64"),
    (pl.Series([["a"]]), "polars.Series", [1], "List"),
    (pa.table({"a": [1, 2]}), "pyarrow.Table", [2, 1], "columns 'a'"),
    (pa.record_batch({"a": [1, 2]}), "pyarrow.RecordBatch", [2, 1], "columns 'a'"),
    (np.array(["x" * 10**6]), "numpy.ndarray", [1], "str"),
    (pd.Series(["x" * 10**6] * 2, dtype="str"), "pandas.Series", [2], None),
    (np.zeros((2, 0)), "numpy.ndarray", [2, 0], "float64 []"),
    (np.array(5), "numpy.ndarray", [], "int64 [5]"),
    (np.array(["2026-01-02"], "M8[D]"), "numpy.ndarray", [1], "datetime64"),
    (pd.DataFrame(np.zeros((3, 2))), "pandas.DataFrame", [3, 2], "columns 0, 1"),
    (pd.DataFrame({name: [1] for name in "abcdefghijkl"}).iloc[:0], "pandas.DataFrame", [0, 12], None),
]


OWN_ARRAYS: list[Any] = [
    pd.Series(["a", "b", None]),
    pd.Series(pd.Categorical(["a", "b", "a"])),
    pd.Series(pd.date_range("2026-01-01", periods=3, tz="Europe/Berlin")),
    pd.Series([1, 2, None], dtype="Int64"),
    pd.Series([1.5, 2.5, 3.5], dtype="double[pyarrow]"),
    pd.Series(pd.period_range("2026-01", periods=3, freq="M")),
    pd.Series(pd.interval_range(0, 3)),
    pd.Series(pd.arrays.SparseArray([0, 0, 1])),
    pd.DataFrame({"a": [1, 2, 3]}, index=pd.MultiIndex.from_product([["x"], [1, 2, 3]])),
    pd.DataFrame({"a": ["x", "y", "z"], "b": [1, 2, 3]}, index=pd.CategoricalIndex(list("xyz"))),
    pd.DataFrame({"a": [True, None, False]}, index=pd.date_range("2026-01-01", periods=3)),
    pd.DataFrame({"a": pd.array([1, 2, None])}, index=pd.Index(["p", "q", "r"], name="key")),
]


@pytest.mark.parametrize("number", range(len(OWN_ARRAYS)))
def test_all_arrays_and_indices_of_pandas_are_known(number: int) -> None:
    """A frame has its shape and size, whatever arrays of pandas it holds."""
    value = OWN_ARRAYS[number]
    size, shape = describe("x", value)[2:4]
    assert shape == list(value.shape)
    assert size > 0


class Array(pd.api.extensions.ExtensionArray):  # type: ignore[misc]  # pandas has no types here
    """An extension array of a class that session code has made."""

    dtype = pd.api.extensions.ExtensionDtype()
    ndim, size, nbytes, shape = 1, 3, 24, (3,)
    trusted = True

    def __len__(self) -> int:
        return 3 if self.trusted else _touch()

    def copy(self) -> Array:
        return self

    def __getitem__(self, item: Any) -> Any:
        return self if self.trusted else _touch()


def test_foreign_arrays_in_a_frame_are_their_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of such an array runs, nor of one in an index; the rest of the frame is described."""
    series, frame = pd.Series(Array()), pd.DataFrame({"a": Array(), "b": [1, 2, 3]})
    indexed = pd.Series([1, 2, 3], index=Array())
    monkeypatch.setattr(Array, "trusted", False)
    assert describe("x", series)[2:5] == [None, [3], "pandas.ExtensionDtype"]
    assert describe("x", frame)[2:5] == [None, [3, 2], "columns 'a', 'b'"]
    assert describe("x", indexed)[2:5] == [24, None, "int64 [1, 2, 3]"]


@pytest.mark.parametrize(
    ("value", "cls", "shape", "preview"), KNOWN, ids=[f"{i}-{row[1]}" for i, row in enumerate(KNOWN)]
)
def test_known_types(value: Any, cls: str, shape: list[int] | None, preview: str | None) -> None:
    """Each known type has its shape and a short text."""
    row = describe("x", value)
    assert (row[1], row[3]) == (cls, shape)
    assert preview is None or row[4] == preview


def test_a_subclass_of_an_array_is_its_type() -> None:
    """No attribute of a class derived from numpy's is read."""
    mine = np.ndarray.__new__(Mine, (2,))
    assert describe("x", mine)[1:] == ["tests.Mine", None, None, "", "variable"]


def test_only_public_attributes_of_a_librarys_own_class_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class that replaces another in its module, or derives from it, is another class to the inspector."""
    frame = pd.DataFrame({"a": [1, 2]})

    class DataFrame(pd.DataFrame):  # type: ignore[misc]  # pandas has no types here
        __getattribute__ = __len__ = _touch

    assert describe("x", DataFrame.__new__(DataFrame))[1:] == ["tests.DataFrame", None, None, "", "variable"]
    monkeypatch.setattr(pd, "DataFrame", DataFrame)
    assert describe("x", frame)[1:] == ["pandas.DataFrame", None, None, "", "variable"]


def test_a_librarys_attribute_that_raises_costs_its_row_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code can replace a library's own property; whatever that raises, the other variables are described."""
    monkeypatch.setattr(pl.Series, "dtype", property(_touch))
    rows, _ = summarize({"a": 1, "b": pl.Series([1]), "c": pd.Series([1])}, {})
    assert [row[1:5] for row in rows] == [
        ["int", 28, None, "1"],
        ["polars.Series", None, None, ""],
        ["pandas.Series", 8, [1], "int64 [1]"],
    ]


def test_a_wide_frame_has_no_size() -> None:
    """The arrays of more than a hundred extension columns are not measured; numpy's columns are, by their dtypes."""
    numbers = {f"n{i}": [1, 2] for i in range(500)}
    texts = {f"t{i}": pd.array(["a", "b"], dtype="str") for i in range(101)}
    assert describe("x", pd.DataFrame(numbers))[2:4] == [8000, [2, 500]]
    assert describe("x", pd.DataFrame({**numbers, **texts}))[2:4] == [None, [2, 601]]
