"""``guest/inspecting.py`` on the values of libraries: arrays, tables and frames, told without running their code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from daytona_kernel_interp.guest.inspecting import describe


class Touched(BaseException):
    """Code of a value ran. No Exception, so that nothing hides it."""


def _touch(*args: Any, **kwargs: Any) -> Any:
    raise Touched


class Mine(np.ndarray):
    """An array whose class is the code's own."""

    __getattribute__ = __repr__ = __len__ = _touch


KNOWN: list[tuple[Any, str, list[int] | None, str | None]] = [
    (np.arange(6.0).reshape(2, 3), "numpy.ndarray", [2, 3], "float64 [0.0, 1.0, 2.0, …]"),
    (np.array([object()]), "numpy.ndarray", [1], "object"),
    (np.float32(2), "numpy.float32", None, "2.0"),
    (pd.DataFrame({"a": [1], "b": ["x"]}), "pandas.DataFrame", [1, 2], "columns 'a', 'b'"),
    (pd.Series([1, 2]), "pandas.Series", [2], "int64 [1, 2]"),
    (pl.DataFrame({"a": [1]}), "polars.DataFrame", [1, 1], ""),
    (pa.table({"a": [1, 2]}), "pyarrow.Table", [2, 1], ""),
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
    """Whatever kind of its own arrays a frame is made of, its shape and its size are told."""
    value = OWN_ARRAYS[number]
    size, shape = describe("x", value)[2:4]
    assert shape == list(value.shape)
    assert size > 0


class Array(pd.api.extensions.ExtensionArray):  # type: ignore[misc]  # pandas has no types here
    """An array of a column whose class is the code's own."""

    dtype = pd.api.extensions.ExtensionDtype()
    ndim, size, nbytes, shape = 1, 3, 24, (3,)
    trusted = True

    def __len__(self) -> int:
        return 3 if self.trusted else _touch()

    def copy(self) -> Array:
        return self

    def __getitem__(self, item: Any) -> Any:
        return self if self.trusted else _touch()


def test_a_frame_of_foreign_arrays_is_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pandas would ask such an array, or such an index, for its length; so pandas is not asked."""
    held = [pd.Series(Array()), pd.DataFrame({"a": Array(), "b": [1, 2, 3]}), pd.Series([1, 2, 3], index=Array())]
    monkeypatch.setattr(Array, "trusted", False)
    for value in held:
        assert describe("x", value)[2:] == [None, None, "", "variable"]


@pytest.mark.parametrize(
    ("value", "cls", "shape", "preview"), KNOWN, ids=[f"{i}-{row[1]}" for i, row in enumerate(KNOWN)]
)
def test_known_types(value: Any, cls: str, shape: list[int] | None, preview: str | None) -> None:
    """Each is told with its shape and a short text."""
    row = describe("x", value)
    assert (row[1], row[3]) == (cls, shape)
    assert preview is None or row[4] == preview


def test_a_subclass_of_an_array_is_its_type() -> None:
    """What code derives from numpy's own class is not asked for anything."""
    mine = np.ndarray.__new__(Mine, (2,))
    assert describe("x", mine)[1:] == ["tests.Mine", None, None, "", "variable"]


def test_a_property_put_into_pandas_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """What code puts in the place of a library's own property is not asked, nor are its methods."""
    frame = pd.DataFrame({"a": [1, 2]})
    monkeypatch.setattr(pd.DataFrame, "shape", property(_touch))
    monkeypatch.setattr(pd.DataFrame, "__len__", _touch)
    monkeypatch.setattr(pd.DataFrame, "__getattr__", _touch)
    assert describe("x", frame)[1:4] == ["pandas.DataFrame", 16, None]
