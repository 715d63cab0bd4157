"""Names of pandas that differ between its versions or lack a public form, in one place.

The package supports pandas 2.2 and later. ``tests/unit/codec/test_pandas_compat.py`` fails with the name of each one
that an upgrade removes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd


def text_dtype(storage: str, missing: str) -> Any:
    """Return the string dtype with a storage and a missing value, or the nearest one of the installed version."""
    try:
        return pd.StringDtype(storage, na_value=np.nan if missing == "nan" else pd.NA)
    except TypeError:  # before pandas 2.3, string dtypes with nan do not exist
        return object if missing == "nan" else pd.StringDtype(storage)


def strings_from_arrow(dtype: pd.StringDtype, column: Any) -> Any:
    """Return the pandas array of ``dtype`` with the values of an Arrow column.

    ``__from_arrow__`` is the method of pandas' extension protocol that pyarrow calls; here it is called directly.
    """
    return dtype.__from_arrow__(column)
