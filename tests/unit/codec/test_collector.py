"""Tests of ``codec.collector``."""

from __future__ import annotations

import gc
import os
import signal
import threading
import warnings
from typing import TYPE_CHECKING

import pytest

from daytona_kernel_interp.codec import collector
from daytona_kernel_interp.codec.collector import collector_paused
from daytona_kernel_interp.codec.values import dumps, loads

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.python


@pytest.fixture(autouse=True)
def enabled_collector() -> Iterator[None]:
    """Enable the collector after each test."""
    gc.enable()
    yield
    gc.enable()


def test_it_is_restored() -> None:
    """Also after an error, and after nested blocks."""

    def fail() -> None:
        with collector_paused():
            with collector_paused():
                assert not gc.isenabled()
            assert not gc.isenabled()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert gc.isenabled()


def test_a_program_that_disabled_it_finds_it_disabled() -> None:
    """Encoding and decoding never enable it."""
    gc.disable()
    loads(dumps([[1], {"a": (2,)}]))
    with collector_paused():
        pass
    assert not gc.isenabled()


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("first_ends_first", [True, False])
def test_two_threads_share_one_pause(enabled: bool, first_ends_first: bool) -> None:
    """The collector stays paused until the last of them ends, and is then what it was before the first."""
    entered, leave, left = ([threading.Event(), threading.Event()] for _ in range(3))

    def work(number: int) -> None:
        with collector_paused():
            entered[number].set()
            assert leave[number].wait(10)
        left[number].set()

    (gc.enable if enabled else gc.disable)()
    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for number, thread in enumerate(threads):
        thread.start()
        assert entered[number].wait(10)
    order = [0, 1] if first_ends_first else [1, 0]
    for number, expected in zip(order, (False, enabled), strict=True):
        assert not gc.isenabled()
        leave[number].set()
        assert left[number].wait(10)
        assert gc.isenabled() is expected
    for thread in threads:
        thread.join()


def test_a_forked_child_waits_for_no_thread_of_its_parent() -> None:
    """The child's collector is enabled, and its values are encoded, although a thread was within a block."""
    entered, leave = threading.Event(), threading.Event()

    def work() -> None:
        with collector_paused(), collector._pause._lock:
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    assert entered.wait(10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later warn of threads
        child = os.fork()
    if not child:
        signal.alarm(10)
        works = gc.isenabled() and loads(dumps([[1]])) == [[1]] and gc.isenabled()
        os._exit(0 if works else 1)
    leave.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert gc.isenabled()


def test_many_threads_leave_it_as_it_was() -> None:
    """Whatever order they run in."""

    def work() -> None:
        for _ in range(200):
            loads(dumps([[1], [2]]))

    for enable in (gc.enable, gc.disable):
        enable()
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert gc.isenabled() is (enable is gc.enable)
