"""The cache of large inputs."""

from __future__ import annotations

import pytest

from daytona_kernel_interp.codec import values
from daytona_kernel_interp.guest.kernel.input_cache import InputCache, ValueForgotten, resolve
from daytona_kernel_interp.wire.protocol_errors import RemoteProtocolError

pytestmark = pytest.mark.python

VALUES: list[object] = ["text" * 100, b"bytes" * 100, [1, {"a": (2.5, None)}], {"deep": [[["x"]]]}, {1, 2}]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_each_cell_gets_a_value_of_its_own(value: object) -> None:
    """What code changes in its copy is not in the next one."""
    cache = InputCache()
    assert cache.add("key", values.dumps(value)) == value
    first = cache.get("key")
    assert first == value
    if isinstance(first, (list, dict, set)):
        first.clear()
    assert cache.get("key") == value


def test_the_values_used_longest_ago_go_first() -> None:
    """Beyond the limit the oldest are dropped, when the cell has all its values."""
    cache = InputCache(max_bytes=2500)
    for key in "abc":
        cache.add(key, values.dumps(b"x" * 1000))
    assert cache.get("a") == b"x" * 1000
    cache.trim()
    assert cache.keys == ["c", "a"]
    with pytest.raises(ValueForgotten, match="no value b"):
        cache.get("b")


def test_a_value_sent_again_takes_its_room_once() -> None:
    """The same key twice counts once."""
    cache = InputCache(max_bytes=2500)
    for _ in range(5):
        cache.add("a", values.dumps(b"x" * 1000))
    cache.add("b", values.dumps(b"y" * 1000))
    cache.trim()
    assert cache.keys == ["a", "b"]


def test_variables_come_from_the_message_or_the_cache() -> None:
    """A variable without buffers is in the cache; the others' buffers are the message's last, in their order."""
    cache = InputCache()
    cache.add("old", values.dumps("from an earlier cell"))
    new = values.dumps([1, 2])
    sent = [("a", "old", 0), ("b", "new", len(new))]
    assert resolve(cache, sent, [b"preamble", *new]) == {"a": "from an earlier cell", "b": [1, 2]}
    assert resolve(cache, [("c", "new", 0)], []) == {"c": [1, 2]}


def test_what_cannot_be_resolved_names_the_variable() -> None:
    """A key that is not cached, and bytes that are no value, are errors of two kinds."""
    with pytest.raises(ValueForgotten):
        resolve(InputCache(), [("a", "unknown", 0)], [])
    with pytest.raises(RemoteProtocolError, match="variable 'a': "):
        resolve(InputCache(), [("a", "key", 1)], [b"no JSON"])
