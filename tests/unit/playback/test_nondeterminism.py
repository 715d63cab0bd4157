"""Reasons in the source of a cell for different results."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.playback.nondeterminism import NondeterminismTracker


def look(*cells: str) -> str:
    tracker = NondeterminismTracker()
    return [tracker.analyze(number, code) for number, code in enumerate(cells)][-1]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import random\nprint(random.random())", "random"),
        ("from random import choice as pick\nprint(pick([1, 2]))", "random"),
        ("import numpy as np\nnp.random.default_rng().normal()", "random"),
        ("import time\nprint(time.perf_counter())", "time"),
        ("from time import time\nprint(time())", "time"),
        ("from datetime import datetime\nprint(datetime.now())", "time"),
        ("import datetime as dt\nprint(dt.date.today())", "time"),
        ("import uuid\nstr(uuid.uuid4())", "uuid"),
        ("print(hash('a'))", "hash of str"),
        ("print(id(object()))", "memory address"),
        ("print({'a', 'b'})", "order of a set"),
        ("print([x for x in set('abc')])", "order of a set"),
        ("print(list({a for a in 'abc'}))", "order of a set"),
        ("from concurrent.futures import ThreadPoolExecutor, as_completed\nas_completed([])", "threads"),
        ("import os\nprint(os.listdir('.'), os.getpid())", "order of files, process id"),
        ("import tempfile\ntempfile.mkdtemp()", "temporary files"),
        ("%time sum(range(9))", "time"),
        ("!date", "other programs"),
        ("import time\ntime.sleep(1)\nprint(1)", ""),
        ("import random\nrandom.seed(3)", ""),
        ("import random, time, datetime\nprint(datetime.timedelta(1), 1 + 1)", ""),
        ("id = 5\nprint(id)", ""),
        ("def broken(", ""),
        ("", ""),
    ],
)
def test_sources(code: str, reason: str) -> None:
    """Clocks, random numbers, hashes and properties of the machine are reasons; other code has none."""
    assert look(code) == reason


def test_what_a_source_gave_stays_suspect() -> None:
    """A later cell that reads a nondeterministic value, directly or derived, names the step it comes from."""
    assert look("import random\nx = random.random()", "y = [x, 1]", "print(y)") == "random (step 0)"
    assert look("import random\ndef draw():\n    return random.random()", "print(draw())") == "random (step 0)"
    assert look("import time\nseen = []", "seen.append(time.time())", "print(seen)") == "time (step 1)"


def test_what_is_bound_anew_is_suspect_no_more() -> None:
    """A name that is bound to a constant is deterministic again."""
    assert look("import random\nx = random.random()", "x = 3", "print(x)") == ""
    assert look("import random\nx = random.random()", "print(z)") == ""


def test_a_name_of_the_sessions_own_is_no_source() -> None:
    """A variable with the name of a builtin is not that builtin."""
    assert look("id = 5", "print(id)") == ""


def test_differences_are_followed_by_name() -> None:
    """A step that reads a name bound by a differing step names that step, until the name is bound again."""
    tracker = NondeterminismTracker()
    steps = []
    for number, code in enumerate(["x = 1", "y = x", "print(y)", "y = 2", "print(y)"]):
        tracker.analyze(number, code)
        steps.append(tracker.differing_steps)
        if number == 0:
            tracker.mark_differing(number)
    assert steps == [[], [0], [0], [], []]


@given(st.text(max_size=30))
def test_any_text_can_be_looked_at(code: str) -> None:
    """Any text can be analyzed; it raises nothing and runs nothing."""
    assert isinstance(look(code), str)
