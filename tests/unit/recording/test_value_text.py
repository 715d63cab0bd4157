"""Recorded values as short text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.codec import values
from daytona_kernel_interp.recording.value_store import repr_of, summary_of, summary_of_call


@given(st.text(max_size=20) | st.text("ab'\"\\\n\x7f", max_size=6))
def test_a_short_text_is_told_as_python_shows_it(text: str) -> None:
    """The summary of a short text is its repr, also where the text is not decoded for it."""
    assert summary_of(values.dumps(text)) == repr(text)


@pytest.mark.parametrize(
    ("value", "summary"),
    [
        (7, "7"),
        ([1, "a"], "[1, 'a']"),
        ("x" * 5000, f"str, 5,002 bytes: {'x' * 80}…"),
        (list(range(1000)), "list, 3,891 bytes"),
        ({str(key): key for key in range(100)}, "dict, 781 bytes"),
        (b"x" * 5000, "bytes, "),
    ],
)
def test_a_long_value_is_described_by_type_and_size(value: object, summary: str) -> None:
    """A short value is shown; a long one is described without decoding it."""
    assert summary_of(values.dumps(value)).startswith(summary)


def test_arguments_are_shown_as_in_a_call() -> None:
    """Positional and named arguments stand as between the parentheses of a call, shortened to 120 characters."""
    assert summary_of_call(values.dumps(([1, "a"], {"limit": None}))) == "1, 'a', limit=None"
    long = summary_of_call(values.dumps((["x" * 500], {})))
    assert len(long) == 120
    assert long.endswith("…")


def test_a_repr_that_raises_is_named() -> None:
    """The text names the type of the value and of the error."""
    assert repr_of(10**5000) == "<int: its repr raised ValueError>"
