"""Names of pandas that the codec uses beyond its public API, or that differ between versions: each must exist."""

from __future__ import annotations

import importlib

import pytest

pd = pytest.importorskip("pandas")

from daytona_kernel_interp.codec.pandas_compat import strings_from_arrow, text_dtype  # noqa: E402 (needs pandas)

NAMES = [
    "StringDtype.__from_arrow__",
    "StringDtype.na_value",
    "arrays.ArrowExtensionArray",
    "arrays.BooleanArray",
    "arrays.FloatingArray",
    "arrays.IntegerArray",
    "arrays.IntervalArray.from_arrays",
    "PeriodIndex.from_ordinals",
    "PeriodIndex.asi8",
    "Timestamp.unit",
    "Timedelta.unit",
]


@pytest.mark.parametrize("name", NAMES)
def test_the_name_exists(name: str) -> None:
    """An upgrade that removes a name fails here, with the name."""
    found: object = importlib.import_module("pandas")
    for part in name.split("."):
        found = getattr(found, part, None)
    assert found is not None, f"pandas {pd.__version__} has no {name}"


@pytest.mark.parametrize("missing", ["NA", "nan"])
def test_the_string_dtype_has_the_missing_value_or_is_object(missing: str) -> None:
    """Before pandas 2.3 there is no string dtype with nan: such a column becomes one of objects."""
    dtype = text_dtype("python", missing)
    version = tuple(int(part) for part in pd.__version__.split(".")[:2])
    if missing == "nan" and version < (2, 3):
        assert dtype is object
    else:
        assert (dtype.storage, dtype.na_value is pd.NA) == ("python", missing == "NA")


def test_strings_from_arrow_keep_the_dtype_and_missing_values() -> None:
    """An Arrow column of strings becomes a pandas array of exactly the requested dtype."""
    pa = pytest.importorskip("pyarrow")
    dtype = pd.StringDtype("pyarrow")
    array = strings_from_arrow(dtype, pa.chunked_array([pa.array(["a", None], pa.large_string())]))
    assert array.dtype == dtype
    assert array.tolist() == ["a", pd.NA]
