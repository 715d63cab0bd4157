"""The fault plan: all kinds of faults, observed by a client."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from daytona import SandboxState
from daytona.common.errors import (
    DaytonaBadGatewayError,
    DaytonaConflictError,
    DaytonaError,
    DaytonaRateLimitError,
    DaytonaTimeoutError,
)
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.sync.client import ClientConnection, connect

from daytona_kernel_interp.testing import Fault
from tests.conformance.service import TOKEN_HEADER, Service, start_app, state_of, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Local

SHORT_S = 0.5


def dial(service: Service) -> ClientConnection:
    link = service.server.get_preview_link(service.port)
    url = link.url.replace("http", "ws", 1)
    made: ClientConnection = connect(url, additional_headers={TOKEN_HEADER: link.token}, proxy=None, compression=None)
    return made


def upgraded(service: Service) -> socket.socket:
    """Return a plain socket after a WebSocket upgrade, with the head of the response read."""
    link = service.server.get_preview_link(service.port)
    url = httpx.URL(link.url)
    made = socket.create_connection(("127.0.0.1", url.port or 80), timeout=10)
    made.sendall(
        f"GET / HTTP/1.1\r\nHost: {url.netloc.decode()}\r\n{TOKEN_HEADER}: {link.token}\r\n".encode()
        + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += made.recv(1)
    assert head.startswith(b"HTTP/1.1 101 ")
    return made


def until_closed(made: socket.socket) -> bytes:
    """Return all bytes before EOF."""
    data = b""
    with made:
        while True:
            try:
                piece = made.recv(65536)
            except ConnectionResetError:
                return data
            if not piece:
                return data
            data += piece


@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_cut_after_bytes(local: Local, count: int) -> None:
    """Exactly the given number of bytes from the sandbox arrives, then the connection ends."""
    assert local.service.server
    local.emulator.fail(Fault("preview", cut_after_bytes=count))
    assert len(until_closed(upgraded(local.service))) == count


def test_cut_of_an_answer(local: Local) -> None:
    """A plain response is cut as well, within its body."""
    assert local.service.preview("/").status_code == 200
    local.emulator.fail(Fault("preview", cut_after_bytes=1000))
    with pytest.raises(httpx.RemoteProtocolError):
        local.service.preview("/big/1000000")


def test_cut_after_seconds(local: Local) -> None:
    """A connection ends after the given time, also during a transfer."""
    assert local.service.server
    local.emulator.fail(Fault("preview", cut_after_s=SHORT_S))
    started = time.monotonic()  # before the dial, which may take as long on a busy machine
    with dial(local.service) as made, pytest.raises(ConnectionClosed):
        _talk(made)
    assert time.monotonic() - started >= SHORT_S / 2


def test_cut_of_an_answer_after_seconds(local: Local) -> None:
    """A plain response that takes longer is cut as well."""
    assert local.service.preview("/").status_code == 200
    local.emulator.fail(Fault("preview", cut_after_s=SHORT_S, bytes_per_s=10_000))
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        local.service.preview("/big/1000000")


def _talk(made: ClientConnection) -> None:
    for _ in range(100_000):
        made.send("still here")
        made.recv(timeout=10)


def test_stall(local: Local) -> None:
    """After the given number of bytes no more arrive, and the connection stays open."""
    assert local.service.server
    local.emulator.fail(Fault("preview", stall_after_bytes=10))
    with upgraded(local.service) as made:
        data = b""
        while len(data) < 10:
            data += made.recv(100)
        assert len(data) == 10
        made.settimeout(SHORT_S)
        with pytest.raises(TimeoutError):
            made.recv(1)


def test_refuse(local: Local) -> None:
    """A refused request gets no byte of a response."""
    assert local.service.preview("/").status_code == 200
    local.emulator.fail(Fault("preview", refuse=True))
    with pytest.raises(httpx.RemoteProtocolError):
        local.service.preview("/")
    assert local.service.preview("/").status_code == 200


def test_empty_502(local: Local) -> None:
    """A 502 has no body and applies the configured number of times."""
    assert local.service.preview("/").status_code == 200
    local.emulator.fail(Fault("preview", status=502, times=2))
    answers = [local.service.preview("/") for _ in range(3)]
    assert [(answer.status_code, answer.content) for answer in answers[:2]] == [(502, b"")] * 2
    assert answers[2].status_code == 200


def test_upgrade_refused_by_502(local: Local) -> None:
    """An upgrade is subject to the same faults as a request."""
    assert local.service.server
    local.emulator.fail(Fault("preview", status=502))
    with pytest.raises(InvalidHandshake, match="502"), dial(local.service):
        pass


def test_hang(local: Local) -> None:
    """A hanging request gets no response."""
    assert local.service.preview("/").status_code == 200
    local.emulator.fail(Fault("preview", hang=True))
    with pytest.raises(httpx.ReadTimeout):
        local.service.preview("/", timeout=SHORT_S)


def test_delay_each_way(local: Local) -> None:
    """A round trip takes at least twice the one-way delay."""
    assert local.service.server
    local.emulator.fail(Fault("preview", delay_s=0.05))
    with dial(local.service) as made:
        made.recv(timeout=10)
        started = time.monotonic()
        made.send("there and back")
        assert made.recv(timeout=10) == "there and back"
        assert time.monotonic() - started >= 0.1


def test_bandwidth(local: Local) -> None:
    """A limited connection is not faster than its limit, and loses no byte."""
    assert local.service.server
    local.emulator.fail(Fault("preview", bytes_per_s=1_000_000))
    message = bytes(200_000)
    with dial(local.service) as made:
        made.recv(timeout=10)
        started = time.monotonic()
        made.send(message)
        assert made.recv(timeout=10) == message
        assert time.monotonic() - started >= 0.2  # at least; both directions are limited


def test_buffering_proxy(local: Local) -> None:
    """A buffering proxy forwards separate pieces together."""
    assert local.service.server
    local.emulator.fail(Fault("preview", buffer_s=SHORT_S))
    with dial(local.service) as made:
        made.recv(timeout=10)
        started = time.monotonic()
        for number in range(5):
            made.send(str(number))
        assert [made.recv(timeout=10) for _ in range(5)] == [str(number) for number in range(5)]
        assert time.monotonic() - started >= 2 * SHORT_S


def test_replay(local: Local) -> None:
    """A small POST reaches the app twice and has one response."""
    assert local.service.preview("/").status_code == 200
    local.emulator.fail(Fault("preview", replay=True))
    assert local.service.preview("/once", method="POST", content=b"body").status_code == 200
    assert local.service.preview("/seen").json().count("/once") == 2


def test_replay_of_an_unanswered_request(local: Local) -> None:
    """The proxy repeats a small request without a response once, and never a large one."""
    assert local.service.preview("/die/small", method="POST", content=b"x").status_code == 502
    assert local.service.preview("/die/large", method="POST", content=b"x" * (300 << 10)).status_code == 502
    seen = local.service.preview("/seen").json()
    assert (seen.count("/die/small"), seen.count("/die/large")) == (2, 1)


def test_rotated_token(own: Callable[..., Local]) -> None:
    """An old token is valid while it is cached, for 2 min; an invalid one is cached for 5 s."""
    emulator, service = own()
    link = service.server.get_preview_link(service.port)

    def status(token: str) -> int:
        return service.plain.get(link.url, headers={TOKEN_HEADER: token}).status_code

    assert status(link.token) == 200
    emulator.rotate_token(service.server.id)
    assert status(link.token) == 200
    emulator.advance(121)
    assert status(link.token) == 401
    fresh = service.server.get_preview_link(service.port).token
    assert status(fresh) == 200


def test_token_tried_too_early(own: Callable[..., Local]) -> None:
    """A refused token stays refused for 5 s, even if it has become valid."""
    emulator, service = own()
    link = service.server.get_preview_link(service.port)
    record = emulator.server.world.fleet.by_id(service.server.id)
    assert record is not None
    assert service.plain.get(link.url, headers={TOKEN_HEADER: "later"}).status_code == 401
    record.preview_token = "later"
    assert service.plain.get(link.url, headers={TOKEN_HEADER: "later"}).status_code == 401
    emulator.advance(6)
    assert service.plain.get(link.url, headers={TOKEN_HEADER: "later"}).status_code == 200


def test_without_token_caches(own: Callable[..., Local]) -> None:
    """Without caches, a rotated token is refused at once."""
    emulator, service = own(token_caches=False)
    link = service.server.get_preview_link(service.port)
    emulator.rotate_token(service.server.id)
    assert service.plain.get(link.url, headers={TOKEN_HEADER: link.token}).status_code == 401


def test_new_refusal(local: Local) -> None:
    """A newer server refuses with 401 and a JSON body."""
    link = local.service.server.get_preview_link(local.service.port)
    answer = local.service.plain.get(link.url)
    assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHORIZED")


def test_old_refusal(own: Callable[..., Local]) -> None:
    """An old server redirects to a login page, which a WebSocket client cannot follow."""
    service = own(generation="old").service
    link = service.server.get_preview_link(service.port)
    answer = service.plain.get(link.url, follow_redirects=False)
    assert answer.status_code == 307
    assert answer.headers["Location"].startswith("http")
    assert "pkce_verifier" in answer.cookies
    # websockets 17 follows the redirect to an address without ws:; 16 handles it as a refusal.
    with pytest.raises((InvalidURI, InvalidHandshake)), connect(link.url.replace("http", "ws", 1), proxy=None):
        pass
    nothing = service.server.get_preview_link(3999)
    refused = service.plain.get(nothing.url, headers={TOKEN_HEADER: nothing.token})
    assert (refused.status_code, refused.content) == (502, b"")


@pytest.mark.parametrize("status", [409, 400])
def test_change_in_progress(own: Callable[..., Local], status: int) -> None:
    """A change during a change is refused with the configured status and the same text."""
    emulator, service = own(busy_status=status)
    emulator.fail(Fault("start", hang=True))
    made = service.api.post("/sandbox", json={}).json()
    answer = service.api.delete(f"/sandbox/{made['id']}")
    assert (answer.status_code, answer.json()["message"]) == (status, "Sandbox state change in progress")


def test_create_that_hangs(local: Local) -> None:
    """The SDK gives up and names the unfinished sandbox, which cannot be deleted meanwhile."""
    local.emulator.fail(Fault("start", hang=True))
    with pytest.raises(DaytonaTimeoutError) as caught:
        local.service.sdk.create(local.service.params(), timeout=1)
    sandbox_id = caught.value.sandbox_id
    assert sandbox_id
    left = local.service.sdk.get(sandbox_id)
    assert state_of(left) == "creating"
    with pytest.raises(DaytonaConflictError):
        left.delete()


def test_create_that_fails(local: Local) -> None:
    """A start may end in an error with a reason; the sandbox exists and can be deleted."""
    local.emulator.fail(Fault("start", error="no runner has room"))
    with pytest.raises(DaytonaError, match="error state"):
        local.service.sdk.create(local.service.params(name="broken"), timeout=30)
    left = local.service.sdk.get("broken")
    assert (state_of(left), left.error_reason) == ("error", "no runner has room")
    left.delete()  # wait=True may confuse a late event of the start's error with the deletion
    until(lambda: local.service.api.get(f"/sandbox/{left.id}").status_code == 404, "the deletion")


def test_create_whose_answer_is_lost(local: Local) -> None:
    """The response times out, but the sandbox exists."""
    local.emulator.fail(Fault("api", operation="createSandbox", status=504, after=True))
    with pytest.raises(DaytonaTimeoutError):
        local.service.sdk.create(local.service.params(name="lost"), timeout=30)
    left = local.service.sdk.get("lost")
    left.wait_for_sandbox_start()
    left.delete()


def test_create_that_is_refused(local: Local) -> None:
    """Without ``after``, no sandbox is created."""
    local.emulator.fail(Fault("api", operation="createSandbox", refuse=True, times=None))
    with pytest.raises(DaytonaError):
        local.service.sdk.create(local.service.params(name="never"), timeout=30)
    assert local.service.api.get("/sandbox/never").status_code == 404


def test_rate_limit(local: Local) -> None:
    """A 429 has the configured headers."""
    made = local.service.shared
    headers = {"Retry-After-default": "7", "X-RateLimit-Remaining-default": "0"}
    local.emulator.fail(Fault("api", operation="getSandbox", status=429, headers=headers))
    with pytest.raises(DaytonaRateLimitError) as caught:
        local.service.sdk.get(made.id)
    assert {name.lower(): value for name, value in (caught.value.headers or {}).items()}["retry-after-default"] == "7"


def test_slow_start(own: Callable[..., Local]) -> None:
    """The delay of a slow start is on the emulator's clock, which can be moved."""
    emulator, service = own()
    emulator.fail(Fault("start", delay_s=300))
    made = service.api.post("/sandbox", json={}).json()
    assert made["state"] == "creating"
    emulator.advance(299)
    assert service.api.get(f"/sandbox/{made['id']}").json()["state"] == "creating"
    emulator.advance(2)
    until(lambda: service.api.get(f"/sandbox/{made['id']}").json()["state"] == "started", "the start")


