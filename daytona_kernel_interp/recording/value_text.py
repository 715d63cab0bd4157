"""Describe recorded values as short text, without decoding large ones. Nothing in a value is ever run."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from ..codec import values
from ..formatting import shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_DECODED_BYTES = 160  # an encoding of this size is decoded for its summary
_DECODED_CALL_BYTES = 4096  # the same for the arguments of a call
_SUMMARY_CHARS = 120
_DECODER = json.JSONDecoder()
_KINDS = {"str_at": "str", "bytes_at": "bytes", "text": "str", "int": "int", "float": "float"}


def summary_of(buffers: Sequence[values.Buffer]) -> str:
    """Return a value's type and size, or the repr of a short value."""
    if len(buffers) == 1 and len(buffers[0]) <= _DECODED_BYTES:
        try:
            return shorten(_small_repr(bytes(buffers[0])), _SUMMARY_CHARS)
        except Exception:  # decoding and repr run code of libraries, which may be missing or of another version
            pass
    head, size = bytes(buffers[0][: _DECODED_BYTES + 1]), sum(map(len, buffers))
    if head.startswith(b'"'):
        return shorten(f"str, {size:,} bytes: {head[1:81].decode('ascii', 'replace')}…", _SUMMARY_CHARS)
    tag = re.match(rb'\{"\$":"([a-z_.]+)"', head)
    if tag is None:
        kind = {b"[": "list", b"{": "dict"}.get(head[:1], "value")
    else:
        kind = _KINDS.get(tag[1].decode("ascii"), tag[1].decode("ascii"))
    return f"{kind}, {size:,} bytes"


def summary_of_call(buffers: Sequence[values.Buffer]) -> str:
    """Return a call's arguments, encoded as ``(args, kwargs)``, as they stand between the parentheses of a call."""
    if len(buffers) == 1 and len(buffers[0]) <= _DECODED_CALL_BYTES:
        try:
            args, kwargs = _decode_small(bytes(buffers[0]))
            text = ", ".join([*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())])
            return shorten(text, _SUMMARY_CHARS)
        except Exception:  # the sandbox may send anything in their place, and repr runs code of libraries
            pass
    return summary_of(buffers)


def _small_repr(encoding: bytes) -> str:
    """Return a value's repr. Whole numbers and plain texts, the most frequent values, are not decoded for it."""
    if encoding.isdigit():
        return encoding.decode("ascii")
    if len(encoding) > 1 and encoding[:1] == encoding[-1:] == b'"':
        text = encoding[1:-1].decode("ascii")
        if text.isprintable() and not ("\\" in text or "'" in text or '"' in text):
            return f"'{text}'"
    return repr(_decode_small(encoding))


def _decode_small(encoding: bytes) -> Any:
    """Return a value whose encoding is one buffer; an encoding without a tag is plain JSON."""
    return values.loads([encoding]) if b'"$"' in encoding else _DECODER.raw_decode(encoding.decode("ascii"))[0]


def repr_of(value: object, show: Callable[[object], str] = repr) -> str:
    """Return a value's repr, or a text that names the error which its repr raised."""
    try:
        return show(value)
    except Exception as error:  # a library's repr of a value from the sandbox may raise anything
        return f"<{type(value).__name__}: its repr raised {type(error).__name__}>"
