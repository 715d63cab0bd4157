"""Store a recording's values by hash, small ones in the notebook, large ones in files beside it; describe them as text.

A value's hash is the SHA-256 of its buffers (``codec/values.py``), each preceded by its length in eight bytes,
big-endian. A file beside the notebook contains exactly these bytes, so ``sha256sum`` prints its name. A value is
decoded only after its hash was checked; nothing in it is ever run.
"""

from __future__ import annotations

import errno
import json
import re
import secrets
from typing import TYPE_CHECKING, Any

from ..codec import values
from ..codec.value_hash import hash_of
from ..errors import RecordingError
from ..formatting import shorten
from .model import ValueRef

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from .model import ValueLoader

INLINE_BYTES = 4096  # a value of one buffer, which is ASCII, up to this size stands in the notebook
HASH = re.compile(r"[0-9a-f]{64}")
_DECODED_BYTES = 160  # an encoding of this size is decoded for its summary
_DECODED_CALL_BYTES = 4096  # the same for the arguments of a call
_SUMMARY_CHARS = 120
_DECODER = json.JSONDecoder()
_KINDS = {"str_at": "str", "bytes_at": "bytes", "text": "str", "int": "int", "float": "float"}


# --- values as short text -----------------------------------------------------------------------------------


def summary_of(buffers: Sequence[values.Buffer]) -> str:
    """Return a value's type and size, or the repr of a short value."""
    if len(buffers) == 1 and len(buffers[0]) <= _DECODED_BYTES:
        try:
            return shorten(repr(_decode_small(bytes(buffers[0]))), _SUMMARY_CHARS)
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


def _decode_small(encoding: bytes) -> Any:
    """Return a value whose encoding is one buffer; an encoding without a tag is plain JSON."""
    return values.loads([encoding]) if b'"$"' in encoding else _DECODER.raw_decode(encoding.decode("ascii"))[0]


def repr_of(value: object, show: Callable[[object], str] = repr) -> str:
    """Return a value's repr, or a text that names the error which its repr raised."""
    try:
        return show(value)
    except Exception as error:  # a library's repr of a value from the sandbox may raise anything
        return f"<{type(value).__name__}: its repr raised {type(error).__name__}>"


# --- stores ---------------------------------------------------------------------------------------------------


def ref_to(
    buffers: Sequence[values.Buffer], key: str = "", summarize: Callable[[Sequence[values.Buffer]], str] = summary_of
) -> ValueRef:
    """Return the reference to a value; ``key`` is its hash, if that is known."""
    return ValueRef(key or hash_of(buffers), sum(map(len, buffers)), summarize(buffers))


def folder_of(notebook: Path) -> Path:
    """Return the folder beside a notebook with its large values."""
    return notebook.with_name(f"{notebook.stem}.values")


class ValueStore:
    """The values of one recording. One process at a time may write; a value that exists is not written again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._inline: dict[str, str] = {}
        self._new: dict[str, str] = {}  # small values that no cell has yet

    def add_inline(self, values_by_hash: Mapping[str, str]) -> None:
        """Add small values from a notebook, by hash."""
        self._inline.update(values_by_hash)

    def keep(self, ref: ValueRef, buffers: Sequence[values.Buffer]) -> None:
        """Store a value: a small one for the notebook, see :meth:`take_new`, another one in a file.

        Raises:
            OSError: If its file cannot be written.
        """
        if ref.hash in self._inline:
            return
        if len(buffers) == 1 and ref.size <= INLINE_BYTES:
            self._inline[ref.hash] = self._new[ref.hash] = bytes(buffers[0]).decode("ascii")
        else:
            self._write(ref.hash, buffers)

    def take_new(self, *, keep: bool = False) -> dict[str, str]:
        """Return the texts of the small values that are new, by hash; they are new no more unless ``keep`` is set."""
        new = self._new
        if not keep:
            self._new = {}
        return new

    def load(self, ref: ValueRef) -> Sequence[values.Buffer]:
        """Return a value's encoding; see :class:`~.model.ValueLoader`.

        Raises:
            RecordingError: If it is missing, or does not have the hash of the reference.
        """
        text = self._inline.get(ref.hash)
        buffers = [text.encode("utf-8", "surrogatepass")] if text is not None else self._read(ref)
        if hash_of(buffers) != ref.hash:
            where = "in the notebook" if text is not None else f"in {self.folder.name}/"
            raise RecordingError(
                f"The value {ref.hash[:12]} {where} was changed since it was recorded ({ref.summary})."
            )
        return buffers

    def has(self, ref: ValueRef) -> bool:
        """Return whether the value exists, without checking its hash."""
        return ref.hash in self._inline or (HASH.fullmatch(ref.hash) is not None and self._path(ref.hash).is_file())

    def _path(self, key: str) -> Path:
        return self.folder / key

    def _write(self, key: str, buffers: Sequence[values.Buffer]) -> None:
        if self._path(key).exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.folder / f".{secrets.token_hex(8)}"
        try:
            with unfinished.open("xb") as file:
                for buffer in buffers:
                    file.write(len(buffer).to_bytes(8, "big"))
                    file.write(buffer)
            unfinished.replace(self._path(key))
        except BaseException:  # also if the thread is interrupted: no file may stay half written
            unfinished.unlink(missing_ok=True)
            raise

    def _read(self, ref: ValueRef) -> list[values.Buffer]:
        if not HASH.fullmatch(ref.hash):  # it could be a path, in a recording from a stranger
            raise RecordingError(f"The recording refers to a value by {ref.hash[:80]!r}, which is no SHA-256.")
        path = self._path(ref.hash)
        try:
            if path.exists() and not path.is_file():  # reading a pipe would block
                raise OSError(errno.EINVAL, "it is no file")
            data = memoryview(path.read_bytes())
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise RecordingError(
                f"The value {ref.hash[:12]} ({ref.summary}) is missing: {path} cannot be read ({why}). "
                f"Keep {self.folder.name}/ beside the notebook."
            ) from error
        buffers: list[values.Buffer] = []
        while data:
            size = int.from_bytes(data[:8], "big")
            buffers.append(data[8 : 8 + size])
            data = data[8 + size :]
        return buffers


def value_of(store: ValueLoader, ref: ValueRef) -> Any:
    """Return the value that ``ref`` refers to.

    Raises:
        RecordingError: If it is missing, was changed, or needs a library that is not installed.
    """
    buffers = store.load(ref)
    try:
        return values.loads(buffers)
    except Exception as error:  # decoding runs code of libraries, which may be of another version
        raise RecordingError(f"The value {ref.hash[:12]} ({ref.summary}) cannot be decoded: {error}.") from error


class MemoryStore:
    """The values of a session that is not written to disk."""

    def __init__(self) -> None:
        self._values: dict[str, list[values.Buffer]] = {}

    def keep(self, buffers: Sequence[values.Buffer]) -> ValueRef:
        """Keep an encoded value and return the reference to it."""
        ref = ref_to(buffers)
        self._values[ref.hash] = list(map(bytes, buffers))
        return ref

    def load(self, ref: ValueRef) -> Sequence[values.Buffer]:
        """Return a value's encoding.

        Raises:
            RecordingError: If it is missing.
        """
        try:
            return self._values[ref.hash]
        except KeyError:
            raise RecordingError(f"The value {ref.hash[:12]} ({ref.summary}) is missing.") from None
