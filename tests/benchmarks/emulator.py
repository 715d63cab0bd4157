"""The emulated Daytona: how soon sandboxes start, and what its preview proxy costs and carries.

The emulator runs in a process of its own, as its program; the same app in the same sandbox is reached through
the preview and directly, in turns.
"""

from __future__ import annotations

import contextlib
import re
import socket
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from .link import Line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conformance.service import Service

_STREAM = Path(__file__).with_name("stream.py")
_MESSAGE = bytes(64)
_MB = 1_000_000
_PIECE = 1 << 20


@dataclass(frozen=True)
class Plan:
    """How often, and how much."""

    creates: int = 30
    at_once: int = 100
    rounds: int = 10
    trips: int = 300
    transfers: int = 5
    transfer_mib: int = 1024


QUICK = Plan(creates=10, rounds=4, trips=100, transfers=3, transfer_mib=256)


def measure(plan: Plan) -> Iterator[Line]:
    """Measure everything, in the order of the table."""
    with _program() as service:
        yield from _creates(service, plan)
        yield from _at_once(service, plan)
    # On shared loopback the app can be reached directly too.
    with _program("--shared") as service, _app(service) as (port, preview):
        yield from _round_trips(port, preview, plan)
        yield from _throughput(port, preview, plan)


def table(what: str, spread: str, lines: list[Line]) -> str:
    """Return the Markdown table; ``spread`` says what the second column has."""
    rows = [f"| {what} | {spread} | | target | |", "|---|---|---|---|---|"]
    for line in lines:
        target = "" if line.limit is None else f"{'>=' if line.at_least else '<='} {line.limit:g}"
        rows.append(f"| {line.what} | {line.detail} | {line.value:.2f} | {target} | {line.verdict} |")
    return "\n".join(rows)


def run(quick: bool) -> str:
    """Measure and return the table."""
    print("measure the emulated Daytona ...", file=sys.stderr)
    return table("the emulated Daytona", "p50 (p95), all", list(measure(QUICK if quick else Plan())))


