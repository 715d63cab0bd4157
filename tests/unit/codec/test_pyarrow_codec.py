"""Tests of frames as Arrow IPC: ``codec.pandas_arrow``, and the same in ``codec.polars_codec``."""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.codec.libraries import has_arrow
from daytona_kernel_interp.codec.values import dumps, loads
from daytona_kernel_interp.interpreter.sent_inputs import SentInputs
from daytona_kernel_interp.wire.comm import HAS_ARROW
from daytona_kernel_interp.wire.protocol_errors import RemoteProtocolError
from tests.unit import strategies

np = pytest.importorskip("numpy", reason="numpy is not installed in this environment")
pd = pytest.importorskip("pandas", reason="pandas is not installed in this environment")
pl = pytest.importorskip("polars", reason="polars is not installed in this environment")
pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed in this environment")

from tests.unit.codec.test_libraries import COLUMNS, polars_frame  # noqa: E402 - which skips itself without the libraries

INDEX = pd.date_range("2020", periods=5, tz="Asia/Tokyo")
AS_ARROW = {
    **{name: np.arange(5, dtype=name) for name in ("int8", "uint64", "float32", "float64")},
    "nan": [1.5, float("nan"), float("-inf"), -0.0, 0.0],
    "moment": np.array(["2020-01-01", "NaT", "1700-01-01", "2262-01-01", "2020-01-01"], "M8[us]"),
    "duration": np.array([1, "NaT", 2, 3, 4], "m8[ns]"),
    "zone": pd.DatetimeIndex(["2020-10-25 00:30", "2020-10-25 01:30", None, "1900-01-01", "2020"], tz="UTC").tz_convert(
        "Europe/Berlin"
    ),
    "offset": pd.date_range("2020", periods=5, tz="+05:30", unit="s"),
    "objects": pd.Series(["a", "ü", "", "d\0", "e"], INDEX, object),
    "python": pd.array(["a", None, "", "ü", "b"], dtype="string[python]"),
    "texts": pd.array(["a", None, "", "ü", "b"], dtype="string[pyarrow]"),
    "nullable": pd.array([1, None, 3, 4, 5], dtype=pd.ArrowDtype(pa.int64())),
    "nested": pd.array([[1], None, [], [2, 3], [4]], dtype=pd.ArrowDtype(pa.list_(pa.int8()))),
}
BY_THEMSELVES = {
    "none": pd.Series(["a", None, "c", "d", "e"], INDEX, object),
    "some nan": pd.Series(["a", float("nan"), "c", "d", "e"], INDEX, object),
    "surrogates": pd.Series(["a", "\udc80", "c", "d", "e"], INDEX, object),
    "mixed": pd.Series(["a", 1, b"c", (1,), None], INDEX, object),
    "big-endian": np.arange(5, dtype=">i4"),
    "half": np.arange(5, dtype="f2"),
    "bool": [True, False, True, False, True],
    "category": pd.Categorical(["a", "b", None, "a", "b"]),
    "Int64": pd.array([1, None, 3, 4, 2**63 - 1], dtype="Int64"),
    "period": pd.period_range("2020", periods=5, freq="M"),
}


def ways(value: Any) -> list[str]:
    """Return the encoding of each column."""
    tree = json.loads(bytes(dumps(value, arrow=True)[0]))["v"][0]
    return [column[0] if column[0] == "ipc" else column[1] for column in ([tree[2]] if len(tree) == 3 else tree[2])]


@pytest.mark.parametrize("name", [*AS_ARROW, *BY_THEMSELVES, *COLUMNS])
@pytest.mark.parametrize("rows", [5, 0])
def test_pandas_columns_come_back_equal(name: str, rows: int) -> None:
    """Columns with either encoding are equal after decoding: full, empty, and as a slice of a frame."""
    column = {**COLUMNS, **AS_ARROW, **BY_THEMSELVES}[name]
    frame = pd.DataFrame({"n": range(5), name: column}, index=INDEX)[:rows]
    frame.attrs["source"] = {"a": (1, 2)}
    back = loads(dumps(frame, arrow=True))
    pd.testing.assert_frame_equal(back, frame, check_freq=True)
    assert (back.attrs, list(map(type, back[name]))) == (frame.attrs, list(map(type, frame[name])))
    pd.testing.assert_series_equal(loads(dumps(frame[name][1:4], arrow=True)), frame[name][1:4])
    if rows:
        assert ways(frame[name]) == ["ipc"] or name not in AS_ARROW
        assert ways(frame[name]) != ["ipc"] or name not in BY_THEMSELVES


def test_a_frame_goes_in_one_stream() -> None:
    """All columns that Arrow supports are one buffer, described by the text."""
    frame = pd.DataFrame({name: AS_ARROW[name] for name in AS_ARROW for _ in range(3)})
    large = pd.concat([frame] * 1000, ignore_index=True)
    assert len(dumps(large, arrow=True)) == 2
    pd.testing.assert_frame_equal(loads(dumps(large, arrow=True)), large)


def test_what_came_can_be_written_to() -> None:
    """Arrow's memory is read-only; a decoded frame owns a copy."""
    back = loads(dumps(pd.DataFrame({"a": [1, 2], "s": ["x", "y"], "t": pd.to_datetime([1, 2])}), arrow=True))
    back.loc[0, "a"], back.loc[1, "s"] = 5, "z"
    back["t"].to_numpy()
    assert (back.a.tolist(), back.s.tolist()) == ([5, 2], ["x", "z"])


