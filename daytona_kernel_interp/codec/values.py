"""The codec for variables, tool arguments, tool results and the fields of SUBMIT.

A value is encoded as a list of buffers. The first is ASCII JSON; the others are its large parts, in order. JSON's own
types are encoded as they are. Every other type is an object with the key ``"$"``, its tag:

=================== ============================================= =================================
tag                  ``"v"``                                       Python
=================== ============================================= =================================
``tuple``            list                                          tuple
``set``              list                                          set
``frozenset``        list                                          frozenset
``dict``             list of [key, value]                          dict with other keys than str, or a key ``"$"``
``bytes``            base64 text                                   bytes (memoryview)
``bytearray``        [bytes]                                       bytearray
``text``             base64 of UTF-8 with surrogates passed         str with lone surrogates
``str_at``           index of a buffer, UTF-8                      str of 64 KiB or more
``bytes_at``         index of a buffer                             bytes of 64 KiB or more
``float``            ``"nan"``, ``"inf"``, ``"-inf"``              float
``int``              hexadecimal text                              int beyond 64 bits
``complex``          [real, imag]                                  complex
``datetime``         ISO 8601 text                                 datetime.datetime
``date``             ISO 8601 text                                 datetime.date
``time``             ISO 8601 text                                 datetime.time
``timedelta``        [days, seconds, microseconds]                 datetime.timedelta
``decimal``          text                                          decimal.Decimal
``fraction``         [numerator, denominator]                      fractions.Fraction
``uuid``             text                                          uuid.UUID
``path``             text                                          pathlib.Path
``deque``            [maximum length or null, list]                collections.deque
``ordered``          list of [key, value]                          collections.OrderedDict
``counter``          list of [key, count]                          collections.Counter
``defaultdict``      [name of a builtin type or null, dict]        collections.defaultdict
``range``            [start, stop, step]                           range
``record``           [class name, [[field, value], ...], is tuple] :class:`~.records.Record`
``numpy.array`` etc. [value, pieces]                               types of libraries, see :mod:`.libraries`
=================== ============================================= =================================

An Enum is encoded as its value. Dataclasses, namedtuples and pydantic models are encoded as records: a decoder never
imports a class that a peer names. Nothing is pickled, and decoding builds only the types of this table. A defaultdict
keeps a factory that is a builtin type, and has none otherwise. A subclass arrives as the type of the table that it
derives from.
"""

from __future__ import annotations

import base64
import collections
import datetime
import decimal
import enum
import fractions
import functools
import json
import pathlib
import uuid
from collections import abc
from collections.abc import Callable, Sequence
from json.encoder import encode_basestring_ascii
from typing import Any

from ..wire.protocol_errors import RemoteProtocolError
from . import libraries, unpacking
from .collector import collector_paused as collector_paused
from .hash_tables import check_hash_work
from .json_form import json_form as json_form
from .libraries import UnsupportedValue as UnsupportedValue
from .records import Record, SequenceRecord
from .structure import ARGUMENTS as ARGUMENTS
from .structure import FIELDS as FIELDS
from .structure import adapt, find_part, record_fields
from .unpacking import MAX_DEPTH as MAX_DEPTH
from .unpacking import MAX_RANGE as MAX_RANGE
from .unpacking import MAX_VALUE_BYTES as MAX_VALUE_BYTES

VALUES_VERSION = 1

Buffer = bytes | bytearray | memoryview

LARGE_BYTES = 64 * 1024  # from this size on, a separate buffer is faster than JSON escapes
_INT_BITS = 63
_FRACTION_BITS = 4096  # a fraction is reduced when it is made, which takes quadratic time
_FACTORIES = {kind.__name__: kind for kind in (bool, bytes, dict, float, frozenset, int, list, set, str, tuple)}
_TAG = "$"


class ValueTooLarge(ValueError):
    """The error for an encoded value above the limit in bytes."""


