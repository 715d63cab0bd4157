"""Links of a real kernel that freeze, are refused, are slow, or are lost permanently."""

from __future__ import annotations

import hashlib
import json
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from daytona_kernel_interp.client.execution_result import ExecutionAborted
from daytona_kernel_interp.errors import CellNotRun, TunnelLost
from daytona_kernel_interp.wire.hello import KERNEL_CHANNELS, MAX_STREAMS
from tests.integration.driver import Driver
from tests.integration.test_backpressure import wait_until

from .conftest import PATIENT, TIMES
from .proxy import DOWN, UP, Faults, Proxy
from .sandbox import ThroughProxy
from .soak import CUTS, raw_client

if TYPE_CHECKING:
    from collections.abc import Iterator

MB = 1_000_000
PROOF = "import hashlib; hashlib.sha256(data).hexdigest()"


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    """Run a blocking function in a thread and join it afterwards."""
    with ThreadPoolExecutor(4) as pool:
        yield pool


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- frozen: no FIN, no RST, nothing ------------------------------------------------------------------------------


@pytest.mark.parametrize("directions", [(UP, DOWN), (UP,), (DOWN,)], ids="-".join)
def test_a_frozen_link_is_noticed_while_a_cell_runs(driver: Driver, proxy: Proxy, directions: tuple[str, ...]) -> None:
    """A link freezes with a tool's reply or output in flight: the cell completes normally."""
    driver.tools["freeze"] = lambda: proxy.freeze(*directions)
    dials = proxy.dials
    assert driver.text("print('before')\nfreeze()\nfor i in range(100): print(i, flush=True)") == (
        "before\n" + "".join(f"{i}\n" for i in range(100))
    )
    assert proxy.dials > dials


def test_a_frozen_link_is_noticed_with_the_rhythm_that_users_have(proxy: Proxy) -> None:
    """The same with default timings."""
    driver = Driver(ThroughProxy(proxy))
    try:
        driver.tools["freeze"] = proxy.freeze
        assert driver.text("freeze()\nprint('after')") == "after\n"
    finally:
        driver.close()


def test_a_link_frozen_in_a_bulk_send_is_noticed(driver: Driver, proxy: Proxy, thread: ThreadPoolExecutor) -> None:
    """The host can neither send nor receive: it dials again, and each byte arrives once."""
    data = random.Random(1).randbytes(100 * MB)
    sending = thread.submit(driver.value, PROOF, data=data)
    proxy.until_passed(UP, 20 * MB)
    proxy.freeze()
    assert sending.result() == digest(data)


def test_a_link_frozen_in_a_bulk_receive_is_noticed(driver: Driver, proxy: Proxy, thread: ThreadPoolExecutor) -> None:
    """The same in the other direction, with a tool's argument."""
    taken: list[str] = []
    driver.tools["take"] = lambda data: taken.append(digest(data))
    sending = thread.submit(driver.value, "import os\ndata = os.urandom(100_000_000)\ntake(data)\n" + PROOF)
    proxy.until_passed(DOWN, 20 * MB)
    proxy.freeze()
    assert [sending.result()] == taken


def test_a_link_that_froze_while_idle_is_noticed_by_the_next_cell(driver: Driver, proxy: Proxy) -> None:
    """No call waits, so the loss is not noticed; the next cell runs exactly once."""
    driver.run("runs = 0")
    proxy.freeze()
    assert driver.value("runs += 1\nruns") == 1
    assert driver.value("runs") == 1


def test_a_link_that_freezes_again_and_again(driver: Driver, proxy: Proxy) -> None:
    """Each freeze causes a new dial and no loss."""
    driver.tools["freeze"] = proxy.freeze
    for number in range(5):
        assert driver.text(f"freeze()\nprint({number})") == f"{number}\n"


def test_a_link_that_freezes_under_another_clients_cell(driver: Driver, proxy: Proxy, tmp_path: Path) -> None:
    """The host waits for nothing, so the slow keepalive detects it; the other client's output and idle arrive."""
    gate = tmp_path / "gate"
    with raw_client(driver.session.kernel.connection_file) as client:
        code = (
            "import os, time\nprint('begun', flush=True)\n"
            f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)\nprint('ended')"
        )
        client.execute(code)
        said: list[str] = []
        while "idle" not in said:
            message = client.get_iopub_msg(timeout=20)
            content = message["content"]
            said.append(str(content.get("text") or content.get("execution_state")))
            if said[-1] == "begun\n":
                proxy.freeze()
                gate.touch()
    assert said[-2:] == ["ended\n", "idle"]


# --- slow is not dead -------------------------------------------------------------------------------------------------


def test_a_kernel_that_does_not_read_is_no_dead_link(driver: Driver, proxy: Proxy, thread: ThreadPoolExecutor) -> None:
    """A full window to a stopped kernel: keepalives have replies, and the host does not dial."""
    kernel = psutil.Process(driver.value("import os; os.getpid()"))
    data, dials = random.Random(2).randbytes(60 * MB), proxy.dials
    kernel.suspend()
    try:
        sending = thread.submit(driver.value, PROOF, data=data)
        proxy.until_passed(UP, 10 * MB)
        # Only replies to keepalives are received, 19 bytes each: more of them than a dead link would get.
        proxy.until_passed(DOWN, proxy.passed[DOWN] + 60 * 19)
    finally:
        kernel.resume()
    assert sending.result() == digest(data)
    assert proxy.dials == dials