def test_polars_frames_come_back_equal() -> None:
    """Dtypes that Arrow keeps are encoded as Arrow; others, such as categories, separately."""
    frame = polars_frame()
    for expected in (frame, frame[:0], pl.concat([frame, frame], rechunk=False), pl.DataFrame()):
        back = loads(dumps(expected, arrow=True))
        assert back.schema == expected.schema
        assert back.equals(expected)
    for series in frame:
        assert loads(dumps(series, arrow=True)).equals(series, check_names=True)
    columns = json.loads(bytes(dumps(frame, arrow=True)[0]))["v"][0][1]
    alone = {name for name, column in zip(frame.columns, columns, strict=True) if column[1] != "ipc"}
    assert alone == {"category", "enum", "null"}


# --- whether the peer has pyarrow -------------------------------------------------------------------------------


_WITHOUT = """
import sys
sys.modules["pyarrow"] = None
import pandas as pd
from daytona_kernel_interp.codec.libraries import has_arrow
from daytona_kernel_interp.codec.values import dumps, loads
frame = pd.DataFrame({"a": [1, 2], "s": ["x", None], "t": pd.Series(["x", "y"], dtype="string")})
assert not has_arrow()
assert dumps(frame, arrow=True) == dumps(frame) and b"ipc" not in dumps(frame)[0]
pd.testing.assert_frame_equal(loads(dumps(frame)), frame)
try:
    loads([sys.stdin.buffer.read()])
except Exception as error:
    print(error)
"""


def test_without_pyarrow_everything_goes_by_columns() -> None:
    """A side without pyarrow reports that, encodes no stream, and names pyarrow if it receives one."""
    (stream,) = dumps(pd.DataFrame({"a": [1, 2]}), arrow=True)
    done = subprocess.run([sys.executable, "-c", _WITHOUT], input=bytes(stream), capture_output=True, check=True)
    assert b"a value of pandas came, and pyarrow is not installed where it arrived" in done.stdout
    assert has_arrow()


def test_the_form_changes_with_the_kernel_and_not_under_a_kept_value() -> None:
    """Frames are encoded as Arrow after the kernel has reported pyarrow; a cached frame is not sent again."""
    inputs, frame = SentInputs(), pd.DataFrame({"a": np.arange(20_000)})
    first = inputs.encode("v", frame, None)
    assert b'"ipc"' not in bytes(first.buffers[0])
    inputs.set_cached_keys([first.key, HAS_ARROW])
    assert inputs.encode("v", frame, None) == type(first)(first.key, ())
    again = inputs.encode("w", frame, None)
    assert b'"ipc"' in bytes(again.buffers[0])
    inputs.set_cached_keys([again.key, HAS_ARROW])
    assert not inputs.encode("w", frame, None).buffers
    inputs.set_cached_keys([])  # another kernel
    assert b'"ipc"' not in bytes(inputs.encode("w", frame, None).buffers[0])


# --- bad input -------------------------------------------------------------------------------------------------


def tampered(column: Any, *arrays: Any) -> list[bytes]:
    table = pa.table(list(arrays), names=list(map(str, range(len(arrays)))))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    stream = base64.b64encode(sink.getvalue().to_pybytes()).decode()
    index = ["range", None, 0, 2, 1]
    return [json.dumps({"$": "pandas.series", "v": [[None, index, ["ipc", *column]], [stream]]}).encode()]


@pytest.mark.parametrize(
    ("column", "array"),
    [
        (["numpy", "<i8"], pa.array([1, None])),
        (["numpy", "<i8"], pa.array([1.0, 2.0])),
        (["numpy", "|O"], pa.array([1, 2])),
        (["numpy", "<f2"], pa.array([1, 2])),
        (["zoned", "<m8[ns]", "UTC"], pa.array([1, 2])),
        (["zoned", "<M8[ns]", "/etc/passwd"], pa.array([1, 2])),
        (["zoned", "<M8[ns]", "dateutil//etc/passwd"], pa.array([1, 2])),
        (["texts"], pa.array(["a", None], pa.large_string())),
        (["texts"], pa.array(["a", "b"])),
        (["string", "python", "x"], pa.array(["a", "b"], pa.large_string())),
        (["string", "pyarrow", "NA"], pa.array([1, 2])),
        (["numpy", "<i8"], pa.array([1, 2, 3])),
        (["pickle"], pa.array([1, 2])),
        ([], pa.array([1, 2])),
    ],
)
def test_a_column_that_is_not_what_it_says_is_refused(column: list[Any], array: Any) -> None:
    """Wrong type, unexpected missing values, wrong length, or a file name as time zone."""
    with pytest.raises(RemoteProtocolError):
        loads(tampered(column, array))


def test_a_column_too_few_is_refused() -> None:
    """A frame with more columns than its stream."""
    with pytest.raises(RemoteProtocolError):
        loads(tampered(["numpy", "<i8"]))


_SEEDS: list[Any] = [pd.DataFrame({name: AS_ARROW[name] for name in AS_ARROW}), polars_frame()]
_STREAMS = [dumps(seed, arrow=True) for seed in _SEEDS]


@strategies.FEW
@given(st.sampled_from(range(len(_SEEDS))), st.data())
def test_any_damage_is_survived(seed: int, data: st.DataObject) -> None:
    """A stream or text with changed bytes is a value or refused."""
    tree = json.loads(bytes(_STREAMS[seed][0]))
    stream = bytearray(base64.b64decode(tree["v"][1][0]))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(stream) - 1))
        stream[place] = data.draw(st.integers(0, 255))
    tree["v"][1] = [base64.b64encode(stream).decode()]
    with contextlib.suppress(RemoteProtocolError):
        repr(loads([json.dumps(tree).encode()]))