def dumps(
    value: Any,
    *,
    max_bytes: int | None = MAX_VALUE_BYTES,
    snapshot: bool = False,
    arrow: bool = False,
    root: str = "value",
) -> list[Buffer]:
    """Return the buffers that encode ``value``.

    Buffers may share memory with arrays of the value. With ``snapshot`` they are copies, for a value that may change
    while it is sent. ``arrow`` is true if the peer has pyarrow: frames are Arrow IPC if this side has it as well.
    ``root`` is the value's name in errors, or one of :data:`ARGUMENTS` and :data:`FIELDS`.

    Raises:
        UnsupportedValue: If the value or a part of it has an unsupported type, or nests too deeply.
        ValueTooLarge: If the buffers exceed ``max_bytes`` in total.
    """
    buffers, _ = encode(value, max_bytes=max_bytes, arrow=arrow, root=root)
    return list(map(bytes, buffers)) if snapshot else buffers


def encode(
    value: Any, *, max_bytes: int | None = MAX_VALUE_BYTES, arrow: bool = False, root: str = "value"
) -> tuple[list[Buffer], bool]:
    """Return the buffers, and whether the value consists only of exact builtin types, none of them binary."""
    if type(value) is str and len(value) < LARGE_BYTES and value.isascii():  # the most common case, without a walk
        head = encode_basestring_ascii(value).encode("ascii")
        if max_bytes is not None and len(head) > max_bytes:
            raise ValueTooLarge(f"the value takes more than {max_bytes} bytes")
        return [head], True
    encoder = _Encoder(max_bytes, arrow and libraries.has_arrow())
    try:
        with collector_paused():
            tree = encoder.encode(value, 0)
        head = json.dumps(tree, allow_nan=False, separators=(",", ":")).encode("ascii")
    except _TooDeep:
        raise
    except RecursionError:  # the caller is nested deeply itself
        raise _TooDeep("the value nests too deeply for the stack of this call") from None
    except UnsupportedValue as error:
        place = find_part(value, functools.partial(_is_unsupported, max_bytes=max_bytes), root)
        raise (error if place == root else UnsupportedValue(f"{error} at {place}")) from None
    if unpacking.json_size(head) > unpacking.MAX_UNPACKED_BYTES:
        raise ValueTooLarge("the value has too many parts: send an array or a frame in the place of lists")
    buffers = [head, *encoder.buffers]
    if max_bytes is not None and sum(map(len, buffers)) > max_bytes:
        raise ValueTooLarge(f"the value takes more than {max_bytes} bytes")
    return buffers, encoder.exact


def loads(buffers: Sequence[Buffer]) -> Any:
    """Return the value that ``buffers`` encode, as a new object.

    Raises:
        RemoteProtocolError: If the buffers are not a result of :func:`dumps`.
    """
    return decode(buffers)[0]


def decode(buffers: Sequence[Buffer]) -> tuple[Any, bool]:
    """Return the value, and whether it consists only of JSON's types, str, numbers, tuples and sets, or is bytes."""
    if not buffers:
        raise RemoteProtocolError("a value without buffers")
    try:
        with collector_paused():
            head = bytes(buffers[0])
            if unpacking.json_size(head) > unpacking.MAX_UNPACKED_BYTES:
                raise RemoteProtocolError("a value has too many parts")
            tree = json.loads(head, parse_constant=_refuse_constant)
            decoder = _Decoder(buffers)
            return decoder.decode(tree, 0), decoder.exact
    except RemoteProtocolError:
        raise
    except Exception as error:  # a hostile peer controls the input: the constructors raise exceptions of many types
        raise RemoteProtocolError(f"not a value of format {VALUES_VERSION}: {type(error).__name__}") from error


def _refuse_constant(name: str) -> float:
    raise RemoteProtocolError(f"bare {name} in a value")


def _is_unsupported(value: Any, max_bytes: int | None) -> bool:
    try:
        _Encoder(max_bytes, False).encode(value, 0)
    except UnsupportedValue:
        return True
    except Exception:  # of the value's own code
        return False
    return False


class _TooDeep(UnsupportedValue):
    """The error for a value that is nested too deeply; it has no single place."""