@contextlib.contextmanager
def _program(*options: str) -> Iterator[Service]:
    from tests.conformance.service import Service  # imports the SDK, which reads the environment

    command = [sys.executable, "-m", "daytona_kernel_interp.testing", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        text = "".join(program.stdout.readline() for _ in range(3))
        variables = dict(re.findall(r"^export (\w+)=(.*)$", text, re.MULTILINE))
        service = Service(variables["DAYTONA_API_URL"], variables["DAYTONA_API_KEY"])
        try:
            yield service
        finally:
            service.close()
            program.terminate()


def _creates(service: Service, plan: Plan) -> Iterator[Line]:
    times = []
    for number in range(plan.creates + 1):
        begin = time.perf_counter()
        made = service.sdk.create(service.params())
        if number:  # the first one also connects
            times.append((time.perf_counter() - begin) * 1000)
        made.delete(wait=True)
    yield Line("create to started, by the SDK, ms", _spread(times, "ms"), statistics.median(times), 50)


def _at_once(service: Service, plan: Plan) -> Iterator[Line]:
    begin = time.perf_counter()
    with ThreadPoolExecutor(16) as threads:
        bodies = threads.map(
            lambda _: service.api.post("/sandbox", json={"autoDeleteInterval": 0}), range(plan.at_once)
        )
        ids = {body.json()["id"] for body in bodies}
        started: set[str] = set()
        while started < ids:
            page = service.api.get("/sandbox", params={"states": "started", "limit": "200"}).json()
            started = {item["id"] for item in page["items"]} & ids
        took_s = time.perf_counter() - begin
        codes = list(threads.map(lambda name: _true(service, name), sorted(ids)))
        for name in ids:
            service.api.delete(f"/sandbox/{name}")
    if codes != [0] * plan.at_once:
        raise AssertionError("a sandbox did not run its command")
    yield Line(f"{plan.at_once} sandboxes at once, all started, s", f"each ran a command; {len(ids)} of them", took_s)


def _true(service: Service, sandbox_id: str) -> int:
    url = service.api.get(f"/sandbox/{sandbox_id}/toolbox-proxy-url").json()["url"]
    answer = service.api.post(f"{url}/{sandbox_id}/process/execute", json={"command": "true"})
    return int(answer.json()["exitCode"])


@contextlib.contextmanager
def _app(service: Service) -> Iterator[tuple[int, tuple[str, str]]]:
    from daytona import SessionExecuteRequest

    made = service.sdk.create(service.params())
    port = int(made.process.exec("echo $DAYTONA_KERNEL_RELAY_PORT").result)
    made.fs.upload_file(_STREAM.read_bytes(), "stream.py")
    made.process.create_session("stream")
    command = SessionExecuteRequest(command=f"exec python3 stream.py {port}", run_async=True)
    made.process.execute_session_command("stream", command)
    link = made.get_preview_link(port)
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            break
    yield port, (link.url, link.token)
    made.delete()


def _dial(port: int, preview: tuple[str, str] | None, target: str) -> socket.socket:
    host, token = f"localhost:{port}", ""
    if preview is not None:
        url = httpx.URL(preview[0])
        host, port, token = url.netloc.decode(), url.port or 80, f"X-Daytona-Preview-Token: {preview[1]}\r\n"
    made = socket.create_connection(("127.0.0.1", port))
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.sendall(
        f"GET {target} HTTP/1.1\r\nHost: {host}\r\n{token}Connection: Upgrade\r\nUpgrade: raw\r\n\r\n".encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += made.recv(1)
    if not head.startswith(b"HTTP/1.1 101 "):
        raise AssertionError(head.decode())
    return made


def _round_trips(port: int, preview: tuple[str, str], plan: Plan) -> Iterator[Line]:
    times: dict[bool, list[float]] = {True: [], False: []}
    with _dial(port, preview, "/echo") as through, _dial(port, None, "/echo") as direct:
        for number in range(plan.rounds):
            for by_preview in (True, False) if number % 2 else (False, True):
                made = through if by_preview else direct
                for _ in range(plan.trips):
                    begin = time.perf_counter()
                    made.sendall(_MESSAGE)
                    made.recv(len(_MESSAGE), socket.MSG_WAITALL)
                    times[by_preview].append((time.perf_counter() - begin) * 1000)
    added = statistics.median(times[True]) - statistics.median(times[False])
    detail = f"{_spread(times[True], 'ms')}, direct {_spread(times[False], 'ms')}"
    yield Line("round trip, added by the preview proxy, ms", detail, added, 1)


def _throughput(port: int, preview: tuple[str, str], plan: Plan) -> Iterator[Line]:
    for way in ("send", "take"):
        speeds: dict[bool, list[float]] = {True: [], False: []}
        for number in range(plan.transfers):
            for by_preview in (True, False) if number % 2 else (False, True):
                with _dial(port, preview if by_preview else None, f"/{way}/{plan.transfer_mib}") as made:
                    seconds = _transfer(made, way, plan.transfer_mib * _PIECE)
                speeds[by_preview].append(plan.transfer_mib * _PIECE / _MB / seconds)
        what = f"{plan.transfer_mib} MiB {'down' if way == 'send' else 'up'} through the preview, MB/s"
        detail = f"{_spread(speeds[True], 'MB/s')}, direct {_spread(speeds[False], 'MB/s')}"
        yield Line(what, detail, statistics.median(speeds[True]), 300, at_least=True)


def _transfer(made: socket.socket, way: str, count: int) -> float:
    buffer = bytearray(_PIECE)
    begin = time.perf_counter()
    if way == "send":
        while count:
            size = made.recv_into(buffer)
            if not size:
                raise AssertionError("the connection ended early")
            count -= size
    else:
        for _ in range(count // _PIECE):
            made.sendall(buffer)
        made.recv(1)
    return time.perf_counter() - begin


def _spread(values: list[float], unit: str) -> str:
    ordered = sorted(values)
    return f"{statistics.median(ordered):.2f} ({ordered[int(len(ordered) * 0.95)]:.2f}) {unit}"