def test_dead_daemon(local: Local) -> None:
    """All processes have ended, but the state is unchanged."""
    with local.service.sandbox() as made:
        port = start_app(made)
        link = made.get_preview_link(port)
        headers = {TOKEN_HEADER: link.token}
        with connect(link.url.replace("http", "ws", 1), additional_headers=headers, proxy=None) as open_one:
            open_one.recv(timeout=10)
            local.emulator.kill_daemon(made.id)
            with pytest.raises(ConnectionClosed):
                open_one.recv(timeout=10)
        with pytest.raises(DaytonaBadGatewayError):
            made.process.exec("true")
        assert local.service.plain.get(link.url, headers=headers).status_code == 502
        made.refresh_data()
        assert made.state == SandboxState.STARTED


def test_out_of_memory(own: Callable[..., Local]) -> None:
    """The state is ``started`` for minutes, then ``stopped`` without a reason; files are kept."""
    emulator, service = own()
    with service.sandbox() as made:
        made.fs.upload_file(b"kept", "kept.txt")
        emulator.out_of_memory(made.id)
        with pytest.raises(DaytonaBadGatewayError):
            made.process.exec("true")
        emulator.advance(140)
        made.refresh_data()
        assert made.state == SandboxState.STARTED
        emulator.advance(20)
        until(lambda: service.api.get(f"/sandbox/{made.id}").json()["state"] == "stopped", "the stop")
        assert service.api.get(f"/sandbox/{made.id}").json()["errorReason"] is None
        made.start()
        assert made.fs.download_file("kept.txt") == b"kept"


