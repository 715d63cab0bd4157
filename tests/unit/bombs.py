"""``python -m tests.unit.bombs``: decode small values that claim to be gigabytes, in a process with limited memory.

Prints the name and the outcome of each. Each must be refused; one that is accepted can end the process, because
libraries in Rust and C++ abort when they run out of memory.
"""

from __future__ import annotations

import base64
import io
import json
import resource
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa

from daytona_kernel_interp.codec import libraries
from daytona_kernel_interp.codec import pyarrow_codec as arrow_values
from daytona_kernel_interp.codec.values import Buffer, dumps, loads
from daytona_kernel_interp.wire.protocol_errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

_LIMIT_BYTES = 1 << 30  # above what is mapped at the start
_LENGTH, _NODES, _BUFFERS, _COMPRESSION = range(4)  # fields of Arrow's record batch


def bombs() -> dict[str, list[Buffer]]:
    """Return the encodings by what they are."""
    fields = [[f"f{number}", ["Int64"]] for number in range(5000)]
    return {
        "a text scalar of 2 GB": _tagged("numpy.scalar", ["x", "<U536870911"]),
        "a bytes scalar of 1 GB": _tagged("numpy.scalar", [{"$": "bytes", "v": ""}, "|S999999999"]),
        "an array of elements without bytes": _tagged("numpy.array", [[], [1 << 61], "C"], b""),
        "... that are arrays": _tagged("numpy.array", [[["a", "<f8", [0]]], [1 << 61], "C"], b""),
        "texts that are None": _indexed("numpy.texts", [[1 << 25]], np.full(1 << 25, -1, "<i4").tobytes(), b""),
        "structs of many fields, null": _polars(["Struct", fields], [None] * 200_000),
        "structs of many fields, empty": _polars(["Struct", fields], [{}] * 200_000),
        "... in lists": _polars(["List", ["Struct", fields]], [[None] * 200_000]),
        "an array of 2 GB, null": _polars(["Array", ["Int64"], 1 << 28], [None]),
        "a dictionary that polars unpacks": _streamed("polars.series", ["", [["List", ["Int64"]], "ipc"]], _taken()),
        "columns that overlap": _indexed("pyarrow.table", [], _changed(_columns(), _BUFFERS, (0, 64))),
        "columns outside of the message": _indexed("pyarrow.table", [], _changed(_columns(), _BUFFERS, (1 << 40, 64))),
        "nulls without number": _indexed("pyarrow.table", [], _changed(_nulls(), _NODES, (1 << 60, 1 << 60))),
        "what Arrow 0.17 compressed": _indexed("pyarrow.table", [], _compressed()),
        "numbers of one hash": _with_one_hash("set"),
        "keys of one hash": _with_one_hash("dict"),
        "a level that is a range": _pandas("index", ["multi", [None], [_RANGE], [[0]]]),
        "categories that are a range": _pandas("index", ["plain", None, ["category", _codes(), _RANGE, False], None]),
        "... of a column": _pandas(
            "frame", [["range", None, 0, 1, 1], _ONE, [["category", _codes(), _RANGE, False]], {}]
        ),
        "... of an interval's ends": _pandas("series", [None, _ONE, _ends()]),
        "an index of no columns": _pandas("frame", [["range", None, 0, 0, 1], _RANGE, [], {}]),
        "a range alone": _pandas("index", ["range", None, 0, 1 << 40, 1]),
        "a range that no machine counts": _pandas("index", ["range", None, 0, 1 << 90, 1]),
        "images": [json.dumps([json.loads(bytes(_image()[0]))] * 5).encode()],
    }


_RANGE = ["range", None, 0, 2_000_000_000, 1]
_ONE = ["range", None, 0, 1, 1]


def _codes() -> dict[str, Any]:
    return {"$": "numpy.array", "v": [["|i1", [1], "C"], [base64.b64encode(b"\0").decode()]]}


def _ends() -> list[Any]:
    end = ["category", _codes(), _RANGE, False]
    return ["interval", end, end, "right"]


def _pandas(kind: str, tree: list[Any]) -> list[Buffer]:
    return _tagged(f"pandas.{kind}", tree)


