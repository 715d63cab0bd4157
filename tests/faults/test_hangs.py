"""Peers that answer nothing, too little, or nonsense: every call returns, in time and with the truth."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from daytona_kernel_interp.client.channels import Channels
from daytona_kernel_interp.client.execution_result import ExecutionAborted
from daytona_kernel_interp.client.kernel_driver import KernelDriver
from daytona_kernel_interp.client.recovery import LOST_OUTPUT, RecoveredJournal
from daytona_kernel_interp.errors import CellNotRun, KernelDied, TunnelLost
from daytona_kernel_interp.runtime.event_loop import io_loop
from daytona_kernel_interp.sandboxes.local import LocalSandbox, RunningLocalSandbox
from daytona_kernel_interp.tunnel import dialer
from daytona_kernel_interp.tunnel.tunnel import Tunnel
from tests.integration.driver import Driver

from .conftest import PATIENT
from .sandbox import ThroughProxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .proxy import Proxy

NATIVE = "import collections, itertools; collections.deque(itertools.repeat(0), maxlen=0)"


@pytest.fixture
def own() -> Iterator[Driver]:
    """A session of the test's own."""
    made = Driver()
    yield made
    made.close()


def relay_of(driver: Driver) -> psutil.Process:
    sandbox = driver.session.sandbox
    assert isinstance(sandbox, RunningLocalSandbox)
    return psutil.Process(sandbox.pid)


def kill_relay(driver: Driver) -> None:
    relay = relay_of(driver)
    relay.kill()
    relay.wait(10)


class Stopwatch:
    """The time that a block took."""

    def __enter__(self) -> Stopwatch:
        self._begin = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.took_s = time.monotonic() - self._begin


# --- the journal -----------------------------------------------------------------------------------------------

# A signed message without a usable id is put into the journal, and the cell's idle status is withheld.
NO_ID = """
import json, time
from IPython import get_ipython
from daytona_kernel_interp.wire.journal import JournalRecord, RecordKind, join_frames
kernel = get_ipython().kernel
session, journal, cell = kernel.session, kernel.parent.journal, kernel.get_parent()["header"]
print("early", flush=True)
header = b'{"msg_id":[],"msg_type":"stream","date":"x","version":"5.4"}'
parts = [header, session.pack(cell), b"{}", b'{"name":"stdout","text":"forged"}']
journal._write(JournalRecord(RecordKind.IOPUB, join_frames([b"stream", b"<IDS|MSG>", session.sign(parts), *parts])))
send = session.send
def deaf_send(stream, message, *args, **kwargs):
    content = args[0] if args else kwargs.get("content")
    parent = (kwargs.get("parent") or {}).get("header")
    if message == "status" and content == {"execution_state": "idle"} and parent == cell:
        del session.send
        return None
    return send(stream, message, *args, **kwargs)
session.send = deaf_send
"""


def test_a_record_without_an_id_is_dropped(own: Driver, caplog: pytest.LogCaptureFixture) -> None:
    """A signed record whose ``msg_id`` is a list: it is dropped and counted, and the cell ends."""
    with Stopwatch() as watch:
        result = own.run(NO_ID, timeout_s=None)
    assert result.cell.text() == "early\n"
    assert watch.took_s < 10
    assert "dropped 1 malformed records" in caplog.text
    assert own.value("1 + 1") == 2


