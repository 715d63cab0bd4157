"""A short soak: see ``soak.py``, whose long run is ``make soak``."""

from __future__ import annotations

import pytest

from .soak import MINUTE, run


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_nothing_is_lost_through_a_link_that_is_cut_all_the_time() -> None:
    """Both ends of each connection are cut every 50 to 300 ms: each cell runs once, and all bytes arrive."""
    rows, proxy = run(MINUTE)
    assert [(row.work, row.lost) for row in rows if row.lost] == []
    assert proxy.cut_count >= MINUTE.cuts
