"""Tests of ``codec.libraries`` and the codec module of each library."""

from __future__ import annotations

import base64
import contextlib
import datetime
import decimal
import io
import json
import subprocess
import sys
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.codec import libraries
from daytona_kernel_interp.codec.libraries import MissingLibrary
from daytona_kernel_interp.codec.values import LARGE_BYTES, UnsupportedValue, ValueTooLarge, dumps, json_form, loads
from daytona_kernel_interp.wire.protocol_errors import RemoteProtocolError
from tests.unit import strategies

np = pytest.importorskip("numpy", reason="numpy is not installed in this environment")
pd = pytest.importorskip("pandas", reason="pandas is not installed in this environment")
pl = pytest.importorskip("polars", reason="polars is not installed in this environment")
pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed in this environment")
Image = pytest.importorskip("PIL.Image", reason="pillow is not installed in this environment")


def there_and_back(value: Any) -> Any:
    return loads([memoryview(bytes(buffer)) for buffer in dumps(value)])


# --- the format: a change to one of these texts requires a new version --------------------------------------

_TWO_INTS = np.array([1, 2], "<i2")
GOLDEN_V1: list[tuple[Any, str]] = [
    (_TWO_INTS, '{"$":"numpy.array","v":[["<i2",[2],"C"],["AQACAA=="]]}'),
    (np.array(["a", None], object), '{"$":"numpy.texts","v":[[[2]],["AQAAAP////8=","YQ=="]]}'),
    (np.array([1, None], object), '{"$":"numpy.objects","v":[[[2],[1,null]],[]]}'),
    (np.float32(0.5), '{"$":"numpy.scalar","v":[[0.5,"<f4"],[]]}'),
    (
        pd.DataFrame({0: _TWO_INTS}, columns=pd.RangeIndex(1)),
        '{"$":"pandas.frame","v":[[["range",null,0,1,1],["range",null,0,2,1],'
        '[["numpy",{"$":"numpy.array","v":[["<i2",[2],"C"],["AQACAA=="]]}]],{}],[]]}',
    ),
    (
        pd.Series(["a", None], dtype="string[python]", name="n"),
        '{"$":"pandas.series","v":[["n",["range",null,0,2,1],["string","python","NA",'
        '{"$":"numpy.array","v":[["<i8",[3],"C"],["AAAAAAAAAAABAAAAAAAAAAEAAAAAAAAA"]]},'
        '{"$":"numpy.array","v":[["|u1",[1],"C"],["YQ=="]]},{"$":"numpy.array","v":[["|b1",[2],"C"],["AQA="]]}]],[]]}',
    ),
    (
        pl.Series("a", _TWO_INTS),
        '{"$":"polars.series","v":[["a",[["Int16"],"array",'
        '{"$":"numpy.array","v":[["<i2",[2],"C"],["AQACAA=="]]},null]],[]]}',
    ),
    (Image.new("I;16", (1, 1), 258), '{"$":"PIL.pixels","v":[["I;16",1,1],["AgE="]]}'),
]


@pytest.mark.parametrize(("value", "text"), GOLDEN_V1, ids=lambda item: type(item).__name__)
def test_golden_texts(value: Any, text: str) -> None:
    """A small value encodes to this text, and this text decodes to the value."""
    assert [bytes(buffer) for buffer in dumps(value)] == [text.encode()]
    back = loads([text.encode()])
    assert type(back) is type(value)
    assert dumps(back) == dumps(value)


# --- numpy ------------------------------------------------------------------------------------------------