def _tagged(tag: str, tree: Any, *pieces: bytes) -> list[Buffer]:
    return [json.dumps({"$": tag, "v": [tree, [base64.b64encode(piece).decode() for piece in pieces]]}).encode()]


def _indexed(tag: str, tree: Any, *pieces: bytes) -> list[Buffer]:
    return [json.dumps({"$": tag, "v": [tree, list(range(1, len(pieces) + 1))]}).encode(), *pieces]


def _polars(dtype: list[Any], items: list[Any]) -> list[Buffer]:
    return _tagged("polars.series", ["", [dtype, "items", items]])


def _streamed(tag: str, tree: Any, column: Any) -> list[Buffer]:
    return _indexed(tag, tree, bytes(arrow_values.stream_of([column])))


def _taken() -> Any:
    """One list of 200,000 numbers, three thousand times."""
    lists = pa.array([list(range(200_000))], pa.large_list(pa.int64()))
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(3000, np.int8)), lists)


def _columns() -> bytes:
    return bytes(arrow_values.stream_of([pa.array(np.arange(8))] * 3))


def _nulls() -> bytes:
    return bytes(arrow_values.stream_of([pa.nulls(7)]))


def _changed(data: bytes, field: int, pair: tuple[int, int]) -> bytes:
    """Return a stream whose batch says ``pair`` of each of its columns (nodes) or their buffers."""

    def change(head: bytearray, batch: int) -> None:
        place = arrow_values.table_field(bytes(head), batch, field)
        assert place is not None
        start = arrow_values.follow_offset(bytes(head), place)
        for number, (_, size) in enumerate(arrow_values.vector_pairs(bytes(head), batch, field)):
            if size or field == _NODES:  # not the masks, which are empty
                struct.pack_into("<qq", head, start + 4 + 16 * number, *pair)

    return _patched(data, change)


def _compressed() -> bytes:
    """A batch in which nothing but a note beside it says that it is compressed."""
    batch = pa.record_batch({"0": pa.array(np.zeros(1 << 24, np.uint8))})
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(metadata_version=pa.ipc.MetadataVersion.V4, compression="lz4")
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch, custom_metadata={"ARROW:experimental_compression": "lz4"})

    def change(head: bytearray, table: int) -> None:
        vtable = table - struct.unpack_from("<i", head, table)[0]
        struct.pack_into("<H", head, vtable + 4 + 2 * _COMPRESSION, 0)

    return _patched(sink.getvalue(), change)


def _patched(data: bytes, change: Callable[[bytearray, int], None]) -> bytes:
    *_, (head, kind, table, _) = arrow_values.ipc_messages(memoryview(data))
    assert kind == arrow_values.RECORD_BATCH
    changed = bytearray(head)
    change(changed, table)
    assert changed != head
    return data.replace(head, bytes(changed))


def _with_one_hash(tag: str) -> list[Buffer]:
    numbers = [{"$": "int", "v": hex(((1 << 61) - 1) * (number + (1 << 70)))} for number in range(30_000)]
    return [json.dumps({"$": tag, "v": numbers if tag == "set" else [[number, 1] for number in numbers]}).encode()]


def _image() -> list[Buffer]:
    from PIL import Image

    return dumps(Image.new("L", (8000, 8000)))


def main() -> None:
    made = bombs()
    arrow_values.read_stream(memoryview(_columns()))  # what the libraries load when they are first used
    loads(dumps(pl.DataFrame({"a": [[1]]})))
    assert libraries.has_arrow()
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + _LIMIT_BYTES, resource.RLIM_INFINITY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, buffers in made.items():
        try:
            outcome = f"became a {type(loads(buffers)).__name__}"
        except RemoteProtocolError as error:
            out_of_memory = isinstance(error.__cause__, MemoryError)
            outcome = "ran out of memory" if out_of_memory else "refused"
        grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
        print(json.dumps([name, outcome if grown_mb < 100 or name == "images" else f"took {grown_mb} MB"]), flush=True)


if __name__ == "__main__":
    main()
