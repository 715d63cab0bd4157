"""The names that a cell reads, binds and uses."""

from __future__ import annotations

import pytest

from daytona_kernel_interp.playback.cell_names import CellNames


@pytest.mark.parametrize(
    ("code", "read", "bound"),
    [
        ("y = x + 1", {"x"}, {"y"}),
        ("seen.append(x)", {"seen", "x"}, {"seen"}),
        ("seen.clear()", {"seen"}, set()),
        ("d[k] = 1\nobj.size = 2", {"d", "k", "obj"}, {"d", "obj"}),
        ("def area(r):\n    return r * pi", {"r", "pi"}, {"area"}),
        ("import random\nrandom.shuffle(x)", {"random", "x"}, set()),
        ("%time\ny = x", {"x"}, {"y"}),
        ("def broken(", set(), set()),
    ],
)
def test_read_and_bound_names(code: str, read: set[str], bound: set[str]) -> None:
    """Assignments, definitions, stores into objects and method calls with arguments bind; imports do not."""
    names = CellNames()
    names.parse(code)
    assert (names.read, names.bound) == (read, bound)


def test_used_names_are_resolved_through_the_imports_of_the_session() -> None:
    """An import of an earlier cell applies; a name that the session bound is not a builtin."""
    names = CellNames()
    names.parse("import numpy as np\nfrom time import time as now\nid = 1")
    names.parse("%%timeit\nnp.random.rand(now())\nid\nlen({1})")
    assert sorted(filter(None, names.used)) == ["%timeit", "len", "numpy.random.rand", "set", "time.time"]