ARRAYS = [
    np.arange(6).reshape(2, 3),
    np.arange(6.0).reshape(2, 3).T,
    np.arange(24).reshape(2, 3, 4)[:, ::2],
    np.zeros((0, 3)),
    np.array(5),
    np.array(["a", "ü", ""]),
    np.array([b"x", b"yz"]),
    np.array([True, False]),
    np.array([1 + 2j], "c8"),
    np.array(["2020-01-01", "NaT"], "M8[ns]"),
    np.array([1, 2], "m8[s]"),
    np.arange(4, dtype=">i4"),
    np.array([("a", [1.5, 2])], dtype=[("n", "U3"), ("v", "<f4", (2,))]),
    np.array([1, None, "x", [1, {2}]], object),
    np.array([["a", None], ["\udc80", float("nan")]], object),
    np.arange(100_000.0),
    np.asfortranarray(np.arange(100_000.0).reshape(100, 1000)),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
def test_arrays_come_back_equal_and_writable(array: Any) -> None:
    """dtype, byte order, shape and layout are kept; the receiver owns the memory."""
    back = there_and_back(array)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.flags.f_contiguous or not array.flags.f_contiguous
    if array.dtype == object:
        assert repr(back) == repr(array)  # where nan is nan
    else:
        np.testing.assert_array_equal(back, array)
    assert back.flags.writeable


SCALARS = [np.float64(1.5), np.float16(2), np.int8(-3), np.uint64(2**64 - 1), np.bool_(True), np.complex64(1j)]
SCALARS += [np.datetime64("2020-01-01", "D"), np.timedelta64(3, "s"), np.str_("x"), np.bytes_(b"x"), np.float32("nan")]
SCALARS += [np.str_(""), np.bytes_(b""), np.str_("é\U0001f600\0")]


@pytest.mark.parametrize("scalar", SCALARS, ids=lambda scalar: str(scalar.dtype))
def test_scalars_keep_their_type(scalar: Any) -> None:
    """A numpy float stays a numpy float, also within containers and as a key."""
    for back in (there_and_back(scalar), there_and_back([scalar])[0], next(iter(there_and_back({scalar: 1})))):
        assert type(back) is type(scalar)
        np.testing.assert_equal(back, scalar)


def test_a_large_array_is_not_copied_on_its_way_out() -> None:
    """The encoded buffer is the memory of the array."""
    array = np.zeros(LARGE_BYTES, np.uint8)
    buffers = dumps(array)
    array[5] = 7
    assert memoryview(buffers[1])[5] == 7


def test_a_snapshot_is_a_copy() -> None:
    """A tool may change its result while it is sent."""
    array = np.zeros(LARGE_BYTES, np.uint8)
    buffers = dumps(array, snapshot=True)
    array[5] = 7
    assert memoryview(buffers[1])[5] == 0


def test_json_form_of_numbers_and_arrays_is_plain() -> None:
    """The result of SUBMIT without output fields is JSON."""
    form = json_form({"a": np.int64(1), "b": np.arange(2), "c": [np.float32(0.5)]})
    assert json.dumps(form) == '{"a": 1, "b": [0, 1], "c": [0.5]}'


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (np.ma.masked_array([1, 2], [True, False]), "masked array.*filled"),
        (np.zeros(2, "g"), "float"),
        (np.array([lambda: 1], object), "Unsupported value type: function"),
        (pd.Series(pd.arrays.SparseArray([0, 1])), "sparse.*to_dense"),
        (pl.LazyFrame({"a": [1]}), "collect"),
        (pa.array([b"0" * 16], pa.binary(16)).cast(pa.uuid()), "extension type.*storage"),
        (Image.new("1", (1 << 14, 1 << 13)), "the limit is"),
    ],
    ids=lambda part: part if isinstance(part, str) else type(part).__name__,  # no address: workers compare ids
)
def test_what_has_no_form_is_refused_with_what_to_do(value: Any, says: str) -> None:
    """One sentence names the reason."""
    with pytest.raises(UnsupportedValue, match=says):
        dumps(value)


def test_an_array_that_contains_itself_is_refused() -> None:
    """As with other containers, nesting has a limit."""
    array = np.empty(1, object)
    array[0] = array
    with pytest.raises(UnsupportedValue, match="nests deeper"):
        dumps(array)


def test_an_array_counts_against_the_limit() -> None:
    """Its buffer is part of the value's size."""
    with pytest.raises(ValueTooLarge):
        dumps(np.zeros(1000), max_bytes=1000)


# --- frames -----------------------------------------------------------------------------------------------