@pytest.mark.slow
def test_a_host_that_does_not_read_is_no_dead_link(patient_driver: Driver, proxy: Proxy) -> None:
    """Another client does not read, so its window is full of iopub; both streams stay alive."""
    driver, rest_s = patient_driver, 1.5 * PATIENT.dead_after_s

    def flood(count: int) -> int:
        begin = proxy.passed[DOWN]
        code = f"import time\nfor _ in range({count}): print('x' * 1000, flush=True)"
        driver.run(code, max_output_chars=None, timeout_s=50)
        return proxy.passed[DOWN] - begin

    for_one = 20 * flood(1000)
    dials = proxy.dials + 3  # the other client's: shell, iopub and control
    with raw_client(driver.session.kernel.connection_file):
        proxy.until_dialled(dials)
        assert flood(20_000) < 1.8 * for_one  # the other client's output is still in the sandbox
        driver.run(f"end = time.monotonic() + {rest_s}\nwhile time.monotonic() < end: time.sleep(0.01)")
        assert proxy.dials == dials


def test_a_host_that_was_busy_is_no_dead_link(driver: Driver, proxy: Proxy) -> None:
    """The host's loop was blocked for longer than the timeout: it sends a keepalive before it decides."""
    dials = proxy.dials

    def hold(output: object) -> None:
        time.sleep(1.5 * TIMES.dead_after_s)  # the test needs a blocked loop

    code = "import time\nfor i in range(3):\n    print(i)\n    end = time.monotonic() + 1\n"
    driver.run(code + "    while time.monotonic() < end: time.sleep(0.01)", on_output=hold)
    assert proxy.dials == dials


def test_an_interrupt_does_not_wait_behind_an_upload(driver: Driver, proxy: Proxy, thread: ThreadPoolExecutor) -> None:
    """A cell is interrupted during an upload of 500 MB at 50 MB/s; it ends before the upload."""
    total = 500 * MB
    running = threading.Event()
    driver.tools["running"] = running.set
    with raw_client(driver.session.kernel.connection_file) as client:
        cell = thread.submit(driver.run, "running()\nimport time\nwhile True: time.sleep(0.01)")
        assert running.wait(30)
        proxy.faults = Faults(delay_s=0.02, bytes_per_s=50 * MB)
        begin = proxy.passed[UP]
        message = client.session.msg("comm_msg", {"comm_id": "nobody", "data": {}})
        client.session.send(client.shell_channel.socket, message, buffers=[bytes(total)])
        proxy.until_passed(UP, begin + 30 * MB)
        driver.interrupt()
        result = cell.result()
        assert result.interrupted == "interrupt"
        assert result.cell.error is not None
        assert proxy.passed[UP] - begin < total
        proxy.faults = Faults()
        proxy.until_passed(UP, begin + total)
    assert driver.value("1 + 1") == 2