def test_exec_whose_answer_is_lost(local: Local) -> None:
    """The command ran although its response was lost."""
    local.emulator.fail(Fault("toolbox", operation="executeCommand", status=502, after=True))
    with pytest.raises(DaytonaBadGatewayError):
        local.service.shared.process.exec("echo once >> ran.txt")
    assert local.service.shared.process.exec("cat ran.txt").result == "once\n"


def test_fault_of_one_sandbox(local: Local) -> None:
    """A fault of one sandbox does not affect others."""
    local.emulator.fail(Fault("toolbox", sandbox=local.service.shared.name, status=500, times=None))
    assert local.service.toolbox("GET", "/work-dir", local.service.server).status_code == 200
    assert local.service.toolbox("GET", "/work-dir").status_code == 500


def test_concurrent_faults_strike_once(local: Local) -> None:
    """A single fault applies to one of many concurrent requests."""
    assert local.service.preview("/").status_code == 200
    local.emulator.fail(Fault("preview", status=503))
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(local.service.preview("/").status_code)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] * 7 + [503]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"on": "moon"}, "one of api"), ({"on": "preview", "times": 0}, "at least once")],
)
def test_wrong_faults(wrong: dict[str, Any], says: str) -> None:
    """An invalid fault is refused with the reason."""
    with pytest.raises(ValueError, match=says):
        Fault(**wrong)