_FIVE = ["a", "ü", None, "", "e"]
COLUMNS: dict[str, Any] = {
    "int": np.arange(5),
    "text": pd.Series(_FIVE),
    "python text": pd.array(_FIVE, dtype="string[python]"),
    "arrow text": pd.array(_FIVE, dtype="string[pyarrow]"),
    "surrogate": pd.array(["\udc80"] * 5, dtype="string[python]"),
    "object": pd.Series(list("abcde"), dtype=object),
    "mixed": pd.Series([1, "a", None, [1], {2: 3}], dtype=object),
    "datetime": pd.date_range("2020", periods=5),
    "utc": pd.date_range("2020", periods=5, tz="UTC"),
    "zone": pd.date_range("2020-10-25", periods=5, freq="h", tz="Europe/Berlin"),
    "offset": pd.date_range("2020", periods=5, tz=datetime.timezone(datetime.timedelta(hours=-2))),
    "seconds": pd.date_range("2020", periods=5, unit="s"),
    "timedelta": pd.to_timedelta(range(5), unit="s"),
    "category": pd.Categorical(["a", "b", None, "a", "b"], ordered=True),
    "Int64": pd.array([1, None, 3, 4, 2**63 - 1], dtype="Int64"),
    "Float64": pd.array([1.5, None, 3, 4, 5], dtype="Float64"),
    "boolean": pd.array([True, None, False, True, True], dtype="boolean"),
    "period": pd.period_range("2020", periods=5, freq="M"),
    "interval": pd.interval_range(0, 5),
    "arrow": pd.array([1, None, 3, 4, 5], dtype=pd.ArrowDtype(pa.int64())),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_pandas_columns_come_back_equal(name: str) -> None:
    """All dtypes, with missing values and time zones, as column, series and index."""
    frame = pd.DataFrame({name: COLUMNS[name], "n": range(5)})
    pd.testing.assert_frame_equal(there_and_back(frame), frame)
    pd.testing.assert_series_equal(there_and_back(frame[name][1:4]), frame[name][1:4])
    if name != "mixed":  # not hashable
        indexed = frame.set_index(name)
        pd.testing.assert_frame_equal(there_and_back(indexed), indexed)


def test_pandas_frames_keep_their_labels() -> None:
    """Multiple levels, repeated names, names that are not str, frequencies, and empty frames."""
    levels = pd.MultiIndex.from_product([["a", "b"], [1, 2]], names=["x", None])
    frames = [
        pd.DataFrame(np.ones((4, 2)), index=levels, columns=["a", "a"]),
        pd.DataFrame([[1, "a"]], columns=[0, ("x", 1)]),
        pd.DataFrame({"a": range(3)}, index=pd.date_range("2020", periods=3, freq="D", name="day")),
        pd.DataFrame({"a": range(3)}, index=pd.RangeIndex(6, 0, -2, name="r")),
        pd.DataFrame(),
        pd.DataFrame({"a": []}),
    ]
    frames[0].attrs["source"] = "here"
    for frame in frames:
        back = there_and_back(frame)
        pd.testing.assert_frame_equal(back, frame, check_freq=True)
        assert back.attrs == frame.attrs


@pytest.mark.parametrize(
    "value",
    [pd.Timestamp("2020-01-01", tz="Europe/Berlin"), pd.Timestamp(1, unit="ns"), pd.Timedelta(5, "s"), pd.NaT, pd.NA],
    ids=str,
)
def test_pandas_scalars_keep_their_type(value: Any) -> None:
    """Nanoseconds and unit are kept."""
    back = there_and_back(value)
    assert type(back) is type(value)
    assert back is value or (back == value and back.unit == value.unit)


def test_a_frame_that_came_can_be_written_to() -> None:
    """The receiver owns the memory of a decoded frame."""
    back = there_and_back(pd.DataFrame({"a": [1, 2], "s": ["x", "y"]}))
    back.loc[0, "a"] = 5
    back["b"] = back.a * 2
    assert back.b.tolist() == [10, 4]


def polars_frame() -> Any:
    moment = datetime.datetime(2020, 1, 1)
    frame = pl.DataFrame(
        {
            "i": [1, None, 3],
            "f": [1.0, float("nan"), None],
            "s": ["a", None, "ü"],
            "b": [True, None, False],
            "date": [moment.date(), None, None],
            "datetime": [moment, None, None],
            "duration": [datetime.timedelta(1), None, None],
            "time": [datetime.time(1), None, None],
            "list": [[1], None, [2, None]],
            "struct": [{"a": 1}, {"a": 2}, None],
            "binary": [b"a", None, b""],
            "null": [None] * 3,
            "decimal": [decimal.Decimal("1.5"), None, None],
        }
    )
    return frame.with_columns(
        pl.col("s").cast(pl.Categorical).alias("category"),
        pl.col("s").cast(pl.Enum(["a", "ü"])).alias("enum"),
        pl.col("datetime").dt.replace_time_zone("Europe/Berlin").alias("zone"),
        pl.Series("array", [[1, 2], [3, 4], None], dtype=pl.Array(pl.Int8, 2)),
        pl.Series("u8", [1, 2, 3], dtype=pl.UInt8),
    )


def test_polars_frames_come_back_equal() -> None:
    """All dtypes, with nulls, as full and empty frames and as series."""
    frame = polars_frame()
    for expected in (frame, frame[:0], pl.DataFrame()):
        back = there_and_back(expected)
        assert back.schema == expected.schema
        assert back.equals(expected)
    assert all(there_and_back(series).equals(series, check_names=True) for series in frame)


def test_arrow_values_come_back_equal() -> None:
    """Tables, batches, arrays in one piece or several, and schemas."""
    table = pa.table(
        {
            "a": [1, None],
            "d": pa.array(["x", "y"]).dictionary_encode(),
            "l": [[1], [2]],
            "t": pa.array([1, 2], pa.timestamp("us", "Europe/Berlin")),
        }
    ).replace_schema_metadata({"k": "v"})
    pieces = pa.chunked_array([[1], [2, 3]])
    for value in (table, table[:0], table.to_batches()[0], pieces, pa.array(["a"]), pa.array([], pa.int8())):
        assert there_and_back(value).equals(value)
    assert there_and_back(table.schema).equals(table.schema, check_metadata=True)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I", "F", "CMYK", "YCbCr", "HSV", "I;16"])
def test_images_come_back_equal(mode: str) -> None:
    """Every pixel, in every mode."""
    image = Image.linear_gradient("L").resize((40, 30))
    image = image if mode == "L" else image.convert(mode) if mode == "I;16" else image.convert("RGB").convert(mode)
    back = there_and_back(image)
    assert type(back) is Image.Image
    assert back == image


# --- what is loaded, and what is missing ------------------------------------------------------------------------


def test_no_library_is_loaded_unless_it_is_needed() -> None:
    """The codec and values of builtin types import no library."""
    code = (
        "import sys; from daytona_kernel_interp.codec import values; values.loads(values.dumps([{1, 'a'}, 2j]));"
        f"print(sorted({set(libraries.MODULES)} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("value", "name"), [(pd.Series([1]), "pandas"), (pl.Series([1]), "polars"), (Image.new("L", (1, 1)), "pillow")]
)
def test_a_missing_library_is_named(value: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the library and the remedy."""
    buffers = dumps(value)
    for module in libraries.MODULES.values():
        monkeypatch.delitem(sys.modules, f"daytona_kernel_interp.codec{module}", raising=False)
    monkeypatch.setitem(sys.modules, {"pillow": "PIL"}.get(name, name), None)
    with pytest.raises(MissingLibrary, match=f"install {name} there, or send plain Python"):
        loads(buffers)


def test_a_scalar_of_a_missing_library_arrives_as_what_it_is_like(monkeypatch: pytest.MonkeyPatch) -> None:
    """A numpy float that a tool returns is a plain float in a sandbox without numpy."""
    buffers = dumps([np.float64(1.5), pd.Timestamp("2020")])
    for module in libraries.MODULES.values():
        monkeypatch.delitem(sys.modules, f"daytona_kernel_interp.codec{module}", raising=False)
    monkeypatch.setitem(sys.modules, "numpy", None)
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert loads(buffers) == [1.5, datetime.datetime(2020, 1, 1)]


# --- input of a hostile peer --------------------------------------------------------------------------------------


def assert_refused(tag: str, tree: Any, *pieces: bytes) -> None:
    encoded = [base64.b64encode(piece).decode() for piece in pieces]
    with pytest.raises(RemoteProtocolError):
        loads([json.dumps({"$": tag, "v": [tree, encoded]}).encode()])


@pytest.mark.parametrize(
    ("dtype", "shape", "data"),
    [
        ("<i8", [2], b"\0" * 8),
        ("<i8", [1 << 40], b"\0" * 8),
        ("<i8", [-1], b"\0" * 8),
        ("<i8", [1] * 40, b"\0" * 8),
        ("|O", [1], b"\0" * 8),
        ("O", [1], b"\0" * 8),
        ([["a", "|O", []]], [1], b"\0" * 8),
        ("<U0", [1 << 40], b""),
        ("<U1", [1], b"\xff" * 4),
        ("|b1", [1], b"\2"),
        ("i8,i8", [1], b"\0" * 16),
        ([["a", [["b", [["c", "<i8", []]], []]], [1 << 60]]], [1], b"\0" * 8),
    ],
)
def test_arrays_that_lie_are_refused(dtype: Any, shape: Any, data: bytes) -> None:
    """Wrong shapes are refused before memory is allocated for them."""
    assert_refused("numpy.array", [dtype, shape, "C"], data)


def test_texts_whose_lengths_lie_are_refused() -> None:
    """The lengths must be positive and add up to the length of the text."""
    for lengths in ([5], [1, 1, 1], [-3, 2], [1 << 30]):
        assert_refused("numpy.texts", [[len(lengths)]], np.array(lengths, "<i4").tobytes(), b"ab")


@pytest.mark.parametrize("offsets", [[0, 5], [0, 2, 1, 2], [-1, 2], [], [1, 2], [0, 1 << 62, 2]])
def test_columns_of_texts_whose_offsets_lie_are_refused(offsets: list[int]) -> None:
    """The offsets are passed to pyarrow, which does not check them."""
    for storage in ("python", "pyarrow"):
        column = ["string", storage, "nan", np.array(offsets, np.int64), np.frombuffer(b"ab", np.uint8), None]
        head = dumps(["", ["range", None, 0, 1, 1], column])[0]
        assert_refused("pandas.series", json.loads(bytes(head)))


def test_time_zones_name_no_file() -> None:
    """pandas would open a file for some names."""
    for zone in ("dateutil/etc/passwd", "../../etc/passwd", "/etc/localtime", "tzlocal()", 5):
        assert_refused("pandas.scalar", [None, "timestamp", 0, zone, "ns"])


def png(width: int, height: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\0\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_an_image_that_lies_about_its_size_is_refused() -> None:
    """A small PNG can expand to gigabytes."""
    bomb = png(60_000, 60_000, b"\0" * 1000)
    assert_refused("PIL.png", ["L", 60_000, 60_000], bomb)
    assert_refused("PIL.png", ["L", 1, 1], bomb)
    assert_refused("PIL.png", ["RGB", 2, 1], png(2, 1, b"\0\1\2"))
    assert_refused("PIL.pixels", ["L", 60_000, 60_000], b"\0")
    assert_refused("PIL.pixels", ["I", 2, 2], b"\0" * 8)


def test_many_images_may_not_unpack_to_more_than_a_value_may_have() -> None:
    """Each alone is within the limit."""
    data = base64.b64encode(png(8000, 8000, b"\0" * 10)).decode()
    image = {"$": "PIL.png", "v": [["L", 8000, 8000], [data]]}
    with pytest.raises(RemoteProtocolError):
        loads([json.dumps([image] * 50).encode()])


def stream(table: Any, **options: Any) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return sink.getvalue()


def test_arrow_streams_that_could_harm_are_refused() -> None:
    """Compressed streams can expand to any size, extension types run code, and offsets can be out of range."""
    plain = pa.table({"s": ["abc", "de"] * 100, "d": pa.array(["x" * 50] * 200).dictionary_encode()})
    uuids = pa.table({"u": pa.array([b"0" * 16], pa.binary(16)).cast(pa.uuid())})
    assert loads(dumps(plain)).equals(plain)
    assert_refused("pyarrow.table", [], stream(plain, compression="zstd"))
    assert_refused("pyarrow.table", [], stream(uuids))
    offsets, lie = np.array([0, 3], "<i4").tobytes(), np.array([0, 1 << 30], "<i4").tobytes()
    true = stream(pa.table({"s": ["abc"]}))
    assert offsets in true
    assert_refused("pyarrow.table", [], true.replace(offsets, lie))
    assert_refused("pyarrow.table", [], true[:-40])
    assert_refused("pyarrow.table", [], stream(pa.table({"t": [{"name": 1}]})).replace(b"name", b"\xffame"))


_SEEDS: list[Any] = [
    *ARRAYS[:-2],
    pd.DataFrame({name: COLUMNS[name] for name in ("int", "text", "zone", "category", "Int64")}),
    polars_frame(),
    Image.new("RGB", (3, 3)),
    pa.table({"s": ["a", None], "d": pa.array(["x", "y"]).dictionary_encode()}),
]


@strategies.FEW
@given(st.sampled_from(range(len(_SEEDS))), st.data())
def test_any_damage_is_survived(seed: int, data: st.DataObject) -> None:
    """A valid encoding with changed bytes in its text or a buffer is a value or refused."""
    head = bytearray(dumps(_SEEDS[seed])[0])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(head) - 1))
        head[place : place + data.draw(st.integers(0, 2))] = data.draw(
            st.binary(max_size=2) | st.sampled_from([b"9", b"A", b"-1", b"null", b"[]"])
        )
    with contextlib.suppress(RemoteProtocolError):
        loads([bytes(head)])


_TAGS = [f"{library}.{kind}" for library in libraries.MODULES for kind in ("array", "frame", "series", "index", "x")]
_TAGS += ["numpy.texts", "numpy.objects", "numpy.scalar", "pandas.scalar", "PIL.png", "PIL.pixels", "pyarrow.table"]


@given(st.sampled_from(_TAGS), strategies.JSON, st.lists(st.binary(max_size=20), max_size=3))
def test_any_tree_is_a_value_or_refused(tag: str, tree: Any, pieces: list[bytes]) -> None:
    """Any content of a tag is a value or raises RemoteProtocolError."""
    encoded = [base64.b64encode(piece).decode() for piece in pieces]
    with contextlib.suppress(RemoteProtocolError):
        loads([json.dumps({"$": tag, "v": [tree, encoded]}).encode()])
