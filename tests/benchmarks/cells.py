"""The code that the benchmark runs in cells, and the host tool that it calls."""

from __future__ import annotations

THREADS = 32

EMPTY = "1;"
SCALAR = "1 + 1"

# Times are taken where the caller of a tool is, and leave as the cell's value.
DEFINITIONS = f"""
import time
from concurrent.futures import ThreadPoolExecutor

def call_in_sequence(count):
    add(0)
    times = []
    for number in range(count):
        begin = time.perf_counter()
        result = add(number)
        times.append((time.perf_counter() - begin) * 1000)
        assert result == number + 1
    return times

def call_in_parallel(count):
    with ThreadPoolExecutor({THREADS}) as pool:
        list(pool.map(add, range({THREADS})))  # starts the threads
        begin = time.perf_counter()
        results = list(pool.map(add, range(count)))
        rate = count / (time.perf_counter() - begin)
    assert results == list(range(1, count + 1))
    return [rate]
"""


def add(number: int) -> int:
    """Add one."""
    return number + 1