def test_a_second_fault_hits_the_read_of_the_journal(own: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The relay is lost, the cell ends, and the journal cannot be read at first: it is read again."""
    reads = 0
    read = KernelDriver._read_journal

    async def fail_twice(self: KernelDriver, *place: Any) -> RecoveredJournal:
        nonlocal reads
        reads += 1
        if reads <= 2:
            raise TunnelLost("the journal ended early")
        return await read(self, *place)

    monkeypatch.setattr(KernelDriver, "_read_journal", fail_twice)
    own.tools["kill_relay"] = lambda: kill_relay(own)
    result = own.run("print('before')\nkill_relay()\nprint('after')", timeout_s=None)
    assert result.cell.text() == "before\nafter\n"
    assert reads > 2


def test_a_death_during_a_recovery_repeats_no_text(own: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is killed while a recovery reads the journal: one reader applies it."""
    read = KernelDriver._read_journal
    kernel = psutil.Process(own.value("import os; os.getpid()"))

    async def die_meanwhile(self: KernelDriver, *place: Any) -> RecoveredJournal:
        recovered = await read(self, *place)
        if kernel.is_running() and kernel.status() != psutil.STATUS_ZOMBIE:
            kernel.kill()
            while not self._execution.error:  # noqa: ASYNC110 - the relay reports the exit
                await asyncio.sleep(0.01)
        return recovered

    monkeypatch.setattr(KernelDriver, "_read_journal", die_meanwhile)
    with pytest.raises(ExecutionAborted) as caught:
        own.run("import os, time\nos.kill(os.getppid(), 9)\nprint('once', flush=True)\ntime.sleep(60)")
    assert isinstance(caught.value.error, KernelDied)
    assert caught.value.cell.text() == "once\n"


def test_a_death_whose_journal_cannot_be_read_says_so(own: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """``KernelDied`` comes in time, and the output says that some of it may be missing."""

    async def fail(self: KernelDriver, *place: Any) -> RecoveredJournal:
        raise TunnelLost("the journal ended early")

    monkeypatch.setattr(KernelDriver, "_read_journal", fail)
    monkeypatch.setattr("daytona_kernel_interp.config.LAST_OUTPUT_S", 1.0)
    with pytest.raises(ExecutionAborted) as caught:
        own.run("print('before', flush=True)\nimport os; os._exit(1)", timeout_s=None)
    assert isinstance(caught.value.error, KernelDied)
    assert LOST_OUTPUT in caught.value.cell.text()


def test_a_journal_that_never_ends_does_not_prolong_a_limit(own: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel died and its journal arrives byte by byte: the call ends by its limit and 6 s."""

    async def drip(self: KernelDriver, *place: Any) -> RecoveredJournal:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(KernelDriver, "_read_journal", drip)
    with Stopwatch() as watch, pytest.raises(ExecutionAborted, match="ended") as caught:
        own.run("import os; os._exit(1)", timeout_s=0.5)
    assert isinstance(caught.value.error, KernelDied)
    assert watch.took_s < 0.5 + 6


def test_a_recovery_lasts_as_long_as_the_link_may_be_away(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The link goes away when the journal is to be read, for longer than a first dial is tried."""
    driver = Driver(ThroughProxy(proxy, LocalSandbox(resume_lifetime=60)), PATIENT)
    read = KernelDriver._read_journal
    away = threading.Event()

    async def go_away(self: KernelDriver, *place: Any) -> RecoveredJournal:
        if not away.is_set():
            away.set()
            await asyncio.to_thread(proxy.refuse)
            await asyncio.to_thread(proxy.cut)
            threading.Timer(2.0, proxy.accept).start()
        return await read(self, *place)

    try:
        driver.value("1")
        monkeypatch.setattr(KernelDriver, "_read_journal", go_away)
        monkeypatch.setattr(dialer, "DIAL_S", 0.3)
        io_loop().loop.call_soon_threadsafe(driver.session.kernel.streams_broken)
        result = driver.run("print('done')", timeout_s=None)
        assert away.is_set()
        assert result.cell.text() == "done\n"
    finally:
        driver.close()


def test_the_first_cell_that_does_not_arrive_did_not_run(own: Driver) -> None:
    """Of a session's first cell nothing is known but the journal, which shows that it was not started."""
    relay = relay_of(own)
    os.kill(relay.pid, signal.SIGSTOP)
    outcome: list[BaseException] = []

    def run() -> None:
        try:
            own.run("ran = True")
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while own.session.kernel.running is None:
        time.sleep(0.01)
    kill_relay(own)
    thread.join(30)
    assert [type(error) for error in outcome] == [CellNotRun]
    assert own.value("'ran' in globals()") is False


# --- the relay ----------------------------------------------------------------------------------------------------


def test_a_relay_that_answers_no_signal(own: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """It acknowledges bytes and never answers: the call ends 10 s after its limit, and shutdown soon."""
    own.value("0")
    monkeypatch.setattr(Tunnel, "_receive_message", lambda self, message: None)
    with Stopwatch() as watch, pytest.raises(ExecutionAborted, match="did not confirm") as caught:
        own.run(NATIVE, timeout_s=0.5)
    assert isinstance(caught.value.error, TunnelLost)
    assert watch.took_s < 0.5 + 10.5
    with Stopwatch() as watch:
        own.close()
    assert watch.took_s < 10


def test_a_cell_that_stops_its_relay(own: Driver) -> None:
    """SIGSTOP of the relay: connections are accepted and not answered. The call ends 10 s after its limit."""
    relay = relay_of(own)
    try:
        code = "import os, signal, time\nos.kill(os.getppid(), signal.SIGSTOP)\nwhile True: time.sleep(0.1)"
        with Stopwatch() as watch, pytest.raises(ExecutionAborted) as caught:
            own.run(code, timeout_s=0.5)
    finally:
        relay.resume()
    assert isinstance(caught.value.error, TunnelLost)
    assert watch.took_s < 0.5 + 10.5


# --- time limits -----------------------------------------------------------------------------------------------------

FIRST_RUNG = {
    "sleep": "time.sleep(60)",
    "loop": "while True: pass",
    "await": "await asyncio.sleep(60)",
    "regular expression": "re.match('(a+)+$', 'a' * 64 + 'b')",
    "lock": "lock = threading.Lock(); lock.acquire(); lock.acquire()",
    "child": "subprocess.run(['sleep', '60'])",
    "join": "threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); threading.Event().wait()",
    "tool": "hold()",
}
SECOND_RUNG = {
    "SIGINT ignored": "signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
    "SIGINT handled": "signal.signal(signal.SIGINT, lambda *_: None)\nwhile True: pass",
    "async loop": "await asyncio.sleep(0)\nwhile True: pass",
}
_IMPORTS = "import asyncio, re, signal, subprocess, threading, time\n"


@pytest.fixture(scope="module")
def limited() -> Iterator[Driver]:
    made = Driver()
    made.value("kept = 'kept'")
    yield made
    made.close()


@pytest.mark.parametrize(
    ("code", "overrun_s"),
    [
        *(pytest.param(code, 0.3, id=name) for name, code in FIRST_RUNG.items()),
        *(pytest.param(code, 1.0, id=name) for name, code in SECOND_RUNG.items()),
    ],
)
def test_the_overrun_of_a_limit(limited: Driver, code: str, overrun_s: float) -> None:
    """A cell that the first interrupt ends returns within 0.3 s, one that needs the second within 1 s."""
    release = threading.Event()
    limited.tools["hold"] = lambda: release.wait(30)
    try:
        with Stopwatch() as watch:
            result = limited.run(_IMPORTS + code, timeout_s=0.7)
    finally:
        release.set()
    assert result.timed_out
    assert result.cell.error is not None
    assert watch.took_s - 0.7 < overrun_s + 0.5  # half a second for other work on the machine
    limited.run("import signal; signal.signal(signal.SIGINT, signal.default_int_handler)")
    assert limited.value("kept") == "kept"


def test_native_code_is_killed_after_five_seconds_and_not_before(own: Driver) -> None:
    """Code that returns to Python within that time is interrupted and keeps its variables; else the kernel ends."""
    own.value("x = 1")
    loop = "end = time.monotonic() + 3\nwhile time.monotonic() < end: sum(range(20_000_000))"
    with Stopwatch() as watch:
        result = own.run(f"import signal, time\n{loop}", timeout_s=0.5)
    assert result.timed_out
    assert own.value("x") == 1
    with Stopwatch() as watch, pytest.raises(ExecutionAborted, match="the kernel was killed"):
        own.run(NATIVE, timeout_s=0.5)
    assert 5.0 <= watch.took_s - 0.5 < 6.5


# --- tasks that fail -----------------------------------------------------------------------------------------------


class Broken(Exception):
    """An exception that nothing expects."""


async def broken(*_: Any, **__: Any) -> Any:
    raise Broken("injected")


PLACES = [
    *("the step's status", "the step's subscription", "the journal", "a channel's reader", "a signal"),
    *("the tick", "a dialler", "an action"),
]


def cut(driver: Driver) -> None:
    """Lose every WebSocket of a driver's tunnel. For the I/O loop."""
    for stream in list(driver.session.tunnel.streams):
        if stream.carrier.socket is not None:
            stream.carrier.socket.abort()


@pytest.mark.parametrize("place", PLACES)
def test_a_task_that_fails_ends_the_call(
    own: Driver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    """An exception in any background task ends the call with an error that names it."""
    own.value("0")
    own.tools["act"] = lambda: act()

    def break_streams() -> None:
        io_loop().loop.call_soon_threadsafe(own.session.kernel.streams_broken)

    act: Any = break_streams
    match place:
        case "the step's status":
            monkeypatch.setattr(Tunnel, "kernels", broken)
        case "the step's subscription":
            monkeypatch.setattr(Channels, "wait_subscribed", broken)
        case "the journal":
            monkeypatch.setattr(KernelDriver, "_read_journal", broken)
        case "a channel's reader":
            monkeypatch.setattr(Channels, "_guard", lambda *_: (_ for _ in ()).throw(Broken("injected")))
            act = lambda: None  # noqa: E731 - the call's own message is enough
        case "a signal":
            monkeypatch.setattr(Tunnel, "signal", broken)
            act = own.interrupt
        case "a dialler":
            monkeypatch.setattr(dialer.Dialer, "dial", broken)
            act = lambda: io_loop().loop.call_soon_threadsafe(cut, own)  # noqa: E731 - a call for the loop
        case "an action":
            monkeypatch.setattr(Channels, "send_control", lambda *_: (_ for _ in ()).throw(Broken("injected")))
            act = own.interrupt
        case "the tick":
            monkeypatch.setattr(dialer.DialedStream, "check_connection", lambda *_, **__: 1 / 0)
            act = lambda: None  # noqa: E731 - it ticks by itself
    with pytest.raises(ExecutionAborted, match=r"injected|division") as caught:
        own.run("act()\nimport time\nwhile True: time.sleep(0.1)", timeout_s=None)
    assert isinstance(caught.value.error, TunnelLost)
    caplog.clear()


# --- held messages and shutdown ------------------------------------------------------------------------------------


def test_held_messages_are_limited(own: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the journal is read, messages beyond the limit wait in the sandbox; none is lost."""
    monkeypatch.setattr("daytona_kernel_interp.client.channels.HELD_BYTES", 100_000)
    read, most = KernelDriver._read_journal, 0

    async def slow(self: KernelDriver, *place: Any) -> RecoveredJournal:
        nonlocal most
        recovered = await read(self, *place)
        while most == 0 and self._channels is not None and self._channels._room.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        if self._channels is not None:
            most = max(most, self._channels._held_bytes)
        return recovered

    monkeypatch.setattr(KernelDriver, "_read_journal", slow)
    loop, broken_streams = io_loop().loop, own.session.kernel.streams_broken
    own.tools["break_streams"] = lambda: loop.call_soon_threadsafe(loop.call_later, 0.2, broken_streams)
    code = "break_streams()\nfor i in range(10_000): print(i, 'x' * 500, flush=True)"
    text = own.run(code, max_output_chars=None, timeout_s=50).cell.text()
    assert [line.split()[0] for line in text.splitlines()] == [str(i) for i in range(10_000)]
    assert 0 < most < 200_000


def test_a_shutdown_that_hangs_goes_on_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sandbox does not end: shutdown returns, and the end is completed later."""
    monkeypatch.setattr("daytona_kernel_interp.session.kernel_session.CLOSE_S", 0.3)
    driver, release = Driver(), threading.Event()
    stop = RunningLocalSandbox.stop

    async def hang(self: RunningLocalSandbox) -> None:
        await asyncio.to_thread(release.wait, 30)
        await stop(self)

    monkeypatch.setattr(RunningLocalSandbox, "stop", hang)
    relay = relay_of(driver)
    with Stopwatch() as watch:
        driver.close()
    assert watch.took_s < 3
    assert relay.is_running()
    release.set()
    with contextlib.suppress(psutil.NoSuchProcess):
        relay.wait(20)
    io_loop().run(driver.session.aclose())  # a second call waits for the first
