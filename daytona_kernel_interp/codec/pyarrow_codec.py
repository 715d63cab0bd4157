"""pyarrow: tables, batches, arrays and schemas as Arrow IPC streams.

=================== ==== ============================================
kind                 tree buffers
=================== ==== ============================================
``table``, ``batch`` []   an IPC stream (Arrow Columnar Format, "IPC")
``array``            []   a stream of one column
``chunked``          []   a stream of one column
``schema``           []   a stream without batches
=================== ==== ============================================

Three things are refused, because the sender may be hostile: compression (also the form of Arrow 0.17), which could
unpack to any size; extension types, whose classes run code; and a buffer that two columns share, because a conversion
copies it for each. Streams are validated in full, because pyarrow does not check offsets and lengths.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from .libraries import UnsupportedValue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_DICTIONARY_BATCH, RECORD_BATCH = 2, 3
_CONTINUATION = 0xFFFFFFFF
_EXTENSION = b"ARROW:extension"
_OLD_COMPRESSION = b"ARROW:experimental_compression"
_COLUMN = "column"
_MAX_DEPTH = 64
_MAX_ROWS = 1 << 31  # the limit of columns with one bit per row; columns without buffers, such as nulls, have no other


def take_apart(value: Any, arrow: bool) -> tuple[str, Any, list[Any]] | None:
    """Return kind, tree and buffers of a pyarrow object, or None for other values."""
    if isinstance(value, pa.Table):
        return "table", [], [_stream(value)]
    if isinstance(value, pa.RecordBatch):
        return "batch", [], [_stream(pa.Table.from_batches([value]))]
    if isinstance(value, pa.ChunkedArray):
        return "chunked", [], [_stream(pa.table({_COLUMN: value}))]
    if isinstance(value, pa.Array):
        return "array", [], [_stream(pa.table({_COLUMN: value}))]
    if isinstance(value, pa.Schema):
        return "schema", [], [_stream(value.empty_table())]
    return None


def put_together(kind: str, tree: Any, buffers: Sequence[Any], claim: Callable[[int], None]) -> Any:
    """Return the decoded object. It is immutable and shares the memory of its buffer."""
    (data,) = buffers
    table = read_stream(memoryview(data))
    if kind == "table":
        return table
    if kind == "schema":
        return table.schema
    if kind == "batch":
        batches = table.combine_chunks().to_batches()
        return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)
    column = table.column(0)
    if kind == "chunked":
        return column
    if kind == "array":
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    raise ValueError("no such kind")


def stream_of(columns: list[Any]) -> memoryview:
    """Return an IPC stream with the columns of a frame of another library.

    Raises:
        UnsupportedValue: If a column has an extension type.
    """
    return _stream(pa.table(columns, names=list(map(str, range(len(columns))))))


def columns_of(data: Any, *, plain: bool = False) -> list[Any]:
    """Return the columns of a stream, as chunked arrays.

    Raises:
        ValueError: If ``plain``, and polars would expand the type of a column, for example a dictionary.
    """
    columns = list(read_stream(memoryview(data)).columns)
    if plain and not all(_is_plain(column.type) for column in columns):
        raise ValueError("a column of another Arrow type than it is sent as")
    return columns


def _is_plain(kind: Any) -> bool:
    types = pa.types
    if types.is_large_list(kind) or types.is_fixed_size_list(kind) or types.is_struct(kind):
        return all(_is_plain(kind.field(place).type) for place in range(kind.num_fields))
    flat = types.is_primitive(kind) or types.is_decimal(kind)
    return bool(flat or types.is_large_string(kind) or types.is_large_binary(kind))


def _stream(table: Any) -> memoryview:
    size = pa.MockOutputStream()
    _write(table, size)
    buffer = pa.allocate_buffer(size.size())  # a growing sink would copy its content repeatedly
    _write(table, pa.FixedSizeBufferWriter(buffer))
    data = memoryview(buffer).cast("B")
    if _EXTENSION in next(ipc_messages(data))[0]:
        raise UnsupportedValue("an Arrow extension type cannot be sent: cast the column to its storage type")
    return data


def _write(table: Any, sink: Any) -> None:
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=None)) as writer:
        writer.write_table(table)


def read_stream(data: memoryview) -> Any:
    """Return the table of an Arrow IPC stream, checked before pyarrow allocates memory for it."""
    for place, (head, kind, header, body_bytes) in enumerate(ipc_messages(data)):
        if _OLD_COMPRESSION in head or (place == 0 and _EXTENSION in head):
            raise ValueError("a compressed batch, or an extension type")
        if kind == RECORD_BATCH:
            _check_batch(head, header, body_bytes)
        elif kind == _DICTIONARY_BATCH and (batch := table_field(head, header, 1)) is not None:
            _check_batch(head, follow_offset(head, batch), body_bytes)
    with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
        table = reader.read_all()
    for field in table.schema:
        _check_names(field, 0)
    table.validate(full=True)
    return table


def _check_names(field: Any, depth: int) -> None:
    """Decode all names, because validate() does not check that they are UTF-8."""
    if depth > _MAX_DEPTH:
        raise ValueError("types nest too deeply")
    str(field.name)
    kind = field.type
    if pa.types.is_dictionary(kind):
        _check_names(pa.field("", kind.value_type), depth + 1)
    for place in range(kind.num_fields):
        _check_names(kind.field(place), depth + 1)


# --- the parts of a stream's messages that are checked before pyarrow reads them -----------------------------


def ipc_messages(data: memoryview) -> Iterator[tuple[bytes, int, int, int]]:
    """Yield each message's flatbuffer, the kind and the offset of its header's table, and the length of its body."""
    place = 0
    while place < len(data):
        mark, size = struct.unpack_from("<Ii", data, place)
        if mark != _CONTINUATION or size < 0:
            raise ValueError("not an Arrow stream")
        if size == 0:
            return
        head = bytes(data[place + 8 : place + 8 + size])
        root = follow_offset(head, 0)
        kind, header, body = (table_field(head, root, number) for number in (1, 2, 3))
        if kind is None or header is None:
            raise ValueError("an Arrow message without a header")
        length = 0 if body is None else struct.unpack_from("<q", head, body)[0]
        if length < 0:
            raise ValueError("a message of negative length")
        yield head, head[kind], follow_offset(head, header), length
        place += 8 + size + length


def _check_batch(head: bytes, batch: int, body_bytes: int) -> None:
    """Check that a record batch is not compressed, is not too long and uses no byte of its body twice."""
    if table_field(head, batch, 3) is not None:
        raise ValueError("a compressed batch")
    if any(length > _MAX_ROWS for length, _ in vector_pairs(head, batch, 1)):
        raise ValueError("a column of too many rows")
    spans = sorted((start, start + size) for start, size in vector_pairs(head, batch, 2) if size)
    if any(end > start for (_, end), (start, _) in pairwise([(0, 0), *spans, (body_bytes, 0)])):
        raise ValueError("buffers that overlap, or do not lie in their message")


def vector_pairs(head: bytes, table: int, number: int) -> list[tuple[int, int]]:
    """Return a table's vector of structs of two int64: lengths and counts of nulls, offsets and lengths of buffers."""
    place = table_field(head, table, number)
    if place is None:
        return []
    start = follow_offset(head, place)
    (count,) = struct.unpack_from("<I", head, start)
    flat = struct.unpack_from(f"<{2 * count}q", head, start + 4)
    return list(zip(flat[::2], flat[1::2], strict=True))


def follow_offset(head: bytes, place: int) -> int:
    """Return the position of the table that an offset refers to (FlatBuffers, "Internals")."""
    return place + int(struct.unpack_from("<I", head, place)[0])


def table_field(head: bytes, table: int, number: int) -> int | None:
    """Return the position of a table's field, or None if the table does not have it."""
    vtable = table - int(struct.unpack_from("<i", head, table)[0])
    if vtable < 0:
        raise ValueError("a table without a vtable")
    (size,) = struct.unpack_from("<H", head, vtable)
    slot = 4 + 2 * number
    if slot + 2 > size:
        return None
    (offset,) = struct.unpack_from("<H", head, vtable + slot)
    return table + int(offset) if offset else None