class _Encoder:
    """The encoder of one value; large parts become buffers."""

    def __init__(self, max_bytes: int | None, arrow: bool) -> None:
        self.buffers: list[Buffer] = []
        self._max_bytes, self._arrow = max_bytes, arrow
        self._size = 0
        self._hashed = 0  # depth of enclosing sets and keys
        self.exact = True

    def add_size(self, size: int) -> None:
        """Count a lower bound of the encoded size, so that a value that is too large is refused early."""
        self._check_size(size)
        self._size += size

    def _check_size(self, size: int) -> None:
        if self._max_bytes is not None and self._size + size > self._max_bytes:
            raise ValueTooLarge(f"the value takes more than {self._max_bytes} bytes")

    def encode(self, value: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise _TooDeep(f"the value nests deeper than {MAX_DEPTH} levels, or contains itself")
        handler = _ENCODERS.get(type(value))
        if handler is not None:
            return handler(self, value, depth)
        return self._encode_by_kind(value, depth)

    def _encode_by_kind(self, value: Any, depth: int) -> Any:
        """Encode a subclass as its base type, and a structured type as its fields."""
        self.exact = False
        if isinstance(value, enum.Enum):
            return self.encode(value.value, depth + 1)
        fields = record_fields(value)
        if fields is not None:
            name = value.record_type if isinstance(value, Record) else type(value).__name__
            return self._record(name, fields, isinstance(value, (tuple, SequenceRecord)), depth)
        self._check_size(libraries.min_size(value))
        # Before the base types, because a numpy float is a subclass of float.
        parts = libraries.take_apart(value, self._arrow)
        if parts is not None:
            kind, inner, buffers = parts
            return _tagged(kind, [self.encode(inner, depth + 1), [self._piece(data) for data in buffers]])
        for base, handler in _KINDS:
            if isinstance(value, base):
                return handler(self, value, depth)
        adapted = adapt(value, models_only=False)
        if adapted is not None:
            return self.encode(adapted[0], depth + 1)
        raise UnsupportedValue(f"Unsupported value type: {type(value).__name__}")

    def scalar(self, value: Any, depth: int) -> Any:
        self.add_size(1)
        return value

    def integer(self, value: int, depth: int) -> Any:
        self.add_size(1)
        if value.bit_length() <= _INT_BITS:
            return int(value)
        return _tagged("int", hex(value))

    def real(self, value: float, depth: int) -> Any:
        self.add_size(1)
        if value - value == 0:  # finite
            return float(value)
        return _tagged("float", repr(float(value)))

    def text(self, value: str, depth: int) -> Any:
        value = str.__str__(value)
        self.add_size(len(value))
        try:
            data = b"" if value.isascii() and len(value) < LARGE_BYTES else value.encode("utf-8")
        except UnicodeEncodeError:  # JSON's escapes would join two lone surrogates into one character
            return _tagged("text", base64.b64encode(value.encode("utf-8", "surrogatepass")).decode("ascii"))
        if len(value) < LARGE_BYTES:
            return value
        return self._buffer("str_at", data)

    def byte_array(self, value: bytearray, depth: int) -> Any:
        self._check_not_hashed(value)
        return _tagged("bytearray", [self.binary(value, depth)])

    def binary(self, value: bytes | bytearray | memoryview, depth: int) -> Any:
        self.add_size(value.nbytes if isinstance(value, memoryview) else len(value))
        data = bytes(value)
        self.exact = False
        if len(data) < LARGE_BYTES:
            return _tagged("bytes", base64.b64encode(data).decode("ascii"))
        return self._buffer("bytes_at", data, counted=True)

    def sequence(self, value: abc.Iterable[Any], depth: int) -> Any:
        if self._hashed:  # for example a range: lists are not hashable
            return self.immutable_sequence(value, depth)
        self.add_size(2)
        return [self.encode(item, depth + 1) for item in value]

    def immutable_sequence(self, value: abc.Iterable[Any], depth: int) -> Any:
        self.add_size(2)
        return _tagged("tuple", [self.encode(item, depth + 1) for item in value])

    def numbers(self, value: range, depth: int) -> Any:
        if value[MAX_RANGE:]:
            raise ValueTooLarge(f"{value!r} is too long to be sent: send where it starts and ends")
        self.exact = False
        return _tagged("range", [self.integer(part, depth) for part in (value.start, value.stop, value.step)])

    def fraction(self, value: fractions.Fraction, depth: int) -> Any:
        self.exact = False
        parts = (value.numerator, value.denominator)
        if max(part.bit_length() for part in parts) > _FRACTION_BITS:
            raise UnsupportedValue(f"Unsupported value type: a Fraction of more than {_FRACTION_BITS} bits")
        return _tagged("fraction", [self.integer(part, depth) for part in parts])

    def deque(self, value: collections.deque[Any], depth: int) -> Any:
        self._check_not_hashed(value)
        return _tagged("deque", [value.maxlen, self.sequence(value, depth)])

    def defaultdict(self, value: collections.defaultdict[Any, Any], depth: int) -> Any:
        name = getattr(value.default_factory, "__name__", None)
        known = type(name) is str and _FACTORIES.get(name) is value.default_factory
        inner = self.mapping(value, depth)
        self.exact = False
        return _tagged("defaultdict", [name if known else None, inner])

    def pairs(self, tag: str, value: abc.Mapping[Any, Any], depth: int) -> Any:
        self._check_not_hashed(value)
        self.add_size(2)
        return _tagged(tag, [[self._hashable(key, depth), self.encode(item, depth + 1)] for key, item in value.items()])

    def _check_not_hashed(self, value: object) -> None:
        self.exact = False
        if self._hashed:
            raise UnsupportedValue(f"Unsupported value type in a set or as a key: {type(value).__name__}")

    def mapping(self, value: abc.Mapping[Any, Any], depth: int) -> Any:
        if self._hashed:
            raise UnsupportedValue(f"Unsupported value type in a set or as a key: {type(value).__name__}")
        self.add_size(2)
        if _TAG not in value and all(type(key) is str for key in value):
            self.add_size(sum(map(len, value)))
            return {key: self.encode(item, depth + 1) for key, item in value.items()}
        pairs = [[self._hashable(key, depth), self.encode(item, depth + 1)] for key, item in value.items()]
        return _tagged("dict", pairs)

    def hashed(self, tag: str, value: abc.Iterable[Any], depth: int) -> Any:
        self.add_size(2)
        return _tagged(tag, [self._hashable(item, depth) for item in value])

    def _hashable(self, value: Any, depth: int) -> Any:
        self._hashed += 1
        try:
            return self.encode(value, depth + 1)
        finally:
            self._hashed -= 1

    def _piece(self, data: bytes | memoryview) -> Any:
        if len(data) < LARGE_BYTES:
            self.add_size(len(data))
            return base64.b64encode(data).decode("ascii")
        return self._buffer("", data)["v"]

    def _buffer(self, tag: str, data: bytes | memoryview, *, counted: bool = False) -> Any:
        self.add_size(0 if counted else len(data))
        self.buffers.append(data)
        return _tagged(tag, len(self.buffers))

    def _record(self, name: str, fields: abc.Mapping[str, Any], positional: bool, depth: int) -> Any:
        if self._hashed and positional:
            return _tagged("tuple", [self.encode(item, depth + 1) for item in fields.values()])
        if self._hashed:
            raise UnsupportedValue(f"Unsupported value type in a set or as a key: {name}")
        self.add_size(sum(map(len, fields.keys())))
        pairs = [[key, self.encode(item, depth + 1)] for key, item in fields.items()]
        return _tagged("record", [name, pairs, positional])


def _tagged(tag: str, value: Any) -> dict[str, Any]:
    return {_TAG: tag, "v": value}


def _as_text(tag: str, to_text: Callable[[Any], Any]) -> Callable[[_Encoder, Any, int], Any]:
    def encode(encoder: _Encoder, value: Any, depth: int) -> Any:
        encoder.add_size(8)
        return _tagged(tag, to_text(value))

    return encode


_Handler = Callable[[_Encoder, Any, int], Any]

_ENCODERS: dict[type, _Handler] = {
    type(None): _Encoder.scalar,
    bool: _Encoder.scalar,
    int: _Encoder.integer,
    float: _Encoder.real,
    str: _Encoder.text,
    bytes: _Encoder.binary,
    bytearray: _Encoder.byte_array,
    memoryview: _Encoder.binary,
    list: _Encoder.sequence,
    dict: _Encoder.mapping,
    tuple: _Encoder.immutable_sequence,
    set: lambda encoder, value, depth: encoder.hashed("set", value, depth),
    frozenset: lambda encoder, value, depth: encoder.hashed("frozenset", value, depth),
    complex: _as_text("complex", lambda v: [repr(v.real), repr(v.imag)]),
    datetime.datetime: _as_text("datetime", datetime.datetime.isoformat),
    datetime.date: _as_text("date", datetime.date.isoformat),
    datetime.time: _as_text("time", datetime.time.isoformat),
    datetime.timedelta: _as_text("timedelta", lambda v: [v.days, v.seconds, v.microseconds]),
    decimal.Decimal: _as_text("decimal", str),
    uuid.UUID: _as_text("uuid", str),
    fractions.Fraction: _Encoder.fraction,
    range: _Encoder.numbers,
    collections.deque: _Encoder.deque,
    collections.defaultdict: _Encoder.defaultdict,
    collections.OrderedDict: lambda encoder, value, depth: encoder.pairs("ordered", value, depth),
    collections.Counter: lambda encoder, value, depth: encoder.pairs("counter", value, depth),
}

# Base types of subclasses, in the order of the checks.
_COLLECTIONS = (collections.deque, collections.defaultdict, collections.OrderedDict, collections.Counter)
_KINDS: tuple[tuple[type, _Handler], ...] = (
    *((kind, _ENCODERS[kind]) for kind in (*_COLLECTIONS, fractions.Fraction)),
    *((kind, _ENCODERS[kind]) for kind in (int, float, str, bytes, bytearray, list, dict, tuple, set, frozenset)),
    *((kind, _ENCODERS[kind]) for kind in (datetime.datetime, datetime.date, datetime.time, datetime.timedelta)),
    (decimal.Decimal, _ENCODERS[decimal.Decimal]),
    (pathlib.PurePath, _as_text("path", pathlib.PurePath.as_posix)),
    (abc.Mapping, _Encoder.mapping),
    ((abc.KeysView, abc.ValuesView, abc.ItemsView), _Encoder.sequence),  # type: ignore[arg-type]
)


class _Decoder:
    """The decoder of one value from its tree and its buffers."""

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        self._buffers = buffers
        self._used: set[int] = set()
        self._claimed = 0  # memory in addition to the buffers and the text
        self.exact = True

    def decode(self, tree: Any, depth: int) -> Any:
        if depth > MAX_DEPTH + 2:
            raise RemoteProtocolError(f"the value nests deeper than {MAX_DEPTH} levels")
        if isinstance(tree, list):
            return [self.decode(item, depth + 1) for item in tree]
        if not isinstance(tree, dict):
            return tree
        if _TAG not in tree:
            return {key: self.decode(item, depth + 1) for key, item in tree.items()}
        return self._build(tree[_TAG], tree["v"], depth)

    def _build(self, tag: Any, value: Any, depth: int) -> Any:
        self.exact = self.exact and tag in _EXACT
        leaf = _LEAVES.get(tag)
        if leaf is not None:
            return leaf(value)
        if tag == "str_at":
            return str(self._buffer(value), "utf-8")
        if tag == "bytes_at":
            return bytes(self._buffer(value))
        if tag == "record":
            return self._record(value, depth)
        if tag in _MAPPINGS:
            keys = [self.decode(key, depth + 1) for key, _ in value]
            check_hash_work(keys, for_set=False)
            plain = dict(zip(keys, [self.decode(item, depth + 1) for _, item in value], strict=True))
            return plain if tag == "dict" else _MAPPINGS[tag](plain)
        if tag in _WRAPPERS:
            return _WRAPPERS[tag](self, [self.decode(item, depth + 1) for item in value])
        container = _CONTAINERS.get(tag)
        if container is None and type(tag) is str and "." in tag:
            inner, pieces = value
            buffers = [self._piece(piece) for piece in pieces]
            return libraries.put_together(tag, self.decode(inner, depth + 1), buffers, self._claim)
        if container is None:
            raise RemoteProtocolError(f"values have no tag {str(tag)[:40]!r}")
        items = [self.decode(item, depth + 1) for item in value]
        if container is not tuple:
            check_hash_work(items, for_set=True)
        return container(items)

    def byte_array(self, parts: list[Any]) -> bytearray:
        (data,) = parts
        if type(data) is not bytes:
            raise ValueError("not bytes")
        self._claim(len(data))
        return bytearray(data)

    def fraction(self, parts: list[Any]) -> fractions.Fraction:
        numerator, denominator = parts
        if any(type(part) is not int or part.bit_length() > _FRACTION_BITS for part in parts):
            raise ValueError("not a fraction")
        return fractions.Fraction(numerator, denominator)

    def numbers(self, parts: list[Any]) -> range:
        start, stop, step = parts
        if any(type(part) is not int for part in parts) or (made := range(start, stop, step))[MAX_RANGE:]:
            raise ValueError("not a range, or too long")
        self._claim(len(made) * unpacking.PART_BYTES)  # of the list that may be made of it
        return made

    def deque(self, parts: list[Any]) -> collections.deque[Any]:
        longest, items = parts
        if type(items) is not list or (longest is not None and type(longest) is not int):
            raise ValueError("not a deque")
        return collections.deque(items, longest)

    def defaultdict(self, parts: list[Any]) -> collections.defaultdict[Any, Any]:
        name, plain = parts
        if type(plain) is not dict or not (name is None or type(name) is str):
            raise ValueError("not a defaultdict")
        return collections.defaultdict(None if name is None else _FACTORIES[name], plain)

    def _claim(self, size: int) -> None:
        """Count ``size`` bytes before they are allocated."""
        self._claimed += size
        if self._claimed > unpacking.MAX_UNPACKED_BYTES:
            raise RemoteProtocolError(f"a value would unpack to more than {unpacking.MAX_UNPACKED_BYTES} bytes")

    def _piece(self, piece: Any) -> Buffer:
        return base64.b64decode(piece, validate=True) if isinstance(piece, str) else self._buffer(piece)

    def _buffer(self, index: Any) -> Buffer:
        if type(index) is not int or not 1 <= index < len(self._buffers):
            raise RemoteProtocolError("a value points to a buffer that did not come")
        if index in self._used:  # a small tree with many references to one buffer would expand to gigabytes
            raise RemoteProtocolError("a value points to one buffer twice")
        self._used.add(index)
        return self._buffers[index]

    def _record(self, value: Any, depth: int) -> Record:
        name, pairs, positional = value
        kind = SequenceRecord if positional else Record
        return kind(str(name), {str(key): self.decode(item, depth + 1) for key, item in pairs})


_LEAVES: dict[str, Callable[[Any], Any]] = {
    "text": lambda text: base64.b64decode(text, validate=True).decode("utf-8", "surrogatepass"),
    "bytes": lambda text: base64.b64decode(text, validate=True),
    "float": float,
    "int": lambda text: int(text, 16),  # parsing hexadecimal is linear and has no digit limit
    "complex": lambda parts: complex(float(parts[0]), float(parts[1])),
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "timedelta": lambda parts: datetime.timedelta(*parts),
    "decimal": decimal.Decimal,
    "uuid": uuid.UUID,
    "path": pathlib.Path,
}

_EXACT = frozenset(
    ("tuple", "set", "frozenset", "dict", "bytes", "text", "str_at", "bytes_at", "float", "int", "complex")
)

_MAPPINGS: dict[str, Callable[[dict[Any, Any]], Any]] = {
    "dict": dict,
    "ordered": collections.OrderedDict,
    "counter": collections.Counter,
}

_WRAPPERS: dict[str, Callable[[_Decoder, list[Any]], Any]] = {
    "bytearray": _Decoder.byte_array,
    "fraction": _Decoder.fraction,
    "range": _Decoder.numbers,
    "deque": _Decoder.deque,
    "defaultdict": _Decoder.defaultdict,
}

_CONTAINERS: dict[str, Callable[[abc.Iterable[Any]], Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
}
