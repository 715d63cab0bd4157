"""Tests of ``wire.backoff``."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.wire.backoff import FIRST_S, LAST_S, delays

pytestmark = pytest.mark.python


def test_delays_double_up_to_the_last() -> None:
    """20 ms doubles to 2 s and stays there."""
    assert list(islice(delays(lambda: 1.0), 9)) == [0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.0, 2.0]


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=40))
def test_each_delay_is_drawn_from_its_upper_half(drawn: list[float]) -> None:
    """Jitter shortens a wait by at most a half, so hosts do not dial at the same time and no wait is near zero."""
    numbers = iter(drawn)
    waits = list(islice(delays(lambda: next(numbers)), len(drawn)))
    for index, (wait_s, number) in enumerate(zip(waits, drawn, strict=True)):
        full_s = min(FIRST_S * 2**index, LAST_S)
        assert wait_s == pytest.approx(full_s * (1 + number) / 2)
        assert full_s / 2 <= wait_s <= full_s


def test_a_lifetime_is_a_bounded_number_of_dials() -> None:
    """Ten minutes of dialling are some hundreds of dials, not some thousands."""
    waits = delays(lambda: 0.0)
    total_s, dials = 0.0, 0
    while total_s < 600:
        total_s += next(waits)
        dials += 1
    assert 300 < dials < 620
