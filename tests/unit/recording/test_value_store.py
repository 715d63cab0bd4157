"""The stores of values. What a reader finds in a changed store: test_notebook_reader.py."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given

from daytona_kernel_interp.codec import values
from daytona_kernel_interp.errors import RecordingError
from daytona_kernel_interp.recording.value_store import INLINE_BYTES, MemoryStore, ValueStore, ref_to, value_of
from tests.unit.strategies import VALUES

if TYPE_CHECKING:
    from pathlib import Path


def test_a_small_value_belongs_into_the_notebook_once(tmp_path: Path) -> None:
    """The text of a small value is new once, also if it is kept again; it can stay new."""
    store, buffers = ValueStore(tmp_path / "run.values"), values.dumps("a")
    ref = ref_to(buffers)
    store.keep(ref, buffers)
    assert [store.take_new(keep=True), store.take_new()] == [{ref.hash: '"a"'}] * 2
    store.keep(ref, buffers)
    assert store.take_new() == {}
    assert not store.folder.exists()
    assert value_of(store, ref_to(buffers)) == "a"


def test_a_large_value_is_a_file_with_its_hash_as_name(tmp_path: Path) -> None:
    """The file's SHA-256 is its name; another store of the same folder reads it and does not write it again."""
    store, value = ValueStore(tmp_path / "run.values"), "x" * (INLINE_BYTES + 1)
    buffers = values.dumps(value)
    ref = ref_to(buffers)
    store.keep(ref, buffers)
    assert store.take_new() == {}
    (file,) = store.folder.iterdir()
    assert file.name == ref.hash == hashlib.sha256(file.read_bytes()).hexdigest()
    written = file.stat().st_mtime_ns
    other = ValueStore(store.folder)
    assert other.has(ref)
    other.keep(ref, buffers)
    assert (file.stat().st_mtime_ns, value_of(other, ref)) == (written, value)


def test_a_write_that_fails_leaves_no_file(tmp_path: Path) -> None:
    """A buffer that cannot be written leaves neither a file under the hash nor a part of one."""
    store = ValueStore(tmp_path / "run.values")
    buffers = values.dumps("x" * 10_000)
    with pytest.raises(TypeError):
        store.keep(ref_to(buffers), [*buffers, "no buffer"])  # type: ignore[list-item]
    assert list(store.folder.iterdir()) == []


@given(value=VALUES)
def test_a_value_in_memory(value: object) -> None:
    """A value that was kept is loaded by its reference; another reference is an error."""
    store, buffers = MemoryStore(), values.dumps(value, max_bytes=None)
    ref = store.keep(buffers)
    assert ref == ref_to(buffers)
    assert [bytes(buffer) for buffer in store.load(ref)] == [bytes(buffer) for buffer in buffers]
    with pytest.raises(RecordingError, match="is missing"):
        store.load(replace(ref, hash="0" * 64))