@pytest.mark.parametrize("how", ["timeout", "interrupt"])
def test_a_cell_whose_variables_are_still_on_their_way_is_taken_back(
    driver: Driver, proxy: Proxy, thread: ThreadPoolExecutor, how: str
) -> None:
    """CellNotRun is raised before the end of the upload, and the idle kernel is not killed."""
    total = 200 * MB
    driver.value("runs = 0")
    proxy.faults = Faults(delay_s=0.02, bytes_per_s=20 * MB)
    begin = proxy.passed[UP]
    variables = {name: bytes(total // 2) for name in "ab"}
    cell = thread.submit(driver.run, "runs += 1", variables=variables, timeout_s=1.0 if how == "timeout" else 60)
    proxy.until_passed(UP, begin + 10 * MB)
    if how == "interrupt":
        driver.interrupt()
    with pytest.raises(CellNotRun, match="interrupted before it reached the kernel"):
        cell.result()
    assert proxy.passed[UP] - begin < total
    proxy.faults = Faults()
    assert driver.value("runs") == 0


# --- continuous cuts; see also test_soak.py -----------------------------------------------------------------------


def test_tool_calls_through_a_link_that_is_cut(driver: Driver, proxy: Proxy) -> None:
    """Each call is made once, in order, and gets its result."""
    calls: list[int] = []

    def note(number: int) -> int:
        calls.append(number)
        return 10 * number

    driver.tools["note"] = note
    proxy.faults = CUTS
    assert driver.value("[note(i) for i in range(1500)]") == [10 * i for i in range(1500)]
    assert calls == list(range(1500))


def test_interrupts_through_a_link_that_is_cut(driver: Driver, proxy: Proxy, thread: ThreadPoolExecutor) -> None:
    """Each interrupt ends its own cell only."""
    proxy.faults = CUTS
    driver.run("import time\nends = []")
    for number in range(20):
        running = threading.Event()
        driver.tools["running"] = running.set
        code = f"try:\n    running()\n    while True: time.sleep(0.01)\nfinally:\n    ends.append({number})"
        cell = thread.submit(driver.run, code)
        assert running.wait(30)
        driver.interrupt()
        assert cell.result().interrupted == "interrupt"
    assert driver.value("ends") == list(range(20))


# --- refused for a while -------------------------------------------------------------------------------------------


def test_what_is_printed_while_nobody_listens_is_not_lost(
    patient_driver: Driver, proxy: Proxy, thread: ThreadPoolExecutor, tmp_path: Path
) -> None:
    """The relay is unreachable while a cell prints 4,000 lines; all of them arrive, in order."""
    done = tmp_path / "done"
    cut = threading.Event()

    def cut_off(output: object) -> None:
        if not cut.is_set():
            proxy.refuse()
            proxy.cut()
            cut.set()

    code = "import time\nfor i in range(4000): print(i, flush=True)\nopen(done, 'w').close()"
    variables = {"done": str(done)}
    cell = thread.submit(patient_driver.run, code, variables=variables, on_output=cut_off, max_output_chars=None)
    assert cut.wait(30)
    assert wait_until(done.exists, 30)
    proxy.accept()
    assert cell.result().cell.text() == "".join(f"{i}\n" for i in range(4000))


def test_bad_gateways_are_tried_again(driver: Driver, proxy: Proxy, thread: ThreadPoolExecutor) -> None:
    """A preview that responds with 502 for a while, as during a deployment, only causes a delay."""
    proxy.faults = Faults(bad_gateway=True)
    proxy.cut("fin")
    cell = thread.submit(driver.value, "40 + 2")
    proxy.until_dialled(proxy.dials + 12)
    proxy.faults = Faults()
    assert cell.result() == 42


# --- clients that come and go ------------------------------------------------------------------------------------


def test_clients_that_leave_without_a_word_leave_nothing_behind(driver: Driver) -> None:
    """After more such clients than a relay has streams, the next client is served."""
    facts = json.loads(driver.session.kernel.connection_file.read_text())
    for number in range(MAX_STREAMS + 10):
        channel = KERNEL_CHANNELS[number % len(KERNEL_CHANNELS)]
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(f"{facts['ip']}-{facts[f'{channel}_port']}")
            connection.recv(64)  # the greeting of the process that accepted the connection
    with raw_client(driver.session.kernel.connection_file) as client:
        client.execute("1", reply=True, timeout=30)


# --- a slow tunnel and much output -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_200_000_small_prints_through_a_slow_tunnel(driver: Driver, proxy: Proxy) -> None:
    """Without truncation in the kernel all lines arrive; with it, head, tail and count are exact."""
    proxy.faults = Faults(delay_s=0.02, bytes_per_s=4 * MB)
    code = "for i in range(200_000): print(i)"
    whole = "".join(f"{i}\n" for i in range(200_000))
    cell = driver.run(code, max_output_chars=None, timeout_s=50).cell
    assert cell.text() == whole
    assert cell.idle
    cell = driver.run(code, max_output_chars=2000).cell
    assert cell.idle
    text = cell.text()
    assert text.startswith(whole[:1000])
    assert text.endswith(whole[-1000:])
    assert f"\n[... {len(whole) - 2000:,} characters left out; " in text


@pytest.mark.slow
def test_20_000_messages_through_a_slow_tunnel(driver: Driver, proxy: Proxy) -> None:
    """Each flushed print is a message: more than the high-water marks of both sides together."""
    proxy.faults = Faults(delay_s=0.02, bytes_per_s=8 * MB)
    cell = driver.run("for i in range(20_000): print(i, flush=True)", max_output_chars=None, timeout_s=50).cell
    assert cell.text() == "".join(f"{i}\n" for i in range(20_000))


# --- permanent loss ----------------------------------------------------------------------------------------------


def test_a_cell_queued_for_a_link_that_was_down_never_runs_after_its_error(driver: Driver, proxy: Proxy) -> None:
    """After the host gave up on a cell and the link is back, the kernel does not receive the cell."""
    folder = driver.value("runs = 0\nimport os, time; os.environ['DAYTONA_KERNEL_FOLDER']")
    proxy.refuse()
    proxy.cut()
    with pytest.raises(ExecutionAborted, match="cannot be reached") as caught:
        driver.run("runs += 1")
    assert isinstance(caught.value.error, TunnelLost)
    proxy.accept()
    with pytest.raises(TunnelLost):
        driver.run("runs += 1")
    path = Path(folder) / f"kernel-{driver.session.kernel.id}.json"
    with raw_client(path) as client:  # past relay and tunnel
        client.execute("time.sleep(4)", reply=True, timeout=30)  # twice the longest wait before a new dial
        content = client.execute("", user_expressions={"runs": "runs"}, reply=True, timeout=30)["content"]
    assert content["user_expressions"]["runs"]["data"]["text/plain"] == "0"
